"""The pixel part of a comparison: which images are opened, and what is counted of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from pipelines.config import UsageError
from pipelines.corpus.base import absolute, kind, walk
from pipelines.corpus.folder import may_be_image
from pipelines.evaluation.gold import Gold, Matching, match, open_gold, read_names
from pipelines.evaluation.photographs import find_photographs, read_photograph
from pipelines.flow.progress import Progress, say
from tuning.comparison.cards import Differing, Judged, judge_all
from tuning.comparison.classes import Common, unite
from tuning.comparison.config import CompareConfig
from tuning.comparison.flow import Flow
from tuning.comparison.judge import Judge
from tuning.comparison.sides import Side
from tuning.comparison.sources import LabelSource, Map, Picture, Source, StudentSource, load_student
from tuning.comparison.survey import Survey, label_keys, survey

CHUNK = 16
PROGRESS_SECONDS = 5.0
#: Sides whose pictures are laid over each other; more are too many to look at.
MAX_SHOWN = 6


@dataclass
class Pixels:
    """What was counted. judges: by number of the side, empty without gold. surveys: of label sides. flows: from the
    first shown side to each of the others. alone: images that only one label side has, by number of the side."""

    common: Common
    shown: tuple[int, ...]
    matching: Matching | None
    gold: Gold | None
    flows: list[Flow]
    differing: Differing | None
    judges: dict[int, Judge] = field(default_factory=dict)
    surveys: dict[int, Survey] = field(default_factory=dict)
    alone: dict[int, list[str]] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What is opened. items: (name, asset of each side by its number). photographs: by name, where students look.
    unchanged: assets whose label is the same on all sides."""

    items: Sequence[tuple[str, Mapping[int, str]]]
    photographs: Mapping[str, str]
    unchanged: frozenset[str]
    shared: int


class Reader:
    """Opens what the sides have, for as long as the comparison lasts."""

    def __init__(self, config: CompareConfig, sides: Sequence[Side]) -> None:
        self.config, self.sides = config, sides
        self.labels = [n for n, side in enumerate(sides) if side.snapshot is not None]
        looks = bool(config.gold.uri or config.gold.images)
        able = [n for n, side in enumerate(sides) if side.snapshot is None and side.student is not None]
        self.students = able if looks else []
        self.notes = [] if looks or not able else [
            "predictions of students are compared with --gold.uri (masks), or --gold.images (photographs alone)"
        ]  # fmt: skip
        self._predictors = {n: load_student(sides[n], config) for n in self.students}
        self.common = unite([self._classes(n) for n in self.numbers]) if self.numbers else None

    @property
    def numbers(self) -> list[int]:
        """Of the sides that have maps."""
        return sorted([*self.labels, *self.students])

    @cached_property
    def keys(self) -> dict[int, Mapping[str, str | None]]:
        """By number of each label side: its assets, and what their labels came from."""
        return {n: label_keys(snapshot) for n in self.labels if (snapshot := self.sides[n].snapshot) is not None}

    def _classes(self, number: int) -> Any:
        from pipelines.evaluation.model import class_set

        snapshot = self.sides[number].snapshot
        return class_set(self._predictors[number].card) if snapshot is None else snapshot.classes

    def open_gold(self) -> Gold | None:
        """The masks, or None without --gold.uri. Raises UsageError."""
        told = self.config.gold
        if not told.uri:
            return None
        if not self.numbers:
            raise UsageError("--gold.uri: none of the runs has labels or a student that can be judged; leave it out")
        only = None if told.list is None else read_names(told.list)
        default = self._classes(self.numbers[0])
        return open_gold(
            told.uri, told.split, told.classes, default, told.ignore, only, read_names(self.config.exclude)
        )

    def plan(self, gold: Gold | None) -> Work:
        """Which images are opened. Raises UsageError where the sides have none in common."""
        have: list[set[str]] = [set(found) for found in self.keys.values()]
        shared = set.intersection(*have) if have else set()
        if self.keys and not shared:
            raise UsageError(f"{' and '.join(self.sides[n].reference for n in self.keys)} have no image in common")
        masks = _masks(gold, shared) if gold else {}
        if self.students:
            return self._plan_photographs(gold, shared)
        same = frozenset(asset for asset in shared if _equal([found[asset] for found in self.keys.values()]))
        opened = [asset for asset in shared if asset not in same or asset in masks]
        assets = [(asset, dict.fromkeys(self.labels, asset)) for asset in opened]
        return Work(assets, {}, same - set(opened), len(shared))

    def _plan_photographs(self, gold: Gold | None, shared: set[str]) -> Work:
        told = self.config.gold
        if gold is not None:
            photographs = find_photographs(gold, told.images)
        else:
            photographs = _list_photographs(told.images or "")
            gold = Gold("", photographs, self._classes(self.numbers[0]), told.ignore)
        by_name = {gold.name_of(asset): asset for asset in shared}
        wanted = sorted(photographs) if not self.labels else sorted(name for name in photographs if name in by_name)
        if not wanted:
            raise UsageError("no photograph belongs to a labeled image: --gold.images names the labels' photographs")
        items = [(name, {n: by_name[name] if n in self.labels else name for n in self.numbers}) for name in wanted]
        return Work(items, photographs, frozenset(), len(wanted))

    def sources(self, work: Work) -> dict[int, Source]:
        assert self.common is not None
        found: dict[int, Source] = {}
        for n in self.numbers:
            snapshot = self.sides[n].snapshot
            if snapshot is not None:
                found[n] = LabelSource(snapshot, self.common, {assets[n] for _, assets in work.items})
            else:
                found[n] = StudentSource(self.sides[n], self._predictors[n], self.common)
        return found


