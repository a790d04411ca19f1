"""Sums over images that become the numbers of an evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.metrics import BoundaryF, Calibration, Confusion, KeptShare, expand_quarter
from pipelines.evaluation.gold import IGNORED

#: The classes with ten or more images in the reduced VOC val split; their mean IoU is `miou_voc7`.
VOC7 = ("cat", "cow", "dog", "horse", "person", "sheep", "sofa")


@dataclass
class MapScore:
    """Class maps against gold masks: what labels and a student's predictions are both judged by."""

    names: Sequence[str]
    images: int = 0
    pixels: Confusion = field(init=False)
    boundary: BoundaryF = field(init=False)
    calibration: Calibration = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = Confusion(len(self.names), IGNORED)
        self.boundary, self.calibration = BoundaryF(len(self.names), IGNORED), Calibration()

    def update(
        self, gold: npt.NDArray[np.int32], found: npt.NDArray[np.int32], confidence: npt.NDArray[np.floating]
    ) -> None:
        """Add an image: common indices [H, W] each, and confidence [H, W], 0..1."""
        self.images += 1
        self.pixels.update(gold, found)
        self.boundary.update(gold, found)
        judged = gold != IGNORED
        self.calibration.update(confidence[judged], (gold == found)[judged])

    def result(self) -> dict[str, Any]:
        return {
            **summary(self.pixels, self.names),
            "accuracy": _number(self.pixels.accuracy()),
            "boundary_f": _number(self.boundary.mean()),
            "calibration_error": _number(self.calibration.error()),
            "per_class_iou": _named(self.pixels.iou(), self.names),
            "per_class_boundary_f": _named(self.boundary.per_class(), self.names),
        }


@dataclass
class Score:
    """Labels against gold, over all pixels and over those that the policy keeps."""

    names: Sequence[str]
    all: MapScore = field(init=False)
    kept: Confusion = field(init=False)
    share: KeptShare = field(init=False)

    def __post_init__(self) -> None:
        self.all, self.kept = MapScore(self.names), Confusion(len(self.names), IGNORED)
        self.share = KeptShare(len(self.names), IGNORED)

    @property
    def images(self) -> int:
        return self.all.images

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
        self.all.update(gold, label, sure / np.float32(255))
        self.kept.update(gold, label, keep)
        self.share.update(gold, keep)

    def result(self) -> dict[str, Any]:
        return {
            **self.all.result(),
            "coverage": _number(self.share.coverage()),
            "kept_share": _named(self.share.per_class(), self.names),
            "kept": {
                **summary(self.kept, self.names),
                "accuracy": _number(self.kept.accuracy()),
                "per_class_iou": _named(self.kept.iou(), self.names),
            },
        }


def image_iou(
    gold: npt.NDArray[np.int32], found: npt.NDArray[np.int32], classes: int
) -> tuple[float, dict[int, float]]:
    """(mean IoU over the classes in one image's gold, IoU of each); 1 where nothing of the image was judged."""
    confusion = Confusion(classes, IGNORED)
    confusion.update(gold, found)
    mean = confusion.mean_iou()
    per_class = {i: float(value) for i, value in enumerate(confusion.iou()) if not math.isnan(value)}
    return (1.0 if math.isnan(mean) else mean), per_class


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
