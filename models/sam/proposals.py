"""Prompts that need no class: from clusters of the patch features, and a sparse grid of points."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.cluster import hierarchy

from models.evidence import MASK_SOURCES
from models.observe_config import SamObserveConfig
from models.sam.prompts import Prompts

Floats = npt.NDArray[np.float32]
SAME_BOX = 0.9  # IoU above which two boxes are one: both would give the same mask.


def cluster_maps(features: Floats, counts: tuple[int, ...]) -> list[npt.NDArray[np.int32]]:
    """Cut the patches into groups of like features, once for each count.

    Ward's agglomerative clustering of the directions of the features: no random start, and one tree serves all counts.

    Args:
        features: float32 [h, w, D].
        counts: numbers of clusters.

    Returns:
        int32 [h, w] for each count, cluster numbers from 1.
    """
    height, width, _ = features.shape
    if height * width < 2:
        return [np.ones((height, width), np.int32) for _ in counts]
    flat = features.reshape(height * width, -1)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    tree = hierarchy.linkage(unit, method="ward")
    return [
        hierarchy.fcluster(tree, count, criterion="maxclust").reshape(height, width).astype(np.int32)
        for count in counts
    ]


def component_boxes(cluster_map: npt.NDArray[np.int32], min_patches: int = 2) -> Floats:
    """Boxes around the 4-connected components of every cluster.

    Args:
        cluster_map: int32 [h, w].
        min_patches: smaller components are left out.

    Returns:
        float32 [N, 4], x0 y0 x1 y1 as fractions of the frame.
    """
    height, width = cluster_map.shape
    boxes = []
    for cluster in np.unique(cluster_map):
        components, _ = ndimage.label(cluster_map == cluster)
        sizes = np.bincount(components.ravel())
        for number, place in enumerate(ndimage.find_objects(components), start=1):
            if sizes[number] >= min_patches:
                rows, columns = place
                boxes.append((columns.start / width, rows.start / height, columns.stop / width, rows.stop / height))
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def distinct_boxes(boxes: Floats, limit: int) -> Floats:
    """The largest boxes first, without those that nearly equal an earlier one, at most `limit`."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes = boxes[np.argsort(-area, kind="stable")]
    overlap = box_iou(boxes, boxes)
    kept: list[int] = []
    for index in range(len(boxes)):
        if len(kept) < limit and not (overlap[index, kept] > SAME_BOX).any():
            kept.append(index)
    return boxes[kept]


def box_iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union, float32 [A, B], of boxes [A, 4] and [B, 4]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    areas_a, areas_b = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b))
    union = areas_a[:, None] + areas_b[None] - intersection
    return (intersection / np.maximum(union, 1e-12)).astype(np.float32)


def grid_points(per_side: int) -> Floats:
    """float32 [per_side^2, 2], centres of an even grid over the frame, as fractions."""
    centres = (np.arange(per_side, dtype=np.float32) + 0.5) / max(per_side, 1)
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2).astype(np.float32)


def propose(features: Floats, config: SamObserveConfig) -> Prompts:
    """Boxes around the components of the clusters at every granularity, and the grid of points.

    Args:
        features: float32 [h, w, D], the CLIP features of the frame.
    """
    maps = cluster_maps(features, config.cluster_counts)
    boxes = np.concatenate([component_boxes(one) for one in maps]) if maps else np.zeros((0, 4), np.float32)
    return Prompts.concat(
        [
            Prompts.of_boxes(distinct_boxes(boxes, config.max_boxes), MASK_SOURCES.index("cluster")),
            Prompts.of_points(grid_points(config.grid_points), MASK_SOURCES.index("grid")),
        ]
    )
