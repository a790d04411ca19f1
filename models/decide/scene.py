"""One image while it is decided."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from models.decide.config import DecideConfig
from models.decide.types import ClassArrays, WeakArrays
from models.evidence import Evidence

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """One image before any class is known. Coarse grid = [h, w], the guide's own resolution = [gh, gw].

    guide: float32 [3, gh, gw] and guide_coarse [3, h, w], RGB 0..1.
    flow: [h*w, h*w], the refinement's affinity on the coarse grid.
    masks: float32 [M, h, w], the mask bank, 0..1, with quality [M], 0..1.
    """

    guide: Maps
    guide_coarse: Maps
    flow: csr_matrix
    masks: Maps
    quality: npt.NDArray[np.float32]

    @property
    def size(self) -> tuple[int, int]:
        return self.guide_coarse.shape[1], self.guide_coarse.shape[2]


@dataclass(frozen=True)
class Scene:
    """One image once text and tags have spoken; what the later steps of *decide* share, and do not change.

    rows: intp [K], the class rows that take part; must: bool [K], which of them have to appear.
    heat: float32 [K, h, w], their refined heat, 0..1. best_rows: intp [fh, fw], the class row with the best score in
    each patch, whether it takes part or not. learned: whether what the corpus taught is in the heat.
    """

    frame: Frame
    evidence: Evidence
    classes: ClassArrays
    weak: WeakArrays
    config: DecideConfig
    rows: npt.NDArray[np.intp]
    must: npt.NDArray[np.bool_]
    heat: Maps
    best_rows: npt.NDArray[np.intp]
    learned: bool = False

    @property
    def full(self) -> tuple[int, int]:
        return self.evidence.height, self.evidence.width

    @property
    def size(self) -> tuple[int, int]:
        return self.frame.size

    @property
    def floor(self) -> float | None:
        """Strength below which there is background; None for class sets that have none."""
        config = self.config
        floor = config.background_threshold_learned if self.learned else config.background_threshold
        return None if self.classes.background_id is None else floor

    @property
    def guide(self) -> Maps:
        return self.frame.guide

    @property
    def guide_coarse(self) -> Maps:
        return self.frame.guide_coarse

    @property
    def flow(self) -> csr_matrix:
        return self.frame.flow

    @property
    def masks(self) -> Maps:
        return self.frame.masks

    @property
    def quality(self) -> npt.NDArray[np.float32]:
        return self.frame.quality
