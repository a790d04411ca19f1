"""How classes became what they are: renamed, split, merged, retired; each a record by stable id.

In the file of the class set, in the order in which it happened:

    migrations:
      - {rename: 8, was: cat}                          # what it is called now, the class set says
      - {split: 15, was: person, into: [21, 22]}       # new ids: nobody can tell which of them an old pixel is
      - {merge: [6, 7], was: [bus, car], into: 23}     # or into one of them: `into: 6`
      - {retire: 4, was: boat}                         # its pixels are background, if the set has one

`was` is the name that the class had until then. An id never changes its meaning: what was split, merged away or
retired leaves its id unused for good. So an id means the same whenever it was written, and labels, maps that people
drew, weak labels and students of any time are read with one table: nothing is observed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.class_fields import ClassSetError, check_keys, id_of, names_of, plain

if TYPE_CHECKING:
    from pipelines.classes import ClassSet

KINDS = ("rename", "split", "merge", "retire")
UNKNOWN = -1
"""What a pixel is whose class was split, or retired from a set without a background."""


@dataclass(frozen=True)
class Migration:
    """kind: of KINDS. ids: of the classes that it happened to. was: their names until then. into: what they became."""

    kind: str
    ids: tuple[int, ...]
    was: tuple[str, ...]
    into: tuple[int, ...] = ()

    def __str__(self) -> str:
        return str(self.to_dict()).replace("'", "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as it stands in a file."""
        several = self.kind == "merge"
        found: dict[str, Any] = {self.kind: list(self.ids) if several else self.ids[0]}
        found["was"] = list(self.was) if several else self.was[0]
        if self.into:
            found["into"] = self.into[0] if several else list(self.into)
        return found


