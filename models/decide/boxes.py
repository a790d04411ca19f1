"""Boxes: a class only inside its boxes, and something of it in each of them."""

import numpy as np
import numpy.typing as npt

from models.decide.config import DecideConfig
from models.decide.types import WeakArrays

Maps = npt.NDArray[np.float32]
MIN_BOX_MATCH = 0.5
"""A bank mask speaks for a box if the box around the mask and the box overlap by this IoU."""


def grid_boxes(weak: WeakArrays, full: tuple[int, int], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The boxes in pixels of the grid `size`, float32 [Q, 4], clipped to it."""
    scale = np.array([size[1] / full[1], size[0] / full[0]] * 2, np.float32)
    limit = np.array([size[1], size[0]] * 2, np.float32)
    return np.clip(weak.boxes * scale, 0, limit).astype(np.float32)


def inside_box(box: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels that a box x0 y0 x1 y1 touches, bool [*size]; never empty."""
    left, top = (min(int(v), limit - 1) for v, limit in zip(box[:2], (size[1], size[0]), strict=True))
    out = np.zeros(size, bool)
    out[top : max(int(np.ceil(box[3])), top + 1), left : max(int(np.ceil(box[2])), left + 1)] = True
    return out


def inside_boxes(boxes: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels that any of the boxes [Q, 4] touches, bool [*size]."""
    out = np.zeros(size, bool)
    for box in boxes:
        out |= inside_box(box, size)
    return out


def ellipse(box: npt.NDArray[np.float32], size: tuple[int, int]) -> Maps:
    """A soft prior of what fills a box: 1 in its centre, 0.5 on the inscribed ellipse, 0 in its corners."""
    x0, y0, x1, y1 = (float(v) for v in box)
    y = ((np.arange(size[0]) + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 0.5)) ** 2
    x = ((np.arange(size[1]) + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 0.5)) ** 2
    return np.clip(1 - 0.5 * (y[:, None] + x[None]), 0, 1).astype(np.float32)


def mask_boxes(masks: Maps) -> npt.NDArray[np.float32]:
    """The box around each mask's probability above one half, float32 [M, 4]; all zero for masks that have none."""
    out = np.zeros((len(masks), 4), np.float32)
    for index, mask in enumerate(masks > 0.5):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            out[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return out


def box_iou(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """IoU float32 [M] of one box [4] with others [M, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(both / np.maximum(np.prod(box[2:] - box[:2]) + areas - both, 1e-6), np.float32)


def box_map(
    boxes: npt.NDArray[np.float32], heat: Maps, masks: Maps, quality: npt.NDArray[np.float32], config: DecideConfig
) -> Maps:
    """What a class's boxes [Q, 4] say on the grid of heat [h, w]: strength float32 [h, w], 0..1, nothing outside them.

    In each box: the mean of the inscribed ellipse, the best matching bank masks [M, h, w] (where any matches), and the
    heat over its maximum in the box, so that a box the text missed holds something as well.
    """
    size = (heat.shape[0], heat.shape[1])
    strength = np.zeros(size, np.float32)
    around = mask_boxes(masks)
    for box in boxes:
        inside = inside_box(box, size)
        local: Maps = np.where(inside, heat, 0).astype(np.float32)
        readings: list[Maps] = [ellipse(box, size), local / max(float(local.max()), 1e-6)]
        weights = [config.box_ellipse_share, 1 - config.box_ellipse_share]
        match = box_iou(box, around)
        best = np.argsort(-match * quality, kind="stable")[: config.mask_top]
        best = best[match[best] >= MIN_BOX_MATCH]
        if len(best):
            fit = (match[best] * quality[best]) ** config.mask_sharpness
            readings.append(np.tensordot(fit / fit.sum(), masks[best], axes=1))
            weights.append(1.0)
        merged: Maps = np.average(np.stack(readings), axis=0, weights=weights)
        strength = np.maximum(strength, np.where(inside, merged, 0)).astype(np.float32)
    return strength