def _masks(gold: Gold, assets: Collection[str]) -> dict[str, str]:
    """The gold mask of each asset that has one. Raises UsageError where two have the same."""
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for asset in assets:
        name = gold.name_of(asset)
        if name is None:
            continue
        if name in owner:
            raise UsageError(f"two labels belong to the gold mask {name!r}: {asset!r} and {owner[name]!r}")
        found[asset], owner[name] = name, asset
    return found


def _equal(keys: Sequence[str | None]) -> bool:
    """Whether labels are known to be the same; those that do not say what they came from are not."""
    return len(keys) == 1 or (keys[0] is not None and len(set(keys)) == 1)


def _list_photographs(images: str) -> dict[str, str]:
    folder = absolute(images)
    if kind(folder) != "folder":
        raise UsageError(f"--gold.images: there is no folder {folder}")
    found = {
        entry.path.rpartition(".")[0] or entry.path: entry.uri for entry in walk(folder) if may_be_image(entry.path)
    }
    if not found:
        raise UsageError(f"--gold.images: there is no photograph in {folder}")
    return found


def count(config: CompareConfig, sides: Sequence[Side], shown: Sequence[int]) -> tuple[Pixels | None, list[str]]:
    """(everything that only pixels tell, None where no side has any; what a person should know of it). shown: numbers
    of the sides that are wanted on the page. Raises UsageError, and ValueError for sizes that differ from the gold's.
    """
    reader = Reader(config, sides)
    gold = reader.open_gold()
    if reader.common is None:
        return None, reader.notes
    common = reader.common
    shown = tuple(n for n in shown if n in reader.numbers)[:MAX_SHOWN]
    matching = match(gold.classes, common.classes, gold.ignore) if gold else None
    names = [sides[n].name for n in shown]
    differing = Differing(common, names, matching, config.page_images) if len(shown) > 1 else None
    pixels = Pixels(common, shown, matching, gold, [], differing)
    pixels.flows = [Flow(len(common.names)) for _ in shown[1:]]
    if matching is not None:
        judged = {n: Judge(matching.names, sides[n].snapshot is not None) for n in reader.numbers}
        pixels.judges = judged
    if len(reader.numbers) < 2 and gold is None:
        _survey(pixels, sides, frozenset())
        return pixels, reader.notes
    work = reader.plan(gold)
    _tell(work)
    _alone(pixels, reader)
    _survey(pixels, sides, work.unchanged)
    _walk(pixels, reader, work)
    if gold is not None and not any(judge.by_image != [] for judge in pixels.judges.values()):
        raise UsageError("--gold.uri: none of the gold masks belongs to an image that all sides have")
    return pixels, reader.notes


