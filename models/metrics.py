"""How good labels are: mergeable counts, so that workers can measure parts and a driver can add them up."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

IGNORE = 255
"""VOC's id for pixels that nobody judged."""


@dataclass
class Confusion:
    """Pixel counts int64 [num_classes, num_classes], gold in rows, labels in columns.

    Ids run from 0 to num_classes - 1, background included. Gold pixels of `ignore` or outside that range are not
    judged; label ids outside it count as wrong (an extra column), never as missing.
    """

    num_classes: int
    ignore: int = IGNORE
    counts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.num_classes, self.num_classes + 1), np.int64)

    def update(
        self,
        gold: npt.NDArray[np.integer],
        label: npt.NDArray[np.integer],
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one image: class ids [H, W] each; keep: bool [H, W], the pixels to judge (None: all)."""
        if gold.shape != label.shape:
            raise ValueError(f"gold covers {gold.shape} pixels, the label {label.shape}")
        judged = (gold != self.ignore) & (gold >= 0) & (gold < self.num_classes)
        if keep is not None:
            judged &= keep
        given = label[judged].astype(np.int64)
        given[(given < 0) | (given >= self.num_classes)] = self.num_classes
        flat = gold[judged].astype(np.int64) * (self.num_classes + 1) + given
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: "Confusion") -> "Confusion":
        """Add another part's counts to this one, and return it."""
        self.counts += other.counts
        return self

    def iou(self) -> npt.NDArray[np.float64]:
        """IoU float64 [num_classes]; NaN for classes that do not occur in the gold masks."""
        hit = np.diag(self.counts).astype(np.float64)
        occurs = self.counts.sum(1)
        union = occurs + self.counts[:, : self.num_classes].sum(0) - hit
        return np.where(occurs > 0, hit / np.maximum(union, 1), np.nan)

    def mean_iou(self, ids: Iterable[int] | None = None) -> float:
        """Mean IoU over the classes that occur in the gold masks, of all or of these ids; NaN if none of them does."""
        values = self.iou() if ids is None else self.iou()[list(ids)]
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def recall(self) -> npt.NDArray[np.float64]:
        """Share of each class's gold pixels that the label gives it, float64 [num_classes]; NaN without gold pixels."""
        occurs = self.counts.sum(1)
        return np.where(occurs > 0, np.diag(self.counts) / np.maximum(occurs, 1), np.nan)

    def accuracy(self) -> float:
        """Share of the judged pixels that are right; NaN if none was judged."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")


@dataclass
class Calibration:
    """Does a confidence of p mean that a share of p is right? Mergeable counts over equal bins of confidence.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    bins: int = 15
    pixels: npt.NDArray[np.int64] = field(init=False)
    right: npt.NDArray[np.int64] = field(init=False)
    confidence: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.bins, np.int64)
        self.right = np.zeros(self.bins, np.int64)
        self.confidence = np.zeros(self.bins, np.float64)

    def update(self, confidence: npt.NDArray[np.floating], right: npt.NDArray[np.bool_]) -> None:
        """Add judged pixels: confidence 0..1 and whether the label is right there, arrays of one shape."""
        where = np.clip((confidence * self.bins).astype(np.int64), 0, self.bins - 1).reshape(-1)
        self.pixels += np.bincount(where, minlength=self.bins)
        self.right += np.bincount(where, weights=right.reshape(-1), minlength=self.bins).astype(np.int64)
        self.confidence += np.bincount(where, weights=confidence.reshape(-1), minlength=self.bins)

    def update_counts(
        self, confidence: npt.NDArray[np.floating], pixels: npt.NDArray[np.integer], right: npt.NDArray[np.integer]
    ) -> None:
        """Add judged pixels that were counted by their confidence: all of them and the right ones, arrays [n]."""
        where = np.clip((confidence * self.bins).astype(np.int64), 0, self.bins - 1)
        self.pixels += np.bincount(where, pixels, self.bins).astype(np.int64)
        self.right += np.bincount(where, right, self.bins).astype(np.int64)
        self.confidence += np.bincount(where, confidence * pixels, self.bins)

    def merge(self, other: "Calibration") -> "Calibration":
        """Add another part's counts to this one, and return it."""
        self.pixels += other.pixels
        self.right += other.right
        self.confidence += other.confidence
        return self

    def error(self) -> float:
        """Expected calibration error 0..1: mean |confidence - share right| over bins, by pixels; NaN for no pixels."""
        total = self.pixels.sum()
        return float(np.abs(self.confidence - self.right).sum() / total) if total else float("nan")


