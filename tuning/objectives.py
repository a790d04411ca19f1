"""What a search makes large: names, and numbers from sums of pixel counts.

Counts are int64 [2, C, C + 1], added up over images. With gold: gold in rows, labels in columns, over all judged pixels
and over those that the policy keeps. Without (`agreement`): labels made from masks alone against those from text alone,
and labels against those of the mirrored evidence. *decide* treats left and right alike, so the second is near 1 for
most settings, and the first is what tells them apart.
"""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
NAMES = ("miou", "miou@coverage=0.8", "precision@coverage=0.8", "agreement")
MAP, KEEP = "map", "keep"


@dataclass(frozen=True)
class Objective:
    """One number to be maximised, 0..1.

    metric: miou, precision or agreement. coverage: the share of the judged pixels that has to be kept, or None for
    all pixels whatever the policy keeps.
    """

    name: str
    metric: str
    coverage: float | None = None

    @property
    def parts(self) -> frozenset[str]:
        """The steps of *decide* whose fields can change it."""
        return frozenset({"frame", "scene", MAP}) | ({KEEP} if self.coverage is not None else set())

    @property
    def blind_to(self) -> frozenset[str]:
        """Fields of those steps that cannot change it for another reason."""
        # Text alone and masks alone are compared, so the share between them is ours to set.
        return frozenset({"mask_weight"}) if self.metric == "agreement" else frozenset()

    def value(self, counts: Counts) -> float:
        """The number of these counts; 0 where nothing was found at all."""
        if self.metric == "agreement":
            return (_mean(iou(counts[0])[1:]) + _mean(iou(counts[1])[1:])) / 2
        if self.coverage is None:
            return _mean(iou(counts[0])) if self.metric == "miou" else _precision(counts[0])
        total, kept = int(counts[0].sum()), int(counts[1].sum())
        number = _mean(iou(counts[1])) if self.metric == "miou" else _precision(counts[1])
        # Keeping less than was asked for is not worth more: what is missing counts as wrong.
        return number * min(1.0, kept / max(self.coverage * total, 1.0))


def parse_objective(text: str) -> Objective:
    """Raises ValueError, naming the nearest objective there is."""
    match = re.fullmatch(r"(miou|precision)(?:@coverage=([\d.]+))?|agreement", text)
    if match is None or text == "precision":
        close = difflib.get_close_matches(text, NAMES, 1, 0.3)
        raise ValueError(f"{text!r} is no objective; " + (f"did you mean {close[0]}?" if close else f"known: {NAMES}"))
    if match[2] is None:
        return Objective(text, match[1] or "agreement")
    try:
        coverage = float(match[2])
    except ValueError:
        coverage = math.nan
    if not 0 < coverage <= 1:
        raise ValueError(f"{text!r}: coverage is a share of the pixels, above 0 and at most 1")
    return Objective(text, match[1], coverage)


def gold_counts(
    gold: npt.NDArray[np.int16], label: npt.NDArray[np.int16], keep: npt.NDArray[np.bool_], classes: int
) -> Counts:
    """Pixel counts of one image [2, C, C + 1]: of all judged pixels, and of the kept ones.

    gold, label [H, W]: common indices 0..C-1; C in gold: not judged, in label: a class that the gold does not know.
    """
    wide = classes + 1
    # One pass, with a row for the pixels that are not judged; at most 2 * 256 * 256 cells.
    cells = (keep * np.int32(wide) + gold) * np.int32(wide) + label
    found = np.bincount(cells.reshape(-1), minlength=2 * wide * wide).reshape(2, wide, wide)[:, :classes]
    return np.stack([found[0] + found[1], found[1]]).astype(np.int64)


def numbers(counts: Counts, objectives: tuple[Objective, ...]) -> dict[str, float]:
    """The objectives by name and, where there is gold, what a person wants to see beside them."""
    found = {one.name: one.value(counts) for one in objectives}
    if objectives[0].metric == "agreement":
        return found | {"text_masks_iou": _mean(iou(counts[0])[1:]), "flip_iou": _mean(iou(counts[1])[1:])}
    return found | {
        "miou": _mean(iou(counts[0])),
        "kept_miou": _mean(iou(counts[1])),
        "kept_precision": _precision(counts[1]),
        "coverage": float(counts[1].sum() / max(counts[0].sum(), 1)),
    }


def iou(counts: Counts) -> npt.NDArray[np.float64]:
    """IoU by class of the counts [C, C + 1] of one part; NaN where a class is neither there nor found."""
    from models.metrics import Confusion

    confusion = Confusion(len(counts))
    confusion.counts = counts
    return confusion.iou()


def _mean(values: npt.NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else 0.0


def _precision(counts: Counts) -> float:
    total = int(counts.sum())
    return float(np.trace(counts) / total) if total else 0.0


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """For people and JSON: five digits."""
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
