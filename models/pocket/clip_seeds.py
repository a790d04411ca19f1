"""Seeds: where in a tagged photograph its classes probably are, from photographs and tags alone.

Heat maps of the present classes, averaged over views, flow along the photograph's colours (PAR, Ru et al., CVPR 2022)
and come back to the patch grid. A student that learns them from thousands of photographs averages their errors out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from models.pocket.clip_data import FeatureCache, Photo
from models.refine.grids import resize_maps
from models.refine.par import par

PIXELS_A_PATCH = 4
"""Side of a patch in pixels of the grid that the colours are followed on."""


def guide_of(photo: Photo, grid: tuple[int, int]) -> np.ndarray:
    """The photograph's colours, float32 [4 h, 4 w, 3] in 0..1."""
    with Image.open(photo.path) as opened:
        opened.draft("RGB", (grid[1] * PIXELS_A_PATCH, grid[0] * PIXELS_A_PATCH))
        image = ImageOps.exif_transpose(opened).convert("RGB")
    size = (grid[1] * PIXELS_A_PATCH, grid[0] * PIXELS_A_PATCH)
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32) / 255


def unit_maps(maps: Tensor) -> Tensor:
    """Cut negative values of [K, h, w] and divide each map by its maximum."""
    maps = maps.clamp_min(0)
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-6)


def refine_seeds(maps: Tensor, guide: np.ndarray) -> Tensor:
    """Heat float [K, h, w] through PAR on the guide's grid and back, float32 [K, h, w] in 0..1."""
    fine = par(resize_maps(unit_maps(maps).numpy(), guide.shape[:2]), guide, iterations=10)
    return unit_maps(F.adaptive_avg_pool2d(torch.from_numpy(fine), (maps.shape[1], maps.shape[2])))


def choose_photos(photos: Sequence[Photo], count: int, seed: int) -> list[int]:
    """Tagged photographs in the order of self-training's need, at most `count`: few of a class before many of it."""
    tagged = [i for i, photo in enumerate(photos) if photo.tags]
    often = Counter(tag for i in tagged for tag in photos[i].tags or ())
    tagged = [tagged[j] for j in np.random.default_rng(seed).permutation(len(tagged))]
    seen: Counter[int] = Counter()
    rank = {}
    for i in tagged:
        rarest = min(photos[i].tags or (), key=lambda tag: often[tag])
        seen[rarest] += 1
        rank[i] = seen[rarest]
    return sorted(tagged, key=lambda i: rank[i])[:count]


@torch.inference_mode()
def make_seeds(
    caches: Sequence[FeatureCache], heat_of: Callable[[Tensor], Tensor], rows: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Seeds of some tagged photographs: their rows, and float16 [tags, h, w] on the first cache's grid.

    Args:
        caches: views of the same photographs.
        heat_of: cached features [1, 432, h, w] to scores of all classes [C, h, w].
    """
    for i in rows:
        photo, grid = caches[0].photos[i], (int(caches[0].grids[i][0]), int(caches[0].grids[i][1]))
        tags = list(photo.tags or ())
        total = torch.zeros(len(tags), *grid)
        for cache in caches:
            maps = heat_of(cache.get([i]).float())[tags]
            maps = maps.flip(2) if cache.view.mirror else maps
            total += F.interpolate(maps[None], grid, mode="bilinear", antialias=True)[0]
        yield i, refine_seeds(total, guide_of(photo, grid)).half()
