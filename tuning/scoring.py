"""Decide one image with the settings of a trial and count its pixels; what trials have in common is kept."""

from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models.class_masks import ClassMasks
from models.decide.config import DecideConfig
from models.decide.decide import draw, frame_of, look
from models.decide.scene import Frame, Scene
from models.decide.types import Label, WeakArrays
from models.evidence import Evidence
from models.metrics import expand_quarter
from pipelines.evaluation.cases import Case, Cases
from tuning.objectives import Counts, gold_counts


@cache
def fields_of(part: str) -> tuple[str, ...]:
    """The fields of DecideConfig that this step is the first to read."""
    return tuple(field.name for field in fields(DecideConfig) if field.metadata["part"] == part)


def _values(config: DecideConfig, part: str) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in fields_of(part))


class Scenes:
    """What of an image lies upstream of the settings that differ, of the last settings that were asked for.

    budget_bytes: images beyond it are looked at anew each time.
    """

    def __init__(self, cases: Cases, budget_bytes: int) -> None:
        self._cases, self._left = cases, budget_bytes
        self._frames: dict[str, tuple[tuple[Any, ...], Frame]] = {}
        self._scenes: dict[str, tuple[tuple[Any, ...], Scene]] = {}
        self.built = 0  # scenes that were not there yet

    def __call__(self, case: Case, config: DecideConfig) -> Scene:
        frame_key = _values(config, "frame")
        scene_key = (*frame_key, *_values(config, "scene"))
        kept = self._scenes.get(case.asset)
        if kept is not None and kept[0] == scene_key:
            return kept[1]
        self.built += 1
        framed = self._frames.get(case.asset)
        if framed is not None and framed[0] == frame_key:
            frame = framed[1]
        else:
            frame = frame_of(case.evidence, config)
            self._keep(case.asset, frame_key, frame)
        scene = look(frame, case.evidence, self._cases.text, self._cases.classes, case.weak, config)
        if case.asset in self._frames:
            self._scenes[case.asset] = (scene_key, scene)
        return scene

    def _keep(self, asset: str, key: tuple[Any, ...], frame: Frame) -> None:
        # The new one takes the place of the old, if there is any.
        old = self._frames.pop(asset, None)
        self._scenes.pop(asset, None)
        self._left += _size(old[1]) if old is not None else 0
        if _size(frame) <= self._left:
            self._left -= _size(frame)
            self._frames[asset] = (key, frame)


def _size(frame: Frame) -> int:
    """Bytes of a frame and, about, of the scene on it. Frames of one size share the affinity's indices."""
    return frame.guide.nbytes + frame.guide_coarse.nbytes + frame.masks.nbytes + frame.flow.data.nbytes + (1 << 16)


def count(cases: Cases, case: Case, config: DecideConfig, scenes: Scenes) -> Counts:
    """Pixel counts of one image under these settings, int64 [2, C, C + 1]; see tuning.objectives."""
    scene = scenes(case, config)
    if case.gold is None:
        return _agreement_counts(cases, case, config, scene)
    label = draw(scene, config, case.of_classes)
    return gold_counts(case.gold, _indices(cases, label), _kept(label), len(cases.names))


def _agreement_counts(cases: Cases, case: Case, config: DecideConfig, scene: Scene) -> Counts:
    """Labels from masks alone against those from text alone; labels against those of the mirrored evidence."""
    text, masks = (
        _indices(cases, draw(scene, replace(config, mask_weight=weight), case.of_classes)) for weight in (0.0, 1.0)
    )
    label = draw(scene, config, case.of_classes)
    mirrored = mirror_case(case)
    other_frame = frame_of(mirrored.evidence, config)
    other = look(other_frame, mirrored.evidence, cases.text, cases.classes, mirrored.weak, config)
    back = _indices(cases, draw(other, config, mirrored.of_classes))[:, ::-1]
    everything = np.ones(text.shape, bool)
    size = len(cases.names)
    pairs = (gold_counts(text, masks, everything, size), gold_counts(_indices(cases, label), back, everything, size))
    return np.stack([pair[0] for pair in pairs])


def _indices(cases: Cases, label: Label) -> npt.NDArray[np.int16]:
    return np.asarray(cases.index_of[label.class_map], np.int16)


def _kept(label: Label) -> npt.NDArray[np.bool_]:
    height, width = label.class_map.shape
    sure = label.confidence >= round(label.keep_threshold * 255)  # as `decide` counts coverage
    return np.asarray(expand_quarter(sure, height, width), bool)


def mirror_case(case: Case) -> Case:
    """The image, its evidence and its weak labels flipped left to right."""
    evidence = mirror_evidence(case.evidence)
    masks = tuple(_mirror_masks(one) for one in case.of_classes)
    return replace(case, evidence=evidence, weak=mirror_weak(case.weak, evidence.width), of_classes=masks)


def mirror_evidence(evidence: Evidence) -> Evidence:
    bank = replace(evidence.bank, probs=np.ascontiguousarray(evidence.bank.probs[..., ::-1]))
    features, guide = evidence.features[:, ::-1], evidence.guide[:, ::-1]
    return replace(evidence, features=np.ascontiguousarray(features), guide=guide, bank=bank)


def _mirror_masks(masks: ClassMasks) -> ClassMasks:
    return replace(masks, bank=replace(masks.bank, probs=np.ascontiguousarray(masks.bank.probs[..., ::-1])))


def mirror_weak(weak: WeakArrays, width: int) -> WeakArrays:
    """Weak labels of an image of this width, flipped left to right."""
    points, boxes = weak.points.copy(), weak.boxes.copy()
    points[:, 0] = width - points[:, 0]
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    lines = [(np.stack([width - xy[:, 0], xy[:, 1]], 1), px, row) for xy, px, row in weak.scribbles]
    partial = None if weak.partial is None else weak.partial[:, ::-1]
    noisy = None if weak.noisy is None else weak.noisy[:, ::-1]
    return replace(weak, points=points, boxes=boxes, scribbles=lines, partial=partial, noisy=noisy)


def count_all(cases: Cases, items: Iterable[Case], config: DecideConfig, budget_bytes: int = 0) -> Counts:
    """Counts of each of these images, int64 [N, 2, C, C + 1]."""
    scenes = Scenes(cases, budget_bytes)
    return np.stack([count(cases, case, config, scenes) for case in items])
