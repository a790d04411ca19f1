"""Instances of a class map: each pixel of a class goes to the nearest point of that class, around edges.

The first half of P2Seg (2024), where a network predicts the offset to the point; here the way is measured, and a step
over an edge of the picture (or whatever `cost` says) is long. The way back, from instances to maps, is
`Affinity.from_regions(instances)`.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

EDGE_COST = 20.0
"""How many plain pixels a step over a full edge (cost 1) is worth."""


def instances(
    class_map: npt.NDArray[np.integer],
    points: npt.NDArray[np.float32],
    point_ids: npt.NDArray[np.integer],
    background_id: int | None = 0,
    cost: npt.NDArray[np.float32] | None = None,
    complete: bool = False,
) -> npt.NDArray[np.int32]:
    """Instance ids int32 [H, W]: n + 1 for the n-th point, higher ones for parts without a point, 0 for background.

    Every pixel of a class gets an instance of that class, and a point's own pixel is its own; of points on one pixel
    the first has it. A point on a pixel of another class names nothing.

    Args:
        class_map: int [H, W], class ids. points: float32 [N, 2], x y in pixels of the map; point_ids: int [N], the
            class id of each. cost: float32 [H, W], 0..1, what a step onto a pixel costs beside its length, as an edge
            map of the picture. complete: the points name every instance, so that a part without a point belongs to the
            nearest point of its class, if there is one; else it is an instance of its own.
    """
    height, width = class_map.shape
    out = np.zeros(class_map.shape, np.int32)
    x = np.clip(points[:, 0].astype(np.intp), 0, width - 1)
    y = np.clip(points[:, 1].astype(np.intp), 0, height - 1)
    valid = class_map[y, x] == point_ids
    free = len(points) + 1
    for value in np.unique(class_map):
        if value == background_id:
            continue
        region = class_map == value
        mine = np.flatnonzero(valid & (point_ids == value))
        seeds = np.zeros_like(out)
        seeds[y[mine][::-1], x[mine][::-1]] = mine[::-1] + 1  # The last write stays: the first of the points.
        out[region] = _nearest_seed(region, seeds, cost)[region]
        left = region & (out == 0)
        if complete and len(mine):
            nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
            out[left] = seeds[tuple(nearest)][left]
            continue
        parts, count = ndimage.label(left)
        out[left] = parts[left] + (free - 1)
        free += count
    return out


def _nearest_seed(
    region: npt.NDArray[np.bool_], seeds: npt.NDArray[np.int32], cost: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.int32]:
    """The seed with the shortest way within the region, int32 [H, W]; 0 where none can be reached."""
    out = np.zeros_like(seeds)
    number = np.cumsum(region.reshape(-1)).reshape(region.shape) - 1
    sources = number[seeds > 0]
    if not len(sources):
        return out
    count = int(region.sum())
    length = np.ones(region.shape) if cost is None else 1 + EDGE_COST * np.clip(cost, 0, 1)
    steps, begins, ends = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one, other = _shifted(dy, dx)
        both = region[one] & region[other]
        steps.append(np.hypot(dy, dx) * (length[one] + length[other])[both] / 2)
        begins.append(number[one][both])
        ends.append(number[other][both])
    ways = csr_matrix((np.concatenate(steps), (np.concatenate(begins), np.concatenate(ends))), shape=(count, count))
    _, _, nearest = dijkstra(ways, directed=False, indices=sources, min_only=True, return_predecessors=True)
    of_number = np.zeros(count + 1, np.int32)
    of_number[sources] = seeds[seeds > 0]
    out[region] = of_number[np.where(nearest < 0, count, nearest)]
    return out


def _shifted(dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Views of a map whose pixels are one step (dy >= 0, dx) apart."""
    first, second = slice(0, -1 if dy else None), slice(dy, None)
    if dx < 0:
        return (first, slice(1, None)), (second, slice(0, -1))
    return (first, slice(0, -dx if dx else None)), (second, slice(dx, None))
