"""What the class-free mask bank says about each class's heat."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.decide.config import DecideConfig
from models.evidence import MaskBank
from models.refine.grids import resize_maps

Maps = npt.NDArray[np.float32]
MIN_COMPONENT_SHARE = 0.002
"""Components smaller than this share of the image are specks of the heat, not objects."""


def bank_on_grid(bank: MaskBank, size: tuple[int, int]) -> Maps:
    """Mask probabilities float32 [M, *size], 0..1."""
    if len(bank.probs) == 0:
        return np.zeros((0, *size), np.float32)
    return resize_maps(bank.probs.astype(np.float32) / 255.0, size)


def soft_iou(maps: Maps, masks: Maps) -> npt.NDArray[np.float32]:
    """Soft overlap float32 [K, M] of maps [K, h, w] and masks [M, h, w], both 0..1: sum of products over soft union."""
    a, b = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
    both = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - both
    return np.asarray(both / np.maximum(union, 1e-6), np.float32)


def components(heat: Maps, threshold: float) -> tuple[list[Maps], list[int]]:
    """The connected parts of each map above threshold: the heat of each part alone [h, w], and its map's row."""
    parts: list[Maps] = []
    rows: list[int] = []
    least = MIN_COMPONENT_SHARE * heat[0].size if len(heat) else 0
    for row, plane in enumerate(heat):
        labelled, count = ndimage.label(plane > threshold)
        if count == 0:
            continue
        sizes = np.bincount(labelled.reshape(-1))
        for index in range(1, count + 1):
            if sizes[index] >= least:
                parts.append(np.where(labelled == index, plane, np.float32(0)))
                rows.append(row)
    return parts, rows


def component_masks(heat: Maps, masks: Maps, quality: npt.NDArray[np.float32], config: DecideConfig) -> Maps:
    """For each class, the masks that fit the components of its heat: float32 [K, h, w], 0..1.

    Each component takes the weighted mean of the `mask_top` masks with the best soft overlap (times quality [M], 0..1);
    one that no mask fits keeps its own heat.
    """
    out = np.zeros_like(heat)
    parts, rows = components(heat, config.component_threshold)
    if not parts:
        return out
    stacked = np.stack(parts)
    # A component's heat fades towards its rim while a mask does not: compare with the heat over its own maximum.
    overlap = soft_iou(stacked / stacked.max((1, 2), keepdims=True), masks) if len(masks) else None
    for index, row in enumerate(rows):
        chosen = best_masks(overlap[index], quality, config) if overlap is not None else None
        part = stacked[index] if chosen is None else np.tensordot(chosen[1], masks[chosen[0]], axes=1)
        out[row] = np.maximum(out[row], part)
    return out


def best_masks(
    fit: npt.NDArray[np.float32], quality: npt.NDArray[np.float32], config: DecideConfig
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]] | None:
    """Indices and weights (sum 1) of the masks that fit best, or None if none reaches mask_min_overlap."""
    rank = np.argsort(-fit * quality, kind="stable")[: config.mask_top]
    rank = rank[fit[rank] >= config.mask_min_overlap]
    if not len(rank):
        return None
    weight = (fit[rank] * quality[rank]) ** config.mask_sharpness
    return rank, np.asarray(weight / max(float(weight.sum()), 1e-8), np.float32)


def region_votes(heat: Maps, masks: Maps, quality: npt.NDArray[np.float32]) -> Maps:
    """Each class painted by the bank: float32 [K, h, w], 0..1.

    A mask's vote for a class is how much hotter the class is inside than outside it; a pixel gets the mean vote of the
    masks that contain it, weighted by quality [M]; pixels in no mask get nothing.
    """
    if not len(masks) or not len(heat):
        return np.zeros_like(heat)
    flat, cover = heat.reshape(len(heat), -1), masks.reshape(len(masks), -1)
    area = cover.sum(1)
    inside = flat @ cover.T
    outside = (flat.sum(1)[:, None] - inside) / np.maximum(cover.shape[1] - area, 1.0)
    contrast = np.maximum(inside / np.maximum(area, 1e-6) - outside, 0)
    votes = (contrast * quality) @ cover / np.maximum(quality @ cover, 1e-3)
    votes /= np.maximum(votes.max(1, keepdims=True), 1e-8)
    return np.asarray(votes.reshape(heat.shape), np.float32)


def mask_quality(bank: MaskBank) -> npt.NDArray[np.float32]:
    """One number for each mask, 0..1: predicted IoU times stability."""
    return np.asarray(np.clip(bank.iou, 0, 1) * np.clip(bank.stability, 0, 1), np.float32)
