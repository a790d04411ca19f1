"""Sums over images that become the numbers of an evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.metrics import Calibration, Confusion, KeptShare, expand_quarter
from pipelines.evaluation.gold import IGNORED

#: The classes with ten or more images in the reduced VOC val split; their mean IoU is `miou_voc7`.
VOC7 = ("cat", "cow", "dog", "horse", "person", "sheep", "sofa")


@dataclass
class Score:
    """Labels against gold, over all pixels and over those that the policy keeps."""

    names: Sequence[str]
    images: int = 0
    all: Confusion = field(init=False)
    kept: Confusion = field(init=False)
    share: KeptShare = field(init=False)
    calibration: Calibration = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.names)
        self.all, self.kept = Confusion(count, IGNORED), Confusion(count, IGNORED)
        self.share, self.calibration = KeptShare(count, IGNORED), Calibration()

    def update(
        self,
        gold: npt.NDArray[np.int32],
        label: npt.NDArray[np.int32],
        confidence: npt.NDArray[np.uint8],
        keep_threshold: float,
    ) -> None:
        """Add an image: common indices [H, W] each, and the confidence grid [ceil(H/4), ceil(W/4)]."""
        sure = expand_quarter(confidence, *gold.shape).astype(np.uint8)
        keep = sure >= round(keep_threshold * 255)  # as `decide` counts coverage
        self.images += 1
        self.all.update(gold, label)
        self.kept.update(gold, label, keep)
        self.share.update(gold, keep)
        judged = gold != IGNORED
        self.calibration.update(sure[judged].astype(np.float32) / 255, (gold == label)[judged])

    def result(self) -> dict[str, Any]:
        return {
            **summary(self.all, self.names),
            "accuracy": _number(self.all.accuracy()),
            "calibration_error": _number(self.calibration.error()),
            "per_class_iou": _named(self.all.iou(), self.names),
            "coverage": _number(self.share.coverage()),
            "kept_share": _named(self.share.per_class(), self.names),
            "kept": {
                **summary(self.kept, self.names),
                "accuracy": _number(self.kept.accuracy()),
                "per_class_iou": _named(self.kept.iou(), self.names),
            },
        }


def summary(confusion: Confusion, names: Sequence[str]) -> dict[str, float | None]:
    """`miou` over all classes that occur in the gold (background included) and `miou_voc7`; null for no class."""
    seven = [names.index(name) for name in VOC7 if name in names]
    return {
        "miou": _number(confusion.mean_iou()),
        "miou_voc7": _number(confusion.mean_iou(seven)) if seven else None,
    }


def _named(values: npt.NDArray[np.float64], names: Sequence[str]) -> dict[str, float | None]:
    return {name: _number(float(value)) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
