"""How pixels moved between the classes of two snapshots: a confusion matrix of old against new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.class_fields import plain
from pipelines.classes import ClassSet
from pipelines.flow.past import run_classes
from pipelines.migrations import UNKNOWN, read_class
from pipelines.nightly.sides import IDS, AreaSums, ClassKey, Side, Sides, merged
from pipelines.stages.decide import read_png


@dataclass
class Flow:
    """Pixels by old class (rows) and new class (columns).

    ids, names: of the C classes, background among them, by id. counts: int64 [C+1, C+1]; the last row holds pixels of
    images that only the new side has, the last column those that only the old side has; an image whose size changed
    counts as one that went and one that came. changed: asset -> share of its pixels whose class is another one, 0..1,
    for all images that both sides have and whose row is not the same; the others did not change.
    """

    ids: Sequence[int]
    names: Sequence[str]
    counts: npt.NDArray[np.int64] = field(init=False)
    changed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.ids) + 1
        self.counts = np.zeros((size, size), np.int64)

    def iou(self) -> npt.NDArray[np.float64]:
        """IoU of old against new, float64 [C], over images that both sides have; NaN for classes in neither."""
        both = self.counts[:-1, :-1]
        hit = np.diag(both).astype(np.float64)
        union = both.sum(0) + both.sum(1) - hit
        return np.where(union > 0, hit / np.maximum(union, 1), np.nan)

    def gained(self) -> npt.NDArray[np.int64]:
        """Pixels that are of a class now and were of another before, int64 [C], over images that both sides have."""
        both = self.counts[:-1, :-1]
        return both.sum(0) - np.diag(both)

    def lost(self) -> npt.NDArray[np.int64]:
        """Pixels that were of a class and are of another now, int64 [C], likewise."""
        both = self.counts[:-1, :-1]
        return both.sum(1) - np.diag(both)

    def add(self, old: npt.NDArray[np.int64], new: npt.NDArray[np.int64]) -> tuple[float, npt.NDArray[np.int64]]:
        """Add an image: indices [H, W] each. Returns the share of its pixels that changed, 1 where its size did, and
        its own counts, int64 [C, C], all zero where its size did."""
        size = len(self.ids)
        if old.shape != new.shape:
            self.went(np.bincount(old.ravel(), minlength=size))
            self.came(np.bincount(new.ravel(), minlength=size))
            return 1.0, np.zeros((size, size), np.int64)
        moved = np.bincount(old.ravel() * size + new.ravel(), minlength=size * size).reshape(size, size)
        self.counts[:-1, :-1] += moved
        return 1.0 - float(np.trace(moved)) / max(1, old.size), moved

    def came(self, pixels: npt.NDArray[np.int64]) -> None:
        """Add pixels by class, int64 [C], of images that only the new side has."""
        self.counts[-1, :-1] += pixels

    def went(self, pixels: npt.NDArray[np.int64]) -> None:
        """Add pixels by class, int64 [C], of images that only the old side has."""
        self.counts[:-1, -1] += pixels

    def stayed(self, pixels: npt.NDArray[np.int64]) -> None:
        """Add pixels by class, int64 [C], of images that are the same on both sides."""
        diagonal = np.arange(len(self.ids))
        self.counts[diagonal, diagonal] += pixels


class Classes:
    """A common index, 0..C-1, for the classes of two sides, in the words of the newest class set of the new side.

    Classes of older sets are what its migrations made of them, else they are matched by name; an id alone counts only
    within one output and between sets whose ids are stable. A pixel of a class that was split is of the part that it is
    given, for nobody can say that it changed. What the newest set does not know stands for itself.
    """

    COLUMNS = ("class_map", "class_set_digest")  # what `pair` needs of rows

    def __init__(self, sides: Sides) -> None:
        (names, runs), (old_names, old_runs) = merged(*sides.sums.new), merged(*sides.sums.old)
        last = max(runs, key=lambda digest: runs[digest], default="")
        self._now = run_classes(sides.new.output, runs[last]) if last else None
        self._entries: dict[int | str, tuple[int, str]] = {}
        self._split: dict[int | str, frozenset[int]] = {}
        new = self._keys(names, sides.new.output, runs, True)
        old = self._keys(old_names, sides.old.output, old_runs, sides.new.output == sides.old.output)
        ordered = sorted(self._entries, key=lambda key: self._entries[key])
        self.ids = [self._entries[key][0] for key in ordered]
        self.names = [self._entries[key][1] for key in ordered]
        place = {key: index for index, key in enumerate(ordered)}
        self._new, self._old = ({found: place[key] for found, key in keys.items()} for keys in (new, old))
        parts = {place[key]: [place[id] for id in ids if id in place] for key, ids in self._split.items()}
        self._parts = {index: found for index, found in parts.items() if found}

    def pair(
        self, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices [H, W] of the class maps of an asset's two rows, which have COLUMNS."""
        before, after = _indices(self._old, old), _indices(self._new, new)
        for whole, parts in self._parts.items():
            if before.shape == after.shape:
                before = np.where((before == whole) & np.isin(after, parts), after, before)
        return before, after

    def old_pixels(self, sums: AreaSums) -> npt.NDArray[np.int64]:
        """Pixels by index, int64 [C], of rows of the old side."""
        return self._pixels(self._old, sums)

    def new_pixels(self, sums: AreaSums) -> npt.NDArray[np.int64]:
        return self._pixels(self._new, sums)

    def _pixels(self, place: Mapping[ClassKey, int], sums: AreaSums) -> npt.NDArray[np.int64]:
        out = np.zeros(len(self.ids), np.int64)
        for key, count in sums.pixels.items():
            out[place[key]] += count
        return out

    def _keys(
        self, names: Mapping[ClassKey, str], output: str, runs: Mapping[str, str], by_id: bool
    ) -> dict[ClassKey, int | str]:
        """What classes of rows are: an id of the newest set, or a name that it does not know."""
        sets = {digest: run_classes(output, run_id) for digest, run_id in runs.items() if digest}
        found: dict[ClassKey, int | str] = {}
        for (digest, number), name in names.items():
            id = self._id_now(sets.get(digest), number, name, by_id)
            key: int | str = plain(name) if id is None else id
            self._entries.setdefault(key, (number, name) if id is None else (id, self._name(id)))
            found[digest, number] = key
        return found

    def _id_now(self, made_with: ClassSet | None, number: int, name: str, by_id: bool) -> int | None:
        """The id in the newest set; None where it has none."""
        now = self._now
        if now is None:
            return None
        if by_id and made_with and made_with.stable and now.stable and number in {entry.id for entry in now.classes}:
            return number
        synonyms = {entry.id: entry.synonyms for entry in made_with.classes} if made_with else {}
        id = read_class(now, number, (name, *synonyms.get(number, ())))
        if id == UNKNOWN:
            self._split[plain(name)] = now.lineage.split_into(name) or now.lineage.split_into(number)
        return None if id == UNKNOWN else id

    def _name(self, id: int) -> str:
        return next((entry.name for entry in self._now.classes if entry.id == id), "background") if self._now else ""


