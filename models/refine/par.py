"""Pixel-adaptive refinement (PAR): maps flow along like colours and stop at edges.

Ru et al., "Learning Affinity from Attention", CVPR 2022, as used by ExCEL (2025). Here on a coarse grid and as one
sparse matrix, because *decide* runs it for every image: 66 x 88 pixels take a few milliseconds.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@lru_cache(maxsize=32)
def _neighbours(
    height: int, width: int, dilations: tuple[int, ...]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Index int32 [h*w, 8*d] of each pixel's neighbours (the border repeats) and their nominal distances [8*d]."""
    rows, columns = np.mgrid[:height, :width]
    index = [
        np.clip(rows + dy * step, 0, height - 1) * width + np.clip(columns + dx * step, 0, width - 1)
        for step in dilations
        for dy, dx in DIRECTIONS
    ]
    distance = [step * np.hypot(dy, dx) for step in dilations for dy, dx in DIRECTIONS]
    return np.stack(index, -1).reshape(height * width, -1).astype(np.int32), np.asarray(distance, np.float32)


@lru_cache(maxsize=32)
def _row_starts(pixels: int, neighbours: int) -> npt.NDArray[np.int32]:
    return np.arange(0, pixels * neighbours + 1, neighbours, dtype=np.int32)


def _softmax(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax over the last axis, in place; values are <= 0 here, but a whole row may be far below."""
    values -= values.max(-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(-1, keepdims=True)
    return values


def affinity(
    guide: npt.NDArray[np.float32], dilations: tuple[int, ...], color_weight: float, position_weight: float
) -> csr_matrix:
    """Row-stochastic [h*w, h*w]: how much each pixel takes from its neighbours.

    guide: float32 [h, w, channels], any scale (differences are measured against their own spread).
    color_weight: w1, smaller = sharper. position_weight: w2, the share of nearness alone.
    """
    height, width, channels = guide.shape
    index, distance = _neighbours(height, width, tuple(dilations))
    logits = np.zeros(index.shape, np.float32)
    for channel in range(channels):
        values = guide[..., channel].reshape(-1)
        near = values[index]
        # Variance in one pass: differences to the centre pixel are what both terms need.
        near -= values[:, None]
        mean = near.mean(-1)
        np.square(near, out=near)
        variance = near.mean(-1) - mean * mean
        near /= (color_weight**2 * np.maximum(variance, 1e-8))[:, None]
        logits -= near
    logits /= channels
    weights = _softmax(logits)
    if position_weight > 0:
        nearness = _softmax(-np.square(distance / (distance.std() + 1e-8) / color_weight))
        # The original lets rows sum to 1 + w2, so that maps grow with every iteration; a mean keeps their range.
        weights += np.float32(position_weight) * nearness
        weights /= np.float32(1 + position_weight)
    pixels, count = index.shape
    return csr_matrix((weights.reshape(-1), index.reshape(-1), _row_starts(pixels, count)), shape=(pixels, pixels))


def par(
    maps: npt.NDArray[np.float32],
    guide: npt.NDArray[np.float32],
    iterations: int = 10,
    dilations: tuple[int, ...] = (1, 2, 4, 8),
    color_weight: float = 0.3,
    position_weight: float = 0.01,
    strength: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Refine float32 [K, h, w] along the guide float32 [h, w, channels] of the same grid.

    Every value stays within the range of its input map; a constant map stays constant. strength 0..1 blends between
    the input and the refined maps; strength 0 or no iterations return the input itself.
    """
    if guide.shape[:2] != maps.shape[1:]:
        raise ValueError(f"the guide covers {guide.shape[:2]} pixels, the maps {maps.shape[1:]}")
    if strength == 0 or iterations == 0 or maps.shape[0] == 0 or not dilations:
        return maps
    return propagate(maps, affinity(guide, dilations, color_weight, position_weight), iterations, strength)


def propagate(
    maps: npt.NDArray[np.float32], flow: csr_matrix, iterations: int, strength: float = 1.0
) -> npt.NDArray[np.float32]:
    """The second half of `par`: float32 [K, h, w] sent `iterations` times through an affinity [h*w, h*w]."""
    if strength == 0 or iterations == 0 or maps.shape[0] == 0:
        return maps
    refined = np.ascontiguousarray(maps.reshape(len(maps), -1).T)
    for _ in range(iterations):
        refined = flow @ refined
    out = refined.T.reshape(maps.shape)
    return np.ascontiguousarray(maps + np.float32(strength) * (out - maps), dtype=np.float32)