@dataclass
class TradeOff:
    """How right what is kept is, for every confidence threshold. Mergeable counts by level 0..255 of confidence, int64.

    Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017.
    """

    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    right: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))

    def update(self, levels: npt.NDArray[np.uint8], right: npt.NDArray[np.bool_]) -> None:
        """Add judged pixels: confidence 0..255 and whether the label is right there, arrays of one shape."""
        self.pixels += np.bincount(levels.reshape(-1), minlength=256)
        self.right += np.bincount(levels[right].reshape(-1), minlength=256)

    def merge(self, other: "TradeOff") -> "TradeOff":
        """Add another part's counts to this one, and return it."""
        self.pixels += other.pixels
        self.right += other.right
        return self

    def coverage(self) -> npt.NDArray[np.float64]:
        """Share of the pixels whose confidence is at least each level, float64 [256], falling; NaN for no pixels."""
        return coverage_by_level(self.pixels)

    def precision(self) -> npt.NDArray[np.float64]:
        """Share of those that are right, float64 [256]; NaN where there are none."""
        kept = np.cumsum(self.pixels[::-1])[::-1]
        return np.where(kept > 0, np.cumsum(self.right[::-1])[::-1] / np.maximum(kept, 1), np.nan)


def coverage_by_level(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of pixels whose confidence is at least each level, from counts by level; NaN for no pixels."""
    total = pixels.sum()
    return np.cumsum(pixels[::-1])[::-1] / total if total else np.full(len(pixels), np.nan)


@dataclass
class KeptShare:
    """How much of each gold class a confidence policy keeps. Mergeable counts, int64 [num_classes]."""

    num_classes: int
    ignore: int = IGNORE
    pixels: npt.NDArray[np.int64] = field(init=False)
    kept: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.num_classes, np.int64)
        self.kept = np.zeros(self.num_classes, np.int64)

    def update(self, gold: npt.NDArray[np.integer], keep: npt.NDArray[np.bool_]) -> None:
        """Add one image: gold class ids [H, W], and which of its pixels are kept, bool [H, W]."""
        judged = (gold != self.ignore) & (gold >= 0) & (gold < self.num_classes)
        self.pixels += np.bincount(gold[judged], minlength=self.num_classes)
        self.kept += np.bincount(gold[judged & keep], minlength=self.num_classes)

    def merge(self, other: "KeptShare") -> "KeptShare":
        """Add another part's counts to this one, and return it."""
        self.pixels += other.pixels
        self.kept += other.kept
        return self

    def per_class(self) -> npt.NDArray[np.float64]:
        """Kept share of each gold class, float64 [num_classes]; NaN for classes that do not occur."""
        return np.where(self.pixels > 0, self.kept / np.maximum(self.pixels, 1), np.nan)

    def coverage(self) -> float:
        """Kept share of all judged pixels; NaN if there are none."""
        total = self.pixels.sum()
        return float(self.kept.sum() / total) if total else float("nan")


@dataclass
class BoundaryF:
    """Do the outlines lie where the gold masks have them? Mergeable counts of boundary pixels, int64 [num_classes].

    A boundary pixel of a class has one of its four neighbours in another class; the image's own border makes none.
    Precision is the share of the label's boundary pixels with a gold boundary pixel of the class within `tolerance_px`,
    recall the reverse, F their harmonic mean. Csurka et al., "What is a good evaluation measure for semantic
    segmentation?", BMVC 2013; Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
    Segmentation", CVPR 2016. Pixels are summed over all images before F is taken, as for IoU.

    Pixels that nobody judged have no boundary, nor has the label beside them, but for narrow bands (to twice the
    tolerance), such as VOC draws around every object: there the gold boundary runs midway.
    """

    num_classes: int
    ignore: int = IGNORE
    tolerance_px: int = 3
    gold: npt.NDArray[np.int64] = field(init=False)
    found: npt.NDArray[np.int64] = field(init=False)
    label: npt.NDArray[np.int64] = field(init=False)
    right: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        if self.tolerance_px < 0:
            raise ValueError(f"tolerance_px is a distance in pixels, not {self.tolerance_px}")
        self.gold, self.found, self.label, self.right = (np.zeros(self.num_classes, np.int64) for _ in range(4))

    def update(self, gold: npt.NDArray[np.integer], label: npt.NDArray[np.integer]) -> None:
        """Add one image: class ids [H, W] each."""
        if gold.shape != label.shape:
            raise ValueError(f"gold covers {gold.shape} pixels, the label {label.shape}")
        judged = (gold != self.ignore) & (gold >= 0) & (gold < self.num_classes)
        gold, judged = _close_bands(gold, judged, self.tolerance_px)
        edges, drawn = _boundary(gold, judged), _boundary(label, judged)
        for index in np.union1d(gold[edges], label[drawn]):
            if 0 <= index < self.num_classes:
                wanted, given = edges & (gold == index), drawn & (label == index)
                self.gold[index] += wanted.sum()
                self.found[index] += (wanted & _within(given, self.tolerance_px)).sum()
                self.label[index] += given.sum()
                self.right[index] += (given & _within(wanted, self.tolerance_px)).sum()

    def merge(self, other: "BoundaryF") -> "BoundaryF":
        """Add another part's counts to this one, and return it."""
        for mine, others in zip(self._counts(), other._counts(), strict=True):
            mine += others
        return self

    def _counts(self) -> tuple[npt.NDArray[np.int64], ...]:
        return self.gold, self.found, self.label, self.right

    def per_class(self) -> npt.NDArray[np.float64]:
        """F float64 [num_classes], 0..1; NaN for classes without a boundary in the gold masks."""
        precision, recall = self.right / np.maximum(self.label, 1), self.found / np.maximum(self.gold, 1)
        both = precision + recall
        return np.where(self.gold > 0, 2 * precision * recall / np.where(both > 0, both, 1), np.nan)

    def mean(self) -> float:
        """Mean F over the classes with a boundary in the gold masks; NaN if there is none."""
        values = self.per_class()
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")


def _close_bands(
    gold: npt.NDArray[np.integer], judged: npt.NDArray[np.bool_], reach_px: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.bool_]]:
    """Gold with narrow unjudged bands given to the nearest judged class, and what counts as judged then.

    Narrow is what an opening with a disc of radius reach_px removes.
    """
    if judged.all() or not judged.any():
        return gold, judged
    distance, nearest = distance_transform_edt(~judged, return_indices=True)
    wide = distance > reach_px
    if wide.any():
        wide = distance_transform_edt(~wide) <= reach_px
    return gold[tuple(nearest)], judged | ~wide


def _boundary(ids: npt.NDArray[np.integer], judged: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Judged pixels with a judged neighbour (of four) of another id, bool [H, W]."""
    edges = np.zeros(ids.shape, bool)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (ids[first] != ids[second]) & judged[first] & judged[second]
        edges[first] |= differ
        edges[second] |= differ
    return edges


def _within(points: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Pixels at most `radius` from a marked one. Boundaries are thin, so stamping a disc on each pixel is quickest."""
    height, width = points.shape
    rows, columns = np.nonzero(points)
    down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = down**2 + right**2 <= radius**2
    near = np.zeros((height + 2 * radius, width + 2 * radius), bool)
    near[rows[:, None] + down[disc] + radius, columns[:, None] + right[disc] + radius] = True
    return near[radius : radius + height, radius : radius + width]


def expand_quarter(values: npt.NDArray[np.generic], height: int, width: int, step: int = 4) -> npt.NDArray[np.generic]:
    """A map kept on every step-th pixel, [ceil(H/step), ceil(W/step)], repeated to [H, W] (as readers should)."""
    return np.repeat(np.repeat(values, step, 0), step, 1)[:height, :width]
