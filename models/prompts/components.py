"""Boxes around the connected parts of a heat map."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def component_boxes(
    heat: npt.NDArray[np.float32], threshold: float = 0.25, min_area: float = 0.002, margin: float = 0.0
) -> npt.NDArray[np.float32]:
    """Boxes float32 [Q, 4] (x0 y0 x1 y1, pixels of the map [h, w]), largest part first.

    threshold: heat above it belongs to a part. min_area: parts below this share of the map are specks. margin: each
    side moves out by this share of the box's size, within the map.
    """
    labelled, count = ndimage.label(heat > threshold)
    sizes = np.bincount(labelled.reshape(-1), minlength=count + 1)[1:]
    found = ndimage.find_objects(labelled)
    boxes = []
    for index in np.argsort(-sizes, kind="stable"):
        if sizes[index] < min_area * heat.size:
            continue
        rows, columns = found[index]
        dy, dx = margin * (rows.stop - rows.start), margin * (columns.stop - columns.start)
        boxes.append((columns.start - dx, rows.start - dy, columns.stop + dx, rows.stop + dy))
    if not boxes:
        return np.zeros((0, 4), np.float32)
    limit = np.array([heat.shape[1], heat.shape[0]] * 2, np.float32)
    return np.clip(np.asarray(boxes, np.float32), 0, limit)
