"""Which settings and classes differ between sides, and which sides differ by their seed alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.classes import ClassSet
from tuning.comparison.sides import Side, common_start

#: Settings that say where and how a job ran and what is told of it; they change no result.
ELSEWHERE = frozenset({
    "output", "tracking", "execution", "report", "restart", "register_model", "workers", "checkpoint_every_steps",
    "dry_run", "budget", "budget_images", "from_evidence", "retry_quarantined", "publish_anyway", "strict", "pools",
    "page", "page_images",
})  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One setting that is not the same everywhere. values: of each side; None where a side does not know it."""

    name: str
    values: tuple[str | None, ...]


def differences(sides: Sequence[Side]) -> tuple[list[Difference], list[Difference]]:
    """(what can change a result, what cannot), by name."""
    names = sorted({name for side in sides for name in side.settings})
    found = [Difference(name, tuple(side.settings.get(name) for side in sides)) for name in names]
    told = [one for one in found if len(set(one.values)) > 1]
    return [one for one in told if _matters(one.name)], [one for one in told if not _matters(one.name)]


def _matters(name: str) -> bool:
    return name.partition(".")[0] not in ELSEWHERE


def class_changes(before: ClassSet, after: ClassSet) -> list[str]:
    """What happened to the classes from one set to the other, in words; nothing where no label could change."""
    told = []
    old, new = ({entry.name: entry for entry in classes.classes} for classes in (before, after))
    told += [f"{name} is new" for name in new if name not in old]
    told += [f"{name} is gone" for name in old if name not in new]
    for name in (name for name in new if name in old):
        for what in ("id", "prompts", "synonyms"):
            was, now = getattr(old[name], what), getattr(new[name], what)
            if was != now:
                told.append(f"{name}: {what} {_words(was)} → {_words(now)}")
    words = [None if one.background is None else one.background.words for one in (before, after)]
    if words[0] != words[1]:
        told.append(f"background: {_words(words[0])} → {_words(words[1])}")
    if before.templates != after.templates:
        told.append(f"templates: {_words(before.templates)} → {_words(after.templates)}")
    return told


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "no background" if value is None else str(value)


@dataclass(frozen=True)
class Group:
    """Sides that differ by their seed alone; one side alone is a group, too. members: numbers of the sides."""

    name: str
    members: tuple[int, ...]


@dataclass
class _Open:
    members: list[int] = field(default_factory=list)
    seeds: set[str] = field(default_factory=set)


def groups(sides: Sequence[Side]) -> list[Group]:
    """Put sides together, in the order of their first member. A seed that comes twice starts another group: the spread
    is that of seeds, not of repetitions."""
    found: dict[object, list[_Open]] = {}
    for number, side in enumerate(sides):
        seed = side.settings.get("seed")
        key = (side.kind, _without_seed(side.settings)) if seed is not None else number
        places = found.setdefault(key, [])
        place = next((one for one in places if seed not in one.seeds), None)
        if place is None:
            place = _Open()
            places.append(place)
        place.members.append(number)
        place.seeds.add(str(seed))
    together = sorted(one.members for places in found.values() for one in places)
    return [Group(_group_name([sides[n] for n in members]), tuple(members)) for members in together]


def _without_seed(settings: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in settings.items() if name != "seed" and _matters(name))


def _group_name(sides: Sequence[Side]) -> str:
    """What their names, or else their addresses, begin with alike."""
    if len(sides) == 1:
        return sides[0].name
    folder = common_start([side.reference for side in sides]).rpartition("/")[2]
    return f"{common_start([side.name for side in sides]) or folder or sides[0].name} ({len(sides)} seeds)"