def _indices(place: Mapping[ClassKey, int], row: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    digest = row["class_set_digest"] or ""
    table = np.zeros(IDS, np.int64)
    for (made_with, number), index in place.items():
        if made_with == digest:
            table[number] = index
    return table[read_png(row["class_map"])]


def begin(sides: Sides, classes: Classes) -> Flow:
    """A flow that holds what needs no map: images that stayed as they were, those that came, and those that went."""
    flow = Flow(classes.ids, classes.names)
    flow.stayed(classes.new_pixels(sides.sums.same))
    flow.came(classes.new_pixels(sides.sums.fresh))
    flow.went(classes.old_pixels(sides.sums.gone))
    return flow


def snapshot_flow(old: Side | str, new: Side | str) -> Flow:
    """How the labels of `new` differ from those of `old`: two snapshots of one output, or of two.

    Either is a Side, `OUT` or `OUT@SNAPSHOT`. Maps are read in pairs, a few at a time, and only where the two sides do
    not share the row. Raises UsageError for a snapshot that is not there.
    """
    sides = Sides(*(Side.open(side) if isinstance(side, str) else side for side in (old, new)))
    classes = Classes(sides)
    flow = begin(sides, classes)
    for before, after in sides.pairs(Classes.COLUMNS):
        flow.changed[after["asset"]] = flow.add(*classes.pair(before, after))[0]
    return flow
