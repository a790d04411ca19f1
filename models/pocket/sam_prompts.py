"""Draws what to segment and how to ask for it: masks from a view's things, then points and boxes from the masks."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.pocket.sam_regions import Thing

KINDS = ("point", "box", "points", "box", "point", "box", "box_point")
"""Kinds of prompt, one a step, in turn."""
MIN_CELLS = 12
"""Smallest mask that is learned, in cells of the half-resolution grid (2 px)."""
MAX_SHARE = 0.9


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one kind for N masks.

    `targets` float32 [N, S/4, S/4] in {0, 1}; `of_image` int64 [N]; `points` float32 [N, K, 2] (x, y) px with `labels`
    int64 [N, K] (1 on the object, 0 beside it), or None; `boxes` float32 [N, 4] (x0, y0, x1, y1) px, or None.
    """

    kind: str
    targets: torch.Tensor
    of_image: torch.Tensor
    points: torch.Tensor | None
    labels: torch.Tensor | None
    boxes: torch.Tensor | None

    def to(self, device: torch.device) -> "PromptBatch":
        rest = (None if t is None else t.to(device) for t in (self.points, self.labels, self.boxes))
        return PromptBatch(self.kind, self.targets.to(device), self.of_image.to(device), *rest)


def candidate_areas(layers: NDArray[np.uint8], things: tuple[Thing, ...]) -> NDArray[np.float64]:
    """Cells (2 px squares) of each thing in a view; int-valued float64 [len(things)]."""
    counts = [np.bincount(layer.ravel(), minlength=256) for layer in layers]
    return np.array([counts[thing.layer][list(thing.ids)].sum() for thing in things], np.float64)


def draw_masks(
    layers: NDArray[np.uint8], things: tuple[Thing, ...], size: tuple[int, int], count: int, rng: np.random.Generator
) -> list[NDArray[np.bool_]]:
    """Masks bool [S/2, S/2] of `count` things of a view, drawn by weight times the square root of the area.

    A view in which nothing is of a usable size gives fewer, or none.
    """
    areas = candidate_areas(layers, things)
    usable = (areas >= MIN_CELLS) & (areas <= MAX_SHARE * size[0] * size[1] / 4)
    chance = np.where(usable, np.sqrt(areas) * np.array([thing.weight for thing in things]), 0.0)
    if not usable.any():
        return []
    picks = rng.choice(len(things), size=count, p=chance / chance.sum(), replace=bool(usable.sum() < count))
    return [np.isin(layers[things[i].layer], things[i].ids) for i in picks]


def _inner_point(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A point on the mask, px: half of the time near the deepest place, else anywhere on it."""
    if rng.random() < 0.5:
        depth = ndimage.distance_transform_cdt(np.pad(mask, 1))[1:-1, 1:-1]
        rows, columns = np.nonzero(depth >= max(1.0, 0.7 * depth.max()))
    else:
        rows, columns = np.nonzero(mask)
    i = int(rng.integers(len(rows)))
    return 2.0 * float(columns[i]) + float(rng.uniform(0, 2)), 2.0 * float(rows[i]) + float(rng.uniform(0, 2))


def bounding_box(mask: NDArray[np.bool_], cell_px: float) -> NDArray[np.float64]:
    """(x0, y0, x1, y1) px of a mask whose cells are `cell_px` wide, outer edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return cell_px * np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def jitter_box(
    box: NDArray[np.float64], share: float, limits: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The box with every side moved by up to `share` of the box's extent, inside an image of `limits` (w, h) px."""
    extent = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    moved = np.clip(box + rng.uniform(-share, share, 4) * extent, 0.0, np.array([*limits, *limits]))
    return moved if moved[2] - moved[0] >= 2 and moved[3] - moved[1] >= 2 else box


def _more_points(
    mask: NDArray[np.bool_], size: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[list[tuple[float, float]], list[int]]:
    """`count` points: the first on the mask, each other one beside it with a chance of 0.3 (near, in the wider box)."""
    x0, y0, x1, y1 = (bounding_box(mask, 1.0)).astype(int)
    margin_x, margin_y = (x1 - x0) // 4 + 2, (y1 - y0) // 4 + 2
    top, left = max(0, y0 - margin_y), max(0, x0 - margin_x)
    beside = ~mask[top : min(size[0] // 2, y1 + margin_y), left : min(size[1] // 2, x1 + margin_x)]
    points, labels = [_inner_point(mask, rng)], [1]
    for _ in range(count - 1):
        if rng.random() < 0.3 and beside.any():
            rows, columns = np.nonzero(beside)
            i = int(rng.integers(len(rows)))
            points.append((2.0 * float(columns[i] + left) + 1.0, 2.0 * float(rows[i] + top) + 1.0))
            labels.append(0)
        else:
            points.append(_inner_point(mask, rng))
            labels.append(1)
    return points, labels


def draw_prompts(
    kind: str, masks: list[NDArray[np.bool_]], of_image: list[int], sizes: list[tuple[int, int]],
    rng: np.random.Generator,
) -> PromptBatch:  # fmt: skip
    """Prompts of one kind (an element of `KINDS`) for masks bool [S/2, S/2]; `sizes` (h, w) px of each mask's view."""
    points: list[list[tuple[float, float]]] = []
    labels: list[list[int]] = []
    boxes: list[NDArray[np.float64]] = []
    for mask, size in zip(masks, sizes, strict=True):
        if "point" in kind:
            one_points, one_labels = _more_points(mask, size, 3 if kind == "points" else 1, rng)
            points.append(one_points)
            labels.append(one_labels)
        if "box" in kind:
            share = 0.01 if rng.random() < 0.4 else rng.uniform(0.02, 0.15)
            boxes.append(jitter_box(bounding_box(mask, 2.0), float(share), (size[1], size[0]), rng))
    stack = np.stack(masks).astype(np.float32)
    n, half = stack.shape[:2]
    quarter = stack.reshape(n, half // 2, 2, half // 2, 2).mean((2, 4)) >= 0.5
    return PromptBatch(
        kind=kind,
        targets=torch.from_numpy(quarter.astype(np.float32)),
        of_image=torch.tensor(of_image),
        points=torch.tensor(points, dtype=torch.float32) if points else None,
        labels=torch.tensor(labels) if labels else None,
        boxes=torch.from_numpy(np.stack(boxes)).float() if boxes else None,
    )
