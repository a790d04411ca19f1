"""Measures a promptable mask model on the objects of a VOC layout, beside the shapes that any mask must beat."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models import torchvision_cpu
from models.pocket.sam_prompts import bounding_box, jitter_box

torchvision_cpu.ensure()

from segment_anything import SamPredictor  # noqa: E402
from segment_anything.modeling import Sam  # noqa: E402

VOID = 255
MIN_SHARE = 0.01
MOVE = 0.1
"""Each side of a moved box is off by up to this share of the box's extent."""
CUT = 0.05
SIZES = {"1_to_5_percent": (0.01, 0.05), "5_to_20_percent": (0.05, 0.2), "over_20_percent": (0.2, 1.01)}


@dataclass(frozen=True)
class Target:
    """One object of a photograph."""

    mask: NDArray[np.bool_]  # [H, W]
    counted: NDArray[np.bool_]  # [H, W], False where the annotation says nothing
    box: NDArray[np.float64]  # (x0, y0, x1, y1) px, outer edges
    moved: NDArray[np.float64]  # the same, each side moved
    point: NDArray[np.float64]  # (x, y) px, the pixel farthest from the outline


def targets(ids: NDArray[np.uint8], rng: np.random.Generator) -> list[Target]:
    """Objects of a class mask uint8 [H, W]: 8-connected parts of each class of 1 % of the image or more."""
    found = []
    for value in np.unique(ids):
        if value in (0, VOID):
            continue
        parts, count = ndimage.label(ids == value, np.ones((3, 3)))
        for number in range(1, count + 1):
            mask = parts == number
            if mask.mean() < MIN_SHARE:
                continue
            box = bounding_box(mask, 1.0)
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(int(depth.argmax()), depth.shape)
            moved = jitter_box(box, MOVE, (ids.shape[1], ids.shape[0]), rng)
            found.append(Target(mask, ids != VOID, box, moved, np.array([column, row], np.float64)))
    return found


def filled(shape: tuple[int, ...], box: NDArray[np.float64], ellipse: bool) -> NDArray[np.bool_]:
    """bool [H, W]: the box (x0, y0, x1, y1 px) filled, or the ellipse inscribed in it."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    dx = np.abs(columns + 0.5 - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)
    dy = np.abs(rows + 0.5 - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)
    return dx**2 + dy**2 <= 1 if ellipse else (dx <= 1) & (dy <= 1)


def iou(found: NDArray[np.bool_], target: Target) -> float:
    """IoU over the pixels that count."""
    both = (found & target.mask & target.counted).sum()
    return float(both / max(1, ((found | target.mask) & target.counted).sum()))


def _grown(box: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    margin = share * (box[2:] - box[:2])
    return np.concatenate([box[:2] - margin, box[2:] + margin])


def _from_boxes(
    predictor: SamPredictor, boxes: NDArray[np.float64], shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """The single mask of each box float [N, 4] px, and the model's first of three."""
    prompts = torch.as_tensor(predictor.transform.apply_boxes(boxes, shape), dtype=torch.float32).to(predictor.device)
    single, _, _ = predictor.predict_torch(None, None, prompts, multimask_output=False)
    three, quality, _ = predictor.predict_torch(None, None, prompts, multimask_output=True)
    for i, best in enumerate(quality.argmax(1).tolist()):
        yield np.asarray(single[i, 0].cpu()), np.asarray(three[i, best].cpu())


def _box_measures(
    predictor: SamPredictor, boxes: NDArray[np.float64], objects: list[Target], shape: tuple[int, ...], name: str
) -> Iterator[dict[str, float]]:
    found = _from_boxes(predictor, boxes, shape)
    for box, target, (single, ranked) in zip(boxes, objects, found, strict=True):
        yield {
            name: iou(single, target),
            f"{name}_ranked": iou(ranked, target),
            f"{name}_ranked_cut": iou(ranked & filled(shape, _grown(box, CUT), ellipse=False), target),
            f"filled_{name}": iou(filled(shape, box, ellipse=False), target),
            f"ellipse_{name}": iou(filled(shape, box, ellipse=True), target),
        }


def measure_photo(
    predictor: SamPredictor, photo: NDArray[np.uint8], objects: list[Target]
) -> Iterator[dict[str, float]]:
    """Share of the image and the IoU of every prompt and shape, for each object of a photograph uint8 [H, W, 3]."""
    predictor.set_image(photo)
    shape = photo.shape[:2]
    points = torch.as_tensor(predictor.transform.apply_coords(np.stack([o.point for o in objects]), shape))
    labels = torch.ones(len(objects), 1, dtype=torch.int, device=predictor.device)
    masks, quality, _ = predictor.predict_torch(points.float()[:, None].to(predictor.device), labels)
    exact = _box_measures(predictor, np.stack([o.box for o in objects]), objects, shape, "box")
    moved = _box_measures(predictor, np.stack([o.moved for o in objects]), objects, shape, "moved_box")
    for i, (target, by_box, by_moved) in enumerate(zip(objects, exact, moved, strict=True)):
        three = [iou(np.asarray(mask.cpu()), target) for mask in masks[i]]
        first = three[int(quality[i].argmax())]
        yield {
            "share": float(target.mask.mean()), "point": first, "point_best_of_3": max(three), **by_box, **by_moved
        }  # fmt: skip


def evaluate(sam: Sam, voc: Path, split: str = "val", limit: int = 0, seed: int = 0) -> dict[str, object]:
    """Mean IoU over the objects of 1 % or more of a VOC layout, through `SamPredictor`.

    Args:
        sam: any `Sam`; its device is used.
        voc: folder with `JPEGImages/`, `SegmentationClassAug/` and `ImageSets/Segmentation/<split>.txt`.
        limit: only the first N photographs; 0 for all.
        seed: of the moved boxes.

    Returns:
        `objects` (their number), the mean IoU from the innermost point (the mask that the model itself ranks first,
        and the best of three), from the exact box and from a box whose sides moved by up to 10 % (`box`, `moved_box`:
        the single mask; `_ranked`: the model's first of three; `_ranked_cut`: that one inside the box grown by 5 %),
        the same of the filled box and the inscribed ellipse, and all of it `by_size`, the share of the image.

    Raises:
        FileNotFoundError: the split or a file is not there.
    """
    names = (voc / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()
    predictor, rng = SamPredictor(sam), np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    for name in names[: limit or None]:
        objects = targets(np.asarray(Image.open(voc / "SegmentationClassAug" / f"{name}.png"), np.uint8), rng)
        if objects:
            photo = np.asarray(Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB"))
            rows += measure_photo(predictor, photo, objects)
    groups = {name: [r for r in rows if low <= r["share"] < high] for name, (low, high) in SIZES.items()}
    return {"split": split, **_means(rows), "by_size": {name: _means(group) for name, group in groups.items()}}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = [key for key in (rows[0] if rows else {}) if key != "share"]
    return {"objects": len(rows), **{key: round(float(np.mean([row[key] for row in rows])), 4) for key in keys}}
