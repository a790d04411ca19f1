"""How much each place belongs to what was marked: a Gaussian around the mean feature of every class that has marks.

The responsibilities of AGMM (CVPR 2023) on frozen features; training uses the same field
(`models.losses.prototypes`). Tags become marks through a class's hottest places; points, scribbles and partial maps are
marks as they are.
"""

import numpy as np
import numpy.typing as npt
import torch

from models.losses.prototypes import PrototypeField

Maps = npt.NDArray[np.float32]


def responsibilities(features: Maps, seeds: npt.NDArray[np.integer], num_classes: int, sigma: float = 0.5) -> Maps:
    """exp(-d^2 / (2 sigma^2)) of every place to each class's centre, float32 [C, h, w], 0..1.

    d is the mean absolute difference of features to the mean feature of the class's marks, in units of the features'
    mean absolute deviation over the image (released code takes raw differences and sigma 1, which no other feature
    scale would stand). Exactly 0 for classes without marks.

    Args:
        features: float [h, w, D], any scale. seeds: int [H, W] over the same frame, any size, 0..C-1, -1 = no mark.
    """
    flat = np.asarray(features, np.float32)
    flat = flat - flat.mean((0, 1))
    flat = flat / max(float(np.abs(flat).mean()), 1e-12)
    marks = torch.from_numpy(np.ascontiguousarray(seeds, dtype=np.int64))
    field = PrototypeField(torch.from_numpy(flat).permute(2, 0, 1)[None], marks[None], num_classes)
    return np.asarray(field.responsibilities(sigma)[0].numpy(), np.float32)


def shares(given: Maps) -> Maps:
    """Responsibilities [C, h, w] as shares that sum to 1 (to 0 where nothing is near)."""
    return np.asarray(given / np.maximum(given.sum(0), 1e-20), np.float32)


def surest_places(heat: Maps, floor: float | None, high: float = 0.8, low: float = 0.5) -> npt.NDArray[np.int32]:
    """Marks int32 [h, w] from heat float32 [K, h, w], 0..1.

    A class where it is the hottest and has `high` of its own maximum; K, background, where none has `low` of the floor
    (None: there is no background); -1 elsewhere.
    """
    seeds = np.full(heat.shape[1:], -1, np.int32)
    hottest = heat.max(0, initial=0)
    if floor is not None:
        seeds[hottest < low * floor] = len(heat)
    for row, plane in enumerate(heat):
        seeds[(plane > 0) & (plane >= high * plane.max()) & (plane >= hottest)] = row
    return seeds
