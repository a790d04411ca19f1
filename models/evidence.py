"""Evidence: what the models saw in one image, without knowing the classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Hints:
    """Class-free prompts that a person gave: where something is, not what it is.

    points: float32 [P, 2], x y in pixels of the upright full-size image. boxes: float32 [Q, 4], x0 y0 x1 y1 likewise.
    """

    points: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]

    @classmethod
    def none(cls) -> "Hints":
        return cls(np.zeros((0, 2), np.float32), np.zeros((0, 4), np.float32))


@dataclass(frozen=True)
class MaskBank:
    """Class-agnostic masks of one image, best first, near-duplicates removed.

    probs: uint8 [M, mh, mw], SAM's mask probability (sigmoid of its logit) times 255, over the whole image.
    iou: float32 [M], SAM's own predicted IoU, 0..1. stability: float32 [M], 0..1: IoU of the mask thresholded
    high and low. source: uint8 [M], an index into MASK_SOURCES.
    """

    probs: npt.NDArray[np.uint8]
    iou: npt.NDArray[np.float32]
    stability: npt.NDArray[np.float32]
    source: npt.NDArray[np.uint8]


MASK_SOURCES = ("cluster", "grid", "point", "box", "heat")


@dataclass(frozen=True)
class Evidence:
    """All that *decide* knows of an image.

    height, width: pixels of the upright (EXIF applied) full-size image; every grid below covers exactly that frame.
    features: float32 [h, w, D], dense CLIP patch features in the text space, not normalised.
    embedding: float32 [D], CLIP's global image embedding, unit norm.
    bank: the mask bank. guide: uint8 [gh, gw, 3], RGB, longer side `guide_px` (384) or the image's own if smaller.
    """

    height: int
    width: int
    features: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    bank: MaskBank
    guide: npt.NDArray[np.uint8]
