"""Instances in a heat map by two thresholds: the high one says how many, the low one how far each reaches.

After DTH-CP (2025), where proposals are kept that cover one high component and match a low one. Without proposals the
low component is divided among its high ones by a watershed: no box covers two objects, none stops at an object's
hottest part.
"""

import heapq

import numpy as np
import numpy.typing as npt
from scipy import ndimage

NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0))


def dual_threshold(
    heat: npt.NDArray[np.float32], high: float = 0.7, low: float = 0.25
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Boxes float32 [Q, 4] (x0 y0 x1 y1, pixels of the map [h, w]) and instance ids int32 [h, w], 0 = none, else 1..Q.

    Q is the number of connected parts of heat > high, the largest first; each instance is connected, holds its own part
    and no other, and lies in heat > low. What exceeds low alone, in no touch with a part, is no instance.
    Raises ValueError if high is below low.
    """
    if high < low:
        raise ValueError(f"the high threshold {high} is below the low one, {low}")
    parts, count = ndimage.label(heat > high)
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, np.int32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    ids = flood(heat, rank[parts], heat > low)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(ids, max_label=count)]
    return np.asarray(boxes, np.float32).reshape(-1, 4), ids


def flood(
    heat: npt.NDArray[np.float32], markers: npt.NDArray[np.int32], within: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Watershed: markers int32 [h, w] (0 = none) grow over `within`, hottest pixels first, until they meet.

    Of pixels that are as hot, the one that was reached first; so the result depends on nothing but the arrays.
    """
    ids = np.where(within, markers, 0).astype(np.int32)
    height, width = heat.shape
    # The order of arrival breaks ties, so that plateaus are shared out by distance.
    queue = [(-float(heat[y, x]), n, int(y), int(x)) for n, (y, x) in enumerate(zip(*np.nonzero(ids), strict=True))]
    heapq.heapify(queue)
    arrived = len(queue)
    while queue:
        _, _, y, x = heapq.heappop(queue)
        for dy, dx in NEIGHBOURS:
            row, column = y + dy, x + dx
            inside = 0 <= row < height and 0 <= column < width
            if inside and within[row, column] and ids[row, column] == 0:
                ids[row, column] = ids[y, x]
                heapq.heappush(queue, (-float(heat[row, column]), arrived, row, column))
                arrived += 1
    return ids
