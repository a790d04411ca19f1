"""Targets of what people said: points, scribbles, boxes and partial maps, drawn; everything else stays unknown."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from models.decide.seeds import BACKGROUND, NOTHING, draw_seeds
from models.decide.types import WeakArrays
from models.students.augment import IGNORE
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.training.targets import Channels, LabelOptions, Target, tags


def draw(
    weak: Mapping[str, Any],
    classes: ClassSet,
    channels: Channels,
    full: tuple[int, int],
    size: tuple[int, int],
    options: LabelOptions,
) -> Target:
    """The target on a grid `size` of weak labels whose coordinates are pixels of `full` (height, width each).

    Points are discs of `options.point_radius` (a share of the longer side). Of a box, the middle `options.box_fill`
    of each side is its class where nothing else was said; of boxes that overlap, the smallest counts. Weak labels
    that cannot be used are left out, as the label table's `weak_problems` tell.
    """
    known, _ = weak_labels.validate(weak, classes, full)
    arrays = weak_labels.to_arrays(known, classes, *full)
    rows = draw_seeds(arrays, classes.arrays(), full, size, options.point_radius * max(size)).rows
    rows = _boxes(rows, arrays, full, options.box_fill)
    first = int(channels.background)
    drawn = np.where(rows >= 0, rows + first, IGNORE).astype(np.int16)
    if channels.background:
        drawn[rows == BACKGROUND] = 0
    weight = np.where(drawn == IGNORE, 0, 255).astype(np.uint8)
    return Target(drawn, weight, tags(dict(known), classes, channels))


def _boxes(
    rows: npt.NDArray[np.int32], arrays: WeakArrays, full: tuple[int, int], fill: float
) -> npt.NDArray[np.int32]:
    if not len(arrays.boxes) or not fill:
        return rows
    drawn = np.full_like(rows, NOTHING)
    sides = arrays.boxes[:, 2:] - arrays.boxes[:, :2]
    scale = np.array([rows.shape[1] / full[1], rows.shape[0] / full[0]])
    for index in np.argsort(-sides.prod(1), kind="stable"):
        middle = (arrays.boxes[index, :2] + arrays.boxes[index, 2:]) / 2 * scale
        half = sides[index] * scale * fill / 2
        low = np.floor(middle - half).astype(int).clip(0)
        high = np.maximum(np.ceil(middle + half).astype(int), low + 1)
        drawn[low[1] : high[1], low[0] : high[0]] = arrays.box_classes[index]
    return np.where(rows == NOTHING, drawn, rows)
