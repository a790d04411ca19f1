"""Class prototypes of each image, from the pixels that somebody labeled, and how much every pixel belongs to them.

One code path for every form of annotation: points, scribbles, boxes, blocks and dense maps are all partial label maps.
"""

import torch
from torch import Tensor

from models.losses.types import IGNORE, in_float32


class PrototypeField:
    """A Gaussian around the mean feature of each class that is labeled in an image (AGMM, CVPR 2023).

    Attributes:
        seeds: float32 [B, C, h, w], labeled pixels of each class under each feature cell.
        present: bool [B, C], classes with a labeled pixel.
        centres: float32 [B, C, D], mean feature over them; 0 where not present.

    Gradients flow into the features through centres and distances.
    """

    def __init__(self, features: Tensor, seeds: Tensor, num_classes: int) -> None:
        """features: float [B, D, h, w]. seeds: int64 [B, H, W], 0..C-1 or IGNORE; any size over the same frame."""
        self.seeds = count_seeds(seeds, num_classes, features.shape[-2:])
        self.present = self.seeds.flatten(2).sum(2) > 0
        self.centres, self._distances = _field(features, self.seeds)

    @property
    def distances(self) -> Tensor:
        """float32 [B, C, h, w], mean over feature channels of |feature - centre|; at least 0."""
        return self._distances

    def responsibilities(self, sigma: float) -> Tensor:
        """exp(-distance^2 / (2 sigma^2)), float32 [B, C, h, w] in 0..1, exactly 0 for classes that are not present."""
        gauss = torch.exp(-self._distances.square() / (2 * sigma * sigma))
        return gauss * self.present[:, :, None, None]


@torch.no_grad()
def count_seeds(seeds: Tensor, num_classes: int, grid: tuple[int, ...]) -> Tensor:
    """float32 [B, C, *grid]: labeled pixels of each class under each cell, of int64 [B, H, W]. No pixel is lost."""
    batch, height, width = seeds.shape
    rows = torch.arange(height, device=seeds.device) * grid[0] // height
    columns = torch.arange(width, device=seeds.device) * grid[1] // width
    cell = rows[:, None] * grid[1] + columns[None]
    cells = grid[0] * grid[1]
    channel = torch.where(seeds == IGNORE, num_classes, seeds)
    where = (channel * cells + cell).flatten(1)
    counts = torch.zeros(batch, (num_classes + 1) * cells, device=seeds.device)
    counts.scatter_add_(1, where, torch.ones_like(where, dtype=counts.dtype))
    return counts.view(batch, num_classes + 1, *grid)[:, :num_classes]


@in_float32
def _field(features: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    flat = features.flatten(2).transpose(1, 2)
    counts = seeds.flatten(2)
    centres = counts @ flat / counts.sum(2, keepdim=True).clamp(min=1)
    # cdist never holds the [B, C, h*w, D] differences.
    distances = torch.cdist(centres, flat, p=1) / flat.shape[2]
    return centres, distances.unflatten(2, features.shape[-2:])
