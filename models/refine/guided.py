"""Guided filter: one edge-aware step from the coarse grid to the picture's own resolution.

He et al., "Guided Image Filtering", TPAMI 2013, and "Fast Guided Filter", 2015: the local linear model (map = a *
colour + b) is fitted on the coarse grid, and only its coefficients are enlarged.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from models.refine.grids import resize_maps

Maps = npt.NDArray[np.float32]


def _window_mean(values: Maps, radius: int) -> Maps:
    """Mean over a (2 radius + 1)^2 window of [n, h, w]; the border repeats."""
    size = 2 * radius + 1
    return np.asarray(uniform_filter(values, size=(1, size, size), mode="nearest"))


def _inverse_symmetric(xx: Maps, xy: Maps, xz: Maps, yy: Maps, yz: Maps, zz: Maps) -> list[list[Maps]]:
    """Inverse of a field of symmetric 3 x 3 matrices by cofactors: much quicker than a batched solver here."""
    cxx, cxy, cxz = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    cyy, cyz, czz = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    det = xx * cxx + xy * cxy + xz * cxz
    return [[cxx / det, cxy / det, cxz / det], [cxy / det, cyy / det, cyz / det], [cxz / det, cyz / det, czz / det]]


def linear_model(maps: Maps, guide: Maps, radius: int, epsilon: float) -> tuple[Maps, Maps]:
    """Coefficients a [K, 3, h, w] and b [K, h, w] of map = a . colour + b, averaged over the windows of each pixel.

    maps: [K, h, w]. guide: [3, h, w], 0..1. radius in pixels of this grid. epsilon > 0: variance of colour below which
    the result is smooth.
    """
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    count = len(maps)
    products = np.stack([guide[i] * guide[j] for i, j in pairs])
    cross = (maps[:, None] * guide[None]).reshape(-1, *guide.shape[1:])
    means = _window_mean(np.concatenate([guide, products, maps, cross]), radius)
    color, color_sq = means[:3], means[3:9]
    map_mean, cross_mean = means[9 : 9 + count], means[9 + count :].reshape(count, 3, *guide.shape[1:])
    spread = [color_sq[n] - color[i] * color[j] + (epsilon if i == j else 0.0) for n, (i, j) in enumerate(pairs)]
    inverse = _inverse_symmetric(*spread)
    covariance = cross_mean - map_mean[:, None] * color[None]
    slope = np.stack([sum(inverse[i][j] * covariance[:, j] for j in range(3)) for i in range(3)], axis=1)
    offset = map_mean - (slope * color[None]).sum(1)
    averaged = _window_mean(np.concatenate([slope.reshape(-1, *guide.shape[1:]), offset]), radius)
    return averaged[: 3 * count].reshape(slope.shape), averaged[3 * count :]


def guided_upsample(
    maps: Maps, guide: Maps, guide_coarse: Maps, radius: int = 4, epsilon: float = 1e-3, strength: float = 1.0
) -> Maps:
    """Enlarge float32 [K, h, w] to the guide's [K, H, W], with edges where the guide has them.

    guide: float32 [3, H, W], 0..1; guide_coarse: the same picture, [3, h, w]. strength 0..1 blends between plain
    bilinear (0) and the filter (1). Values stay within the range of each input map.
    """
    size = (guide.shape[1], guide.shape[2])
    plain = resize_maps(maps, size)
    if strength == 0 or len(maps) == 0:
        return plain
    slope, offset = linear_model(maps, guide_coarse, radius, epsilon)
    height, width = maps.shape[1:]
    enlarged = resize_maps(np.concatenate([slope.reshape(-1, height, width), offset]), size)
    slopes, out = enlarged[: 3 * len(maps)].reshape(-1, 3, *size), enlarged[3 * len(maps) :].copy()
    for channel in range(3):
        out += slopes[:, channel] * guide[channel]
    out = plain + np.float32(strength) * (out - plain)
    lowest, highest = maps.min((1, 2))[:, None, None], maps.max((1, 2))[:, None, None]
    return np.asarray(np.clip(out, lowest, highest), np.float32)
