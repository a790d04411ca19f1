"""One image while it is decided."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from models.decide.config import DecideConfig
from models.decide.types import ClassArrays, WeakArrays
from models.evidence import Evidence

Maps = npt.NDArray[np.float32]


@dataclass
class Scene:
    """What the steps of *decide* share. Coarse grid = [h, w], the guide's own resolution = [gh, gw].

    rows: intp [K], the class rows that take part; heat: float32 [K, h, w], their refined heat, 0..1.
    flow: [h*w, h*w], the refinement's affinity on the coarse grid.
    masks: float32 [M, h, w], the mask bank, 0..1, with quality [M], 0..1.
    guide: float32 [3, gh, gw] and guide_coarse [3, h, w], RGB 0..1.
    """

    evidence: Evidence
    classes: ClassArrays
    weak: WeakArrays
    config: DecideConfig
    rows: npt.NDArray[np.intp]
    heat: Maps
    flow: csr_matrix
    masks: Maps
    quality: npt.NDArray[np.float32]
    guide: Maps
    guide_coarse: Maps

    @property
    def full(self) -> tuple[int, int]:
        return self.evidence.height, self.evidence.width

    @property
    def size(self) -> tuple[int, int]:
        return self.guide_coarse.shape[1], self.guide_coarse.shape[2]
