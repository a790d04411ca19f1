"""What *decide* takes beside the evidence, and what it returns. Plain arrays; coordinates are full-size pixels."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.corpus.bias import BiasStats
from models.corpus.cosegment import References
from models.corpus.head import Head

PROVENANCE = (
    "background", "text", "mask", "tag", "point", "scribble", "box", "partial", "noisy", "student", "human", "localiser"
)  # fmt: skip
"""Stored as indices: what is new comes last."""


@dataclass(frozen=True)
class ClassArrays:
    """The foreground classes as rows.

    ids: int32 [C], the value a class has in the class map, 0..65535. names: C names.
    background_id: the id of what is none of the classes; None for class sets that cover every pixel (CamVid).
    """

    ids: npt.NDArray[np.int32]
    names: list[str]
    background_id: int | None = 0


@dataclass(frozen=True, eq=False)
class TextBank:
    """What is known of the looks of a class set; compared by identity, so that what is derived from it can be cached.

    emb: float32 [P, D], embedded prompts, unit norm. class_of: int32 [P], row in ClassArrays, -1 = background word.
    head, references, bias: what a corpus taught about the classes, if it did.
    """

    emb: npt.NDArray[np.float32]
    class_of: npt.NDArray[np.int32]
    head: Head | None = None
    references: References | None = None
    bias: BiasStats | None = None


@dataclass(frozen=True)
class WeakArrays:
    """What people or systems already said of one image, in class rows (0..C-1) and full-size pixels.

    present: bool [C], or None where the tags are unknown. A complete tag list has absent = ~present.
    absent: bool [C], classes that must not appear.
    points: float32 [N, 2] x y; point_classes: int32 [N], -1 = background.
    scribbles: (float32 [K, 2] polyline, width in pixels, class row or -1) each.
    boxes: float32 [Q, 4] x0 y0 x1 y1; box_classes: int32 [Q].
    partial, noisy: int32 [H, W] of class *ids* (background's id included), -1 = says nothing; or None.
    human: the same, from people who corrected an earlier label; nothing overrules it.
    """

    present: npt.NDArray[np.bool_] | None
    absent: npt.NDArray[np.bool_]
    points: npt.NDArray[np.float32]
    point_classes: npt.NDArray[np.int32]
    scribbles: list[tuple[npt.NDArray[np.float32], float, int]]
    boxes: npt.NDArray[np.float32]
    box_classes: npt.NDArray[np.int32]
    partial: npt.NDArray[np.int32] | None = None
    noisy: npt.NDArray[np.int32] | None = None
    human: npt.NDArray[np.int32] | None = None

    @classmethod
    def none(cls, num_classes: int) -> "WeakArrays":
        """Nothing is known of the image."""
        return cls(
            present=None,
            absent=np.zeros(num_classes, bool),
            points=np.zeros((0, 2), np.float32),
            point_classes=np.zeros(0, np.int32),
            scribbles=[],
            boxes=np.zeros((0, 4), np.float32),
            box_classes=np.zeros(0, np.int32),
        )


@dataclass(frozen=True)
class Label:
    """What was decided for one image.

    class_map: uint8 or uint16 [H, W], class ids at full resolution; nothing is left out of it.
    confidence: uint8 [ceil(H/4), ceil(W/4)], probability of the mapped class times 255.
    provenance: uint8, same grid, index into PROVENANCE: the source that decided the pixel.
    keep_threshold: 0..1; a reader that wants trusted pixels only uses those with confidence / 255 >= it.
    coverage: share of the image's pixels that this keeps. mean_confidence: 0..1.
    areas: class id -> share of the image, present ids only. kept_areas: the same over kept pixels (still of the image).
    disagreement: 0..1, how much text heat, masks and tags contradict each other.
    """

    class_map: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    confidence: npt.NDArray[np.uint8]
    provenance: npt.NDArray[np.uint8]
    keep_threshold: float
    coverage: float
    mean_confidence: float
    areas: dict[int, float] = field(default_factory=dict)
    kept_areas: dict[int, float] = field(default_factory=dict)
    disagreement: float = 0.0
