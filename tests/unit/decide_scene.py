"""A synthetic image whose evidence is known: three objects on a plain ground, features that point at their classes."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from models.decide.types import ClassArrays, Label, TextBank, WeakArrays
from models.evidence import Evidence, MaskBank

NAMES = ["cat", "dog", "sofa", "car"]
CLASSES = ClassArrays(np.array([1, 2, 3, 4], np.int32), NAMES, 0)
COLORS = {0: (90, 140, 90), 1: (230, 120, 30), 2: (60, 60, 200), 3: (200, 40, 160)}
DIM = 8


@dataclass(frozen=True)
class World:
    """truth: int32 [H, W] class ids; what observe would have seen of it; and the embedded class names."""

    truth: np.ndarray
    evidence: Evidence
    text: TextBank


def make_world(height: int = 120, width: int = 160, full: tuple[int, int] | None = None, noise: float = 0.15) -> World:
    """A cat (round, left), a dog (box, right), a sofa (small, low). full: size of the image behind the evidence."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    truth = np.zeros((height, width), np.int32)
    truth[(y - 0.45) ** 2 / 0.09 + (x - 0.3) ** 2 / 0.03 < 1] = 1
    truth[(y > 0.25) & (y < 0.6) & (x > 0.6) & (x < 0.92)] = 2
    truth[(y > 0.75) & (y < 0.92) & (x > 0.62) & (x < 0.8)] = 3
    rng = np.random.default_rng(7)
    text = TextBank(np.eye(DIM, dtype=np.float32)[:5], np.array([0, 1, 2, 3, -1], np.int32))
    picture = np.zeros((height, width, 3), np.uint8)
    for value, color in COLORS.items():
        picture[truth == value] = color
    picture = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    evidence = Evidence(
        height=(full or truth.shape)[0],
        width=(full or truth.shape)[1],
        features=_features(truth, rng, noise),
        embedding=_unit(np.array([0.6, 0.5, 0.4, 0.05, 0.1, 0, 0, 0], np.float32)),
        bank=_bank(truth),
        guide=picture,
    )
    return World(truth, evidence, text)


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values)).astype(np.float32)


def _features(truth: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Patches on a grid of 8 pixels: the share of each class in the patch and its surroundings, plus noise."""
    planes = np.stack([truth == 1, truth == 2, truth == 3, np.zeros_like(truth, bool), truth == 0])
    size = (max(truth.shape[1] // 8, 1), max(truth.shape[0] // 8, 1))
    small = [np.asarray(Image.fromarray(p.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)) for p in planes]
    features = np.zeros((*small[0].shape, DIM), np.float32)
    features[..., :5] = np.stack(small, -1)
    return features + rng.normal(0, noise, features.shape).astype(np.float32)


def _bank(truth: np.ndarray) -> MaskBank:
    """One clean mask an object, one of two objects together, one of the ground."""
    masks = [truth == 1, truth == 2, truth == 3, (truth == 2) | (truth == 3), truth == 0]
    small = [np.asarray(Image.fromarray((m * 255).astype(np.uint8)).resize((64, 48))) for m in masks]
    return MaskBank(
        np.stack(small),
        np.array([0.9, 0.9, 0.8, 0.6, 0.7], np.float32),
        np.array([0.95, 0.95, 0.9, 0.8, 0.9], np.float32),
        np.zeros(5, np.uint8),
    )


def weak(**given: object) -> WeakArrays:
    """Weak labels of the four classes; `tags` is a complete list of rows that are present."""
    out = WeakArrays.none(len(NAMES))
    if "tags" in given:
        present = np.isin(np.arange(len(NAMES)), given.pop("tags"))
        out = replace(out, present=present, absent=~present)
    if "points" in given:
        points = given.pop("points")
        xy, rows = np.array([p[:2] for p in points], np.float32), np.array([p[2] for p in points], np.int32)
        out = replace(out, points=xy, point_classes=rows)
    if "boxes" in given:
        boxes = given.pop("boxes")
        xyxy, rows = np.array([b[:4] for b in boxes], np.float32), np.array([b[4] for b in boxes], np.int32)
        out = replace(out, boxes=xyxy, box_classes=rows)
    return replace(out, **given)  # type: ignore[arg-type]


def iou(label: Label, truth: np.ndarray, class_id: int) -> float:
    got, want = label.class_map == class_id, truth == class_id
    return float((got & want).sum() / max((got | want).sum(), 1))