def parse_migrations(value: Any) -> tuple[Migration, ...]:
    """From the parsed `migrations` of a file. Raises ClassSetError."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ClassSetError(f"`migrations` is a list of records such as {{rename: 8, was: cat}}, not {value!r}")
    return tuple(_parse(item, f"migration {number}") for number, item in enumerate(value, 1))


def _parse(item: Any, where: str) -> Migration:
    if not isinstance(item, Mapping):
        raise ClassSetError(f"{where}: expected a mapping such as {{rename: 8, was: cat}}, not {item!r}")
    check_keys(item, (*KINDS, "was", "into"), where)
    kinds = [kind for kind in KINDS if kind in item]
    if len(kinds) != 1:
        raise ClassSetError(f"{where}: it is one of {', '.join(KINDS)}, with the id; this names {kinds or 'none'}")
    kind = kinds[0]
    ids = _ids(item[kind], f"{where}, {kind}")
    was = names_of(item.get("was") or (), f"{where}, was")
    into = _ids(item.get("into", []), f"{where}, into")
    if (len(ids) < 2) if kind == "merge" else len(ids) != 1:
        told = "two ids or more" if kind == "merge" else "one id"
        raise ClassSetError(f"{where}: {kind} takes {told}, not {list(ids)}")
    if len(was) != len(ids):
        raise ClassSetError(f"{where}: `was` names what each of {list(ids)} was called until then, not {list(was)}")
    if (len(into) < 2) if kind == "split" else len(into) != (kind == "merge"):
        told = {"split": "the ids of two classes or more", "merge": "the id of one class"}.get(kind, "nothing")
        raise ClassSetError(f"{where}: `into` of a {kind} is {told}, not {list(into)}")
    return Migration(kind, ids, was, into)


def _ids(value: Any, where: str) -> tuple[int, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    found = tuple(id_of(one, where) for one in values)
    if len(set(found)) != len(found):
        raise ClassSetError(f"{where}: an id is named twice: {list(found)}")
    return found


@dataclass(frozen=True)
class Lineage:
    """What earlier ids and names mean in a class set.

    ids: every id that went, to the one it means now (the background's for a retired class), or UNKNOWN. names: the same
    for every name that a class no longer has, in plain spelling. former: plain names that an id has had. narrower: ids
    and plain names that mean less than the class they became (one of several that were merged). parts: what a class
    was split into, by its id and its plain name, as far as it is in the set.
    """

    ids: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[str, int] = field(default_factory=dict)
    former: Mapping[int, frozenset[str]] = field(default_factory=dict)
    narrower: frozenset[int | str] = frozenset()
    parts: Mapping[int | str, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, migrations: Sequence[Migration], names: Mapping[int, Sequence[str]], background: int | None
    ) -> "Lineage":
        """names: of the classes of the set, by id. Raises ClassSetError for records that contradict each other, the
        set, or a name that is in use."""
        if not migrations:
            return cls()
        gone = _gone(migrations, names)
        present = {id for id in names if id not in gone}

        def now(id: int) -> int:
            if id in present:
                return id
            record = gone[id]
            if record.kind == "merge":
                return now(record.into[0])
            return UNKNOWN if record.kind == "split" or background is None else background

        def parts(id: int) -> frozenset[int]:
            if id in present:
                return frozenset({id})
            return frozenset().union(*(parts(one) for one in gone[id].into))

        told = [(id, plain(was), r) for r in migrations for id, was in zip(r.ids, r.was, strict=True)]
        earlier = {name: now(id) for id, name, _ in told}
        _check_names(told, names, now)
        former: dict[int, set[str]] = {id: {plain(name) for name in names[id]} for id in present}
        for id, name, _ in told:
            former.setdefault(id, set()).add(name)
        narrower = {key for id, name, record in told if record.kind == "merge" for key in (id, name)}
        split = {key: parts(id) for id, name, _ in told if now(id) == UNKNOWN for key in (id, name)}
        return cls(
            {id: now(id) for id in gone},
            earlier,
            {id: frozenset(found) for id, found in former.items()},
            frozenset(narrower),
            split,
        )

    def retired(self, key: object, background: int | None) -> bool:
        """Whether an id or name is that of a class that is background now."""
        found = self._meaning(key)
        return found is not None and found == background

    def silent(self, key: object) -> bool:
        """Whether an id or name is that of a class that says nothing any more."""
        return self._meaning(key) == UNKNOWN

    def is_narrower(self, key: object) -> bool:
        """Whether an id or name meant a part only of what it means now: its absence is not the absence of that."""
        return (plain(key) if isinstance(key, str) else key) in self.narrower

    def split_into(self, key: object) -> frozenset[int]:
        """Ids of what a class was split into, for its id or name."""
        return self.parts.get(plain(key) if isinstance(key, str) else key, frozenset())  # type: ignore[call-overload]

    def _meaning(self, key: object) -> int | None:
        if isinstance(key, str):
            return self.names.get(plain(key))
        return self.ids.get(key) if isinstance(key, int) and not isinstance(key, bool) else None


def _gone(migrations: Sequence[Migration], names: Mapping[int, Sequence[str]]) -> dict[int, Migration]:
    """The record by which every id went that went. Raises ClassSetError."""
    gone: dict[int, Migration] = {}
    for number, record in enumerate(migrations, 1):
        for id in (*record.ids, *record.into):
            if id in gone:
                raise ClassSetError(
                    f"migration {number} ({record}) speaks of the class {id}, which went before ({gone[id]}): an id "
                    "is never used again, give the class a new one"
                )
        if record.kind == "split" and record.ids[0] in record.into:
            raise ClassSetError(
                f"migration {number} ({record}): what a class is split into has new ids, or nobody could tell what "
                f"{record.ids[0]} means in older labels"
            )
        if record.kind != "rename":
            gone |= {id: record for id in record.ids if id not in record.into}
    for record in migrations:
        for id in (*record.ids, *record.into):
            if id not in gone and id not in names:
                raise ClassSetError(
                    f"the migration {record} speaks of the class {id}, which the class set does not have"
                )
    if back := sorted(gone.keys() & names.keys()):
        raise ClassSetError(
            f"the class {names[back[0]][0]!r} has the id {back[0]}, which went ({gone[back[0]]}): an id is never used "
            "again, give the class a new one"
        )
    return gone


def _check_names(told: Sequence[tuple[int, str, Migration]], names: Mapping[int, Sequence[str]], now: Any) -> None:
    """Raises ClassSetError where a name would mean two things."""
    meant: dict[str, int] = {plain(name): id for id, own in names.items() for name in own}
    for id, name, record in told:
        if (target := meant.setdefault(name, now(id))) != now(id):
            other = names[target][0] if target in names else "a class that went"
            raise ClassSetError(
                f"{name!r} is ambiguous: by the migration {record} it was the class {id}, and it names {other!r} "
                "too; give the newer one another name, or, where a class came back, take the record out and give it "
                "its old id"
            )


@dataclass(frozen=True)
class Translation:
    """Reads ids of one class set as ids of another. table: int32 by old id, UNKNOWN where it says nothing. unmatched:
    names of old classes that the other set knows nothing of."""

    table: npt.NDArray[np.int32]
    unmatched: tuple[str, ...]

    @classmethod
    def of(cls, old: "ClassSet", new: "ClassSet") -> "Translation":
        """By the migrations that `new` records, else by name."""
        found: dict[int, int] = {}
        unmatched = []
        if old.background is not None:
            found[old.background.id] = new.background.id if new.background else UNKNOWN
        for entry in old.classes:
            target = read_class(new, entry.id, (entry.name, *entry.synonyms))
            if target is None:
                unmatched.append(entry.name)
            found[entry.id] = UNKNOWN if target is None else target
        table = np.full(max(found) + 1, UNKNOWN, np.int32)
        table[list(found)] = list(found.values())
        return cls(table, tuple(unmatched))

    def ids(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """The ids [...] in the other set, int32; UNKNOWN for ids of no class."""
        known = (ids >= 0) & (ids < len(self.table))
        return np.where(known, self.table[np.where(known, ids, 0)], UNKNOWN).astype(np.int32)


def read_class(classes: "ClassSet", id: int, names: Sequence[str]) -> int | None:
    """The id that a class of another set (its id, its name and synonyms) has in this one: the background's for one
    that was retired, UNKNOWN for one that was split, None for one that the set knows nothing of."""
    lineage = classes.lineage
    if lineage.former.get(id, frozenset()) & {plain(name) for name in names}:
        return lineage.ids.get(id, id)
    for name in names:
        row = classes.index(name)
        if row is not None:
            background = classes.background.id if classes.background else UNKNOWN
            return classes.classes[row].id if row >= 0 else background
        if lineage.silent(name):
            return UNKNOWN
    return None


def check_change(old: "ClassSet", new: "ClassSet") -> None:
    """Raises ClassSetError where a class of `old` (the set of the newest labels) has no clear place in `new`.

    Sets whose ids are mere positions (`stable: false`) promise nothing and are not checked.
    """
    if not (old.stable and new.stable):
        return
    now = {entry.id: entry for entry in new.classes}
    for entry in old.classes:
        names = {plain(name) for name in (entry.name, *entry.synonyms)}
        known = new.lineage.former.get(entry.id, frozenset())
        same = now.get(entry.id)
        if names & known or (same and names & {plain(name) for name in (same.name, *same.synonyms)}):
            continue
        raise ClassSetError(_unrecorded(entry.id, entry.name, same.name if same else None, known))


def _unrecorded(id: int, was: str, now: str | None, known: frozenset[str]) -> str:
    if now is None and known:
        return f"class {id}: the labels call it {was!r}, its migration {sorted(known)[0]!r}: correct the record's `was`"
    if now is not None:
        return (
            f"class {id} is {was!r} in the labels and {now!r} now. If it is the same class, record it under "
            f"`migrations:` as {{rename: {id}, was: {was}}}; if {now!r} is another class, give it an id that no class "
            "ever had"
        )
    return (
        f"class {id}, {was!r}, is in the labels and not in the class set. Record under `migrations:` what became of "
        f"it: {{retire: {id}, was: {was}}}, {{split: {id}, was: {was}, into: [ID, ID]}} or "
        f"{{merge: [{id}, OTHER], was: [{was}, NAME], into: ID}}"
    )
