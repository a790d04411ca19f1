"""How pixels moved between the classes of two snapshots: a confusion matrix of old against new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.nightly.sides import AreaSums, Side, Sides, class_names
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
    """A common index, 0..C-1, for the class ids of two sides: by id within one output, whose ids are stable, by name
    between two."""

    def __init__(self, old: Mapping[int, str], new: Mapping[int, str], by_id: bool) -> None:
        """old, new: class id -> name, background included."""
        entries: dict[object, tuple[int, str]] = {}
        tables = []
        for names in (new, old):
            keys = {number: number if by_id else " ".join(name.casefold().split()) for number, name in names.items()}
            for number, key in keys.items():
                entries.setdefault(key, (number, names[number]))
            tables.append(keys)
        ordered = sorted(entries, key=lambda key: entries[key])
        self.ids = [entries[key][0] for key in ordered]
        self.names = [entries[key][1] for key in ordered]
        place = {key: index for index, key in enumerate(ordered)}
        self._new, self._old = ({number: place[key] for number, key in keys.items()} for keys in tables)
        self._new_table, self._old_table = _table(self._new), _table(self._old)

    def old(self, class_map: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Indices [H, W] of a class map of the old side."""
        return self._old_table[class_map]

    def new(self, class_map: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The same of the new side."""
        return self._new_table[class_map]

    def old_pixels(self, sums: AreaSums) -> npt.NDArray[np.int64]:
        """Pixels by index, int64 [C], of rows of the old side."""
        return self._pixels(self._old, sums)

    def new_pixels(self, sums: AreaSums) -> npt.NDArray[np.int64]:
        return self._pixels(self._new, sums)

    def _pixels(self, place: Mapping[int, int], sums: AreaSums) -> npt.NDArray[np.int64]:
        out = np.zeros(len(self.ids), np.int64)
        for number, count in sums.pixels.items():
            out[place[number]] += count
        return out


def _table(place: Mapping[int, int]) -> npt.NDArray[np.int64]:
    table = np.zeros(max(place, default=0) + 1, np.int64)
    table[list(place)] = list(place.values())
    return table


def classes_of(sides: Sides) -> Classes:
    """The classes that occur on either side. Reads light columns only."""
    old, new = class_names(*sides.sums.old), class_names(*sides.sums.new)
    return Classes(old, new, sides.old.output == sides.new.output)


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
    classes = classes_of(sides)
    flow = begin(sides, classes)
    for before, after in sides.pairs(["class_map"]):
        maps = classes.old(read_png(before["class_map"])), classes.new(read_png(after["class_map"]))
        flow.changed[after["asset"]] = flow.add(*maps)[0]
    return flow
