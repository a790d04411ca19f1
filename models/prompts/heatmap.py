"""Points from a heat map's best and worst places: the generic prompt of GenSAM (2023)."""

import numpy as np
import numpy.typing as npt

from models.refine.grids import fit_grid, resize_maps

FLAT = 1e-3
"""A heat map whose values lie this close together says nothing about where the object is."""


def heatmap_points(
    heat: npt.NDArray[np.float32], grid_px: int = 14, high: float = 0.9, max_points: int = 20
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Points float32 [N, 2] (x y, pixels of the map [h, w]) and whether they are positive, bool [N].

    The map is reduced to `grid_px` on its longer side and brought to 0..1; cells of at least `high` are positive (the
    hottest `max_points`, never more than half of the cells), and as many of the coldest cells are negative. A uniform
    map gives no points: then prompt with a box, or not at all.
    """
    height, width = heat.shape
    size = fit_grid(height, width, min(grid_px, max(height, width)))
    small = resize_maps(heat[None].astype(np.float32), size)[0]
    span = float(small.max() - small.min())
    if span < FLAT:
        return np.zeros((0, 2), np.float32), np.zeros(0, bool)
    order = np.argsort(-(small - small.min()).reshape(-1) / span, kind="stable")
    hot = int(((small - small.min()) / span >= high).sum())
    count = min(hot, max_points, small.size // 2)
    cells = np.concatenate([order[:count], order[::-1][:count]])
    rows, columns = np.divmod(cells, size[1])
    scale = width / size[1], height / size[0]
    points = np.stack([(columns + 0.5) * scale[0], (rows + 0.5) * scale[1]], -1)
    return points.astype(np.float32), np.arange(2 * count) < count