def _tell(work: Work) -> None:
    looked = f"{len(work.items):,} of {work.shared:,} images that all have are opened"
    say(f"compare: {looked}" + ("; the labels of the others are the same" if work.unchanged else ""))


def _alone(pixels: Pixels, reader: Reader) -> None:
    for n, assets in reader.keys.items():
        others = [found for m, found in reader.keys.items() if m != n]
        if others:
            pixels.alone[n] = sorted(asset for asset in assets if any(asset not in found for found in others))


def _survey(pixels: Pixels, sides: Sequence[Side], unchanged: frozenset[str]) -> None:
    for n, side in enumerate(sides):
        if side.snapshot is not None:
            pixels.surveys[n] = survey(side.snapshot, pixels.common, unchanged)
    if unchanged and pixels.shown:
        same = pixels.surveys[pixels.shown[0]].unchanged
        for flow in pixels.flows:
            flow.same(same, len(unchanged))


def _walk(pixels: Pixels, reader: Reader, work: Work) -> None:
    sources = reader.sources(work)
    progress = Progress("compare", len(work.items), PROGRESS_SECONDS)
    for name, answers, picture in _answers(sources, work):
        _add(pixels, sources, name, answers, picture)
        progress.add(1)
    progress.close()


def _answers(sources: Mapping[int, Source], work: Work) -> Iterator[tuple[str, dict[int, Map], Picture | None]]:
    """(name, each side's map, photograph where students look) of every item; a chunk of them in memory."""
    ordered = _in_file_order(sources, work)
    for chunk in (ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)):
        pictures = [read_photograph(work.photographs[name]) for name, _ in chunk] if work.photographs else []
        found = {n: one.maps([assets[n] for _, assets in chunk], pictures) for n, one in sources.items()}
        for place, (name, _) in enumerate(chunk):
            yield name, {n: maps[place] for n, maps in found.items()}, pictures[place] if pictures else None


def _in_file_order(sources: Mapping[int, Source], work: Work) -> list[tuple[str, Mapping[int, str]]]:
    """The items as the first label table has them, so that its files are read once."""
    first = next(((n, one) for n, one in sources.items() if isinstance(one, LabelSource)), None)
    if first is None:
        return list(work.items)
    number, source = first
    by_asset = {assets[number]: (name, assets) for name, assets in work.items}
    return [by_asset[asset] for asset in source.lookup.assets]


def _add(
    pixels: Pixels, sources: Mapping[int, Source], name: str, answers: Mapping[int, Map], picture: Picture | None
) -> None:
    judged = _judge(pixels, name, answers)
    shown = [answers[n] for n in pixels.shown]
    if len(shown) < 2:
        return
    if len({one.found.shape for one in shown}) > 1:
        pixels.resized.append(name)
        return
    for flow, other in zip(pixels.flows, shown[1:], strict=True):
        flow.update(shown[0].found, other.found, other.cause(shown[0]))
    assert pixels.differing is not None
    pixels.differing.add(name, shown, judged, picture if picture is not None else _photo(pixels, sources, answers))


def _photo(pixels: Pixels, sources: Mapping[int, Source], answers: Mapping[int, Map]) -> Callable[[], Picture]:
    """Where no student looked, all sides are labels."""
    source, row = sources[pixels.shown[0]], answers[pixels.shown[0]].row
    assert isinstance(source, LabelSource) and row is not None
    return partial(source.photo, row)


def _judge(pixels: Pixels, name: str, answers: Mapping[int, Map]) -> Judged | None:
    gold, matching = pixels.gold, pixels.matching
    mask_name = gold.name_of(name) or (name if name in gold.masks else None) if gold else None
    if gold is None or matching is None or mask_name is None:
        return None
    mask = gold.read(mask_name)
    indices = matching.gold(mask)
    for n, answer in answers.items():
        if answer.found.shape != mask.shape:
            raise ValueError(f"{name}: the label covers {answer.found.shape} pixels, its gold mask {mask.shape}")
        pixels.judges[n].update(indices, matching.label(answer.found), answer)
    return judge_all(matching, indices, [answers[n].found for n in pixels.shown])
