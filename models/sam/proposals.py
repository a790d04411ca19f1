"""Prompts that need no class: from clusters of the patch features, and a sparse grid of points."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.cluster import hierarchy
from torch.nn import functional

from models.evidence import MASK_SOURCES
from models.observe_config import SamObserveConfig
from models.sam.prompts import Prompts

Floats = npt.NDArray[np.float32]
FINER = 4
SAME_BOX = 0.8  # IoU above which two boxes are one: both would give the same mask.


def cluster_centres(features: Floats, counts: tuple[int, ...]) -> list[Floats]:
    """The centres of groups of like patches, once for each count.

    Ward's agglomerative clustering of the directions of the features: no random start, and one tree serves all counts.

    Args:
        features: float32 [n, D], centred.
        counts: numbers of clusters; fewer come where fewer patches differ.

    Returns:
        float32 [k, D] for each count, means of unit vectors.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
    if len(unit) < 2:
        return [unit for _ in counts]
    tree = hierarchy.linkage(unit, method="ward")
    centres = []
    for count in counts:
        cluster = hierarchy.fcluster(tree, count, criterion="maxclust")
        centres.append(np.stack([unit[cluster == number].mean(axis=0) for number in range(1, cluster.max() + 1)]))
    return centres


def cluster_boxes(features: Floats, counts: tuple[int, ...], thresholds: tuple[float, ...]) -> Floats:
    """Boxes around what belongs together in the features, at every granularity.

    Two kinds of regions of each cluster are boxed, part by part: the patches whose nearest centre it is, and those
    whose projection on the centre exceeds a share of the largest one, which is how a class heat map will look whose
    word means this cluster. Both are made on a grid FINER times as fine as the patches.

    Args:
        features: float32 [h, w, D].

    Returns:
        float32 [N, 4], x0 y0 x1 y1 as fractions of the frame; many nearly equal.
    """
    height, width, _ = features.shape
    flat = features.reshape(height * width, -1)
    flat = flat - flat.mean(axis=0)
    boxes = []
    for centres in cluster_centres(flat, counts):
        projection = (flat @ centres.T).T.reshape(-1, height, width)
        unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        nearness = (2 * unit @ centres.T - (centres**2).sum(axis=1)).T.reshape(-1, height, width)
        nearest = _finer(nearness).argmax(axis=0)
        boxes += [component_boxes(nearest == number) for number in range(len(centres))]
        for heat in _finer(projection):
            peak = heat.max()
            if peak > 0:
                boxes += [component_boxes(heat > share * peak) for share in thresholds]
    return np.concatenate(boxes) if boxes else np.zeros((0, 4), np.float32)


def _finer(maps: Floats) -> Floats:
    """Maps [k, h, w] on a grid FINER times as fine."""
    scaled = functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(maps, np.float32))[None],
        scale_factor=FINER,
        mode="bilinear",
        align_corners=False,
    )
    return scaled[0].numpy()


def component_boxes(region: npt.NDArray[np.bool_], min_cells: int = FINER**2) -> Floats:
    """Boxes float32 [N, 4] (fractions) around the 4-connected parts of a region bool [h, w] of at least min_cells."""
    height, width = region.shape
    parts, _ = ndimage.label(region)
    sizes = np.bincount(parts.ravel())
    boxes = [
        (columns.start / width, rows.start / height, columns.stop / width, rows.stop / height)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1)
        if sizes[number] >= min_cells
    ]
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
    boxes = cluster_boxes(features, config.cluster_counts, config.cluster_thresholds)
    return Prompts.concat(
        [
            Prompts.of_boxes(distinct_boxes(boxes, config.max_boxes), MASK_SOURCES.index("cluster")),
            Prompts.of_points(grid_points(config.grid_points), MASK_SOURCES.index("grid")),
        ]
    )
