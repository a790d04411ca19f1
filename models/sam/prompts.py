"""Prompts for SAM, in fractions of the picture's width and height, so that they fit any resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prompts:
    """N prompts of one picture. A prompt is a box, points, or both.

    boxes: float32 [N, 4], x0 y0 x1 y1 as fractions 0..1; a row of NaN is "no box".
    points: float32 [N, K, 2], x y as fractions; labels: int8 [N, K], 1 object, 0 background, -1 "no point".
    ambiguous: bool [N], True asks for SAM's three alternative masks, False for its single one.
    source: uint8 [N], an index into models.evidence.MASK_SOURCES.
    """

    boxes: Floats
    points: Floats
    labels: npt.NDArray[np.int8]
    ambiguous: npt.NDArray[np.bool_]
    source: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of_boxes(cls, boxes: Floats, source: int) -> "Prompts":
        """One prompt a box."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        n = len(boxes)
        return cls(
            boxes,
            np.zeros((n, 0, 2), np.float32),
            np.zeros((n, 0), np.int8),
            np.zeros(n, bool),
            np.full(n, source, np.uint8),
        )

    @classmethod
    def of_points(
        cls, points: Floats, source: int, labels: npt.NDArray[np.int8] | None = None, ambiguous: bool = True
    ) -> "Prompts":
        """One prompt for each row of points, [N, 2] (one object point each) or [N, K, 2] with labels [N, K]."""
        points = np.asarray(points, np.float32)
        points = points.reshape(-1, 1, 2) if points.ndim < 3 else points
        n, k = points.shape[:2]
        return cls(
            np.full((n, 4), np.nan, np.float32),
            points,
            np.ones((n, k), np.int8) if labels is None else labels.astype(np.int8),
            np.full(n, ambiguous, bool),
            np.full(n, source, np.uint8),
        )

    @classmethod
    def concat(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """All prompts in order; shorter point lists are filled with "no point"."""
        k = max((part.points.shape[1] for part in parts), default=0)
        filled = [_with_points(part, k) for part in parts]
        if not filled:
            return cls.of_boxes(np.zeros((0, 4), np.float32), 0)
        return cls(
            np.concatenate([part.boxes for part in filled]),
            np.concatenate([part.points for part in filled]),
            np.concatenate([part.labels for part in filled]),
            np.concatenate([part.ambiguous for part in filled]),
            np.concatenate([part.source for part in filled]),
        )


def _with_points(prompts: Prompts, k: int) -> Prompts:
    missing = k - prompts.points.shape[1]
    if missing == 0:
        return prompts
    return Prompts(
        prompts.boxes,
        np.pad(prompts.points, ((0, 0), (0, missing), (0, 0))),
        np.pad(prompts.labels, ((0, 0), (0, missing)), constant_values=-1),
        prompts.ambiguous,
        prompts.source,
    )
