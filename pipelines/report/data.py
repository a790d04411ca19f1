"""What the report page is made from: plain records that know nothing of tables, Ray or HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.decide.types import PROVENANCE

HISTOGRAM_BINS = 20

__all__ = ["PROVENANCE", "QuarantineRow", "ReportClass", "ReportData", "ReportItem", "Totals"]


@dataclass(frozen=True)
class ReportClass:
    """One class as the page shows it. color: RGB, each 0..255."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class ReportItem:
    """One labeled image, ready to be drawn.

    guide: uint8 [gh, gw, 3], RGB. class_map: integer [H, W], class ids at full resolution.
    confidence: uint8 [ceil(H/4), ceil(W/4)], 0..255 = probability 0..1. provenance: uint8, same grid, index of the
    source that decided. keep_threshold: confidence (0..1) from which a pixel is kept. coverage: share of pixels
    kept, 0..1. mean_confidence: 0..1. areas: class id -> share of the image, 0..1. weak: the weak labels in words.
    predicted: the IoU that is expected of it and the ends of its interval, 0..1; None where nobody predicted it.
    accepted: whether that is enough. violations: rules of the classes that the label breaks, in words.
    """

    asset: str
    guide: npt.NDArray[np.uint8]
    class_map: npt.NDArray[np.integer]
    confidence: npt.NDArray[np.uint8]
    provenance: npt.NDArray[np.uint8]
    keep_threshold: float
    coverage: float
    mean_confidence: float
    areas: Mapping[int, float]
    weak: str = ""
    predicted: tuple[float, float, float] | None = None
    accepted: bool = False
    violations: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuarantineRow:
    """One asset that could not be processed, the stage that refused it, and why."""

    asset: str
    stage: str
    reason: str


@dataclass
class Totals:
    """Sums over every labeled image, whether the page shows it or not. Memory grows with classes, not with images.

    area, kept: class id -> sum over images of the class's share of the image (all pixels, kept pixels).
    images_with: class id -> number of images where the class occurs. image_bins: int64 [20], images by mean
    confidence. pixel_bins: int64 [20], pixels of the confidence grids by confidence; all zero where none were given.
    """

    images: int = 0
    coverage: float = 0.0
    area: dict[int, float] = field(default_factory=dict)
    kept: dict[int, float] = field(default_factory=dict)
    images_with: dict[int, int] = field(default_factory=dict)
    image_bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    pixel_bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))

    def count(
        self,
        areas: Mapping[int, float],
        kept: Mapping[int, float] | None,
        coverage: float,
        mean_confidence: float,
        confidence: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Add one image. areas, kept: class id -> share of the image, 0..1; confidence: uint8 grid or None."""
        self.images += 1
        self.coverage += coverage
        for class_id, share in areas.items():
            if share > 0:
                self.area[class_id] = self.area.get(class_id, 0.0) + share
                self.images_with[class_id] = self.images_with.get(class_id, 0) + 1
        for class_id, share in (kept or {}).items():
            self.kept[class_id] = self.kept.get(class_id, 0.0) + share
        self.image_bins[min(int(mean_confidence * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1
        if confidence is not None:
            levels = np.bincount(confidence.ravel(), minlength=256)
            bins = np.minimum(np.arange(256) * HISTOGRAM_BINS // 255, HISTOGRAM_BINS - 1)
            np.add.at(self.pixel_bins, bins, levels)


@dataclass
class ReportData:
    """Everything on the page. `items` may be any stream; only the selected images are held.

    summary: the run's numbers, shown in order. config: the resolved config as text. images: most photographs shown.
    totals: over all images; counted from `items` where None.
    """

    title: str
    summary: Mapping[str, object]
    config: str
    classes: Sequence[ReportClass]
    items: Iterable[ReportItem] = ()
    quarantine: Iterable[QuarantineRow] = ()
    totals: Totals | None = None
    background_id: int | None = 0
    sources: Sequence[str] = PROVENANCE
    images: int = 60
