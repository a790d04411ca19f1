"""A picture in k x k overlapping tiles, and their features put together again on one grid.

After PPL (Li et al., "Weakly Supervised Semantic Segmentation via Progressive Patch Learning", 2022: parts looked at on
their own have to speak for themselves, from coarse to fine) and the crops of ZeroSeg (Chen et al., 2023), here without
any training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Tile:
    """Cells of a grid that a tile covers; y1 and x1 exclusive."""

    y0: int
    x0: int
    y1: int
    x1: int


def cut(grid: tuple[int, int], k: int, overlap: float) -> list[Tile]:
    """k x k tiles of one size, row by row, that cover `grid` (rows, columns) on whole cells; fewer on a tiny grid.

    overlap: share (0..0.75) of a tile that the next one covers too, at least.
    """
    rows, columns = (_intervals(length, k, overlap) for length in grid)
    return [Tile(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns]


def _intervals(length: int, k: int, overlap: float) -> list[tuple[int, int]]:
    size = min(length, math.ceil(length / (k - (k - 1) * overlap)))
    starts = {round(i * (length - size) / (k - 1)) for i in range(k)}
    return [(start, start + size) for start in sorted(starts)]


def stitch(features: Sequence[Tensor], tiles: Sequence[Tile], grid: tuple[int, int]) -> Tensor:
    """Features [B, R, S, D] of the grid, from those of the tiles [B, r, s, D] each, averaged where they overlap."""
    batch, *_, depth = features[0].shape
    total = features[0].new_zeros(batch, *grid, depth)
    count = features[0].new_zeros(1, *grid, 1)
    for one, tile in zip(features, tiles, strict=True):
        cells = slice(tile.y0, tile.y1), slice(tile.x0, tile.x1)
        total[:, *cells] += resample(one, (tile.y1 - tile.y0, tile.x1 - tile.x0))
        count[:, *cells] += 1
    return total / count


def resample(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features [B, h, w, D] on another grid that covers the same frame."""
    if features.shape[1:3] == torch.Size(grid):
        return features
    moved = features.permute(0, 3, 1, 2)
    return functional.interpolate(moved, grid, mode="bilinear", align_corners=False, antialias=True).permute(0, 2, 3, 1)
