"""Resizing of maps between grids that cover the same frame."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

FloatMaps = npt.NDArray[np.float32]


def resize_maps(maps: FloatMaps, size: tuple[int, int]) -> FloatMaps:
    """Bilinear resize of float32 [K, h, w] to [K, *size]; averages over the covered area where it shrinks.

    Pixel centres are half a pixel in (the frame's edges coincide), values outside repeat the border.
    """
    if maps.shape[1:] == tuple(size) or maps.shape[0] == 0:
        return maps if maps.shape[0] else np.zeros((0, *size), np.float32)
    shrinks = size[0] < maps.shape[1] or size[1] < maps.shape[2]
    out = functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[None],
        size=tuple(size),
        mode="bilinear",
        align_corners=False,
        antialias=shrinks,
    )
    return np.asarray(out[0].numpy(), np.float32)


def resize_nearest(values: npt.NDArray[np.integer], size: tuple[int, int]) -> npt.NDArray[np.integer]:
    """Nearest resize of integers [h, w] to [*size], by pixel centres."""
    height, width = values.shape
    rows = np.minimum((np.arange(size[0]) + 0.5) * height / size[0], height - 1).astype(np.intp)
    columns = np.minimum((np.arange(size[1]) + 0.5) * width / size[1], width - 1).astype(np.intp)
    return values[rows[:, None], columns[None, :]]


def fit_grid(height: int, width: int, longer_side: int) -> tuple[int, int]:
    """Rows and columns of a grid with the aspect of height x width and this longer side; at least 1 x 1."""
    scale = longer_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
