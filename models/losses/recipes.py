"""Training recipes: plain functions that compose the losses. Add one, and name it in `config.RecipeName`.

    terms = RECIPES["from_points"](student, batch, state, config)
    terms["loss"].backward()

Every recipe runs the student forward once, on as many images as the batch has (in `semi_supervised` without an EMA
teacher, on the unlabeled ones twice), so that it fits DistributedDataParallel; labeled images and strong views of
unlabeled ones share the batch statistics of that pass. Losses are float32 whatever the autocast, means over what the
worker has, finite and connected to all parameters when a batch lacks labeled images, unlabeled images or classes.
Supervised terms see labeled images only, pseudo-labels unlabeled images only; distillation sees both.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.losses.agmm import agmm_losses
from models.losses.confidence import boundary_cross_entropy, boundary_map
from models.losses.config import LossesConfig, RecipeName, SupervisedConfig
from models.losses.cross_confidence import (
    TextureBranch,
    consistency,
    entangle,
    label_confidence,
    prediction_confidence,
    selection_share,
    selection_weight,
    smoothed_labels,
    texture_planes,
)
from models.losses.semi import Views, distill_mixed, pseudo_label_terms, student_views
from models.losses.supervised import absent_class_loss, dice, upsample, weighted_cross_entropy, weighted_mean
from models.losses.types import IGNORE, STAT, SegmentationModel, TargetBatch, Terms, TrainState

Recipe = Callable[[SegmentationModel, TargetBatch, TrainState, LossesConfig], Terms]


def extra_modules(config: LossesConfig, num_classes: int, recipe: RecipeName) -> nn.ModuleDict:
    """What a recipe trains beside the student: to be optimised with it, checkpointed, and given as `TrainState.extra`.

    Wrap each module (not the dict) in DistributedDataParallel. Empty for most recipes.
    """
    if recipe == "from_noisy_maps" and config.noisy.selection:
        return nn.ModuleDict({"texture": TextureBranch(num_classes, config.noisy.texture_width)})
    return nn.ModuleDict()


def supervised(student: SegmentationModel, batch: TargetBatch, state: TrainState, config: LossesConfig) -> Terms:
    """Cross-entropy, Dice and, if asked for, the boundary term, by the confidence of each labeled pixel."""
    batch = _labeled_images(batch).every(config.supervised.stride)
    out = student(batch.images)
    return _total(_supervised(out["logits"], batch, config.supervised), out)


def from_tags(student: SegmentationModel, batch: TargetBatch, state: TrainState, config: LossesConfig) -> Terms:
    """Pseudo-labels with confidences, made from tags: `supervised`, classes that the tags exclude are forbidden on
    every pixel ("absent"), and the most confident pixels may seed a Gaussian mixture (AGMM)."""
    batch = _labeled_images(batch).every(config.supervised.stride)
    out = student(batch.images)
    terms = _supervised(out["logits"], batch, config.supervised)
    if config.tags.absent and batch.absent is not None:
        terms["absent"] = config.tags.absent * absent_class_loss(out["logits"], batch.absent)
    if config.tags.agmm:
        seeds = _known(batch).masked_fill(batch.weight < config.tags.seed_confidence, IGNORE)
        terms |= agmm_losses(out["logits"], out["feats"], seeds, config.agmm, state.memory, state.progress)
    return _total(terms, out)


def from_points(student: SegmentationModel, batch: TargetBatch, state: TrainState, config: LossesConfig) -> Terms:
    """Sparse labels of any form, drawn into partial maps: cross-entropy on them, and AGMM if it is on.

    Which form it was (points, scribbles, boxes, blocks, a dense map) is not asked: one path for all. Dice is left out,
    since a few pixels say nothing of a class's extent.
    """
    batch = _labeled_images(batch)
    out = student(batch.images)
    terms = _supervised(out["logits"], batch, replace(config.supervised, dice=0.0, boundary=0.0))
    if config.points.agmm:
        terms |= agmm_losses(out["logits"], out["feats"], _known(batch), config.agmm, state.memory, state.progress)
        if config.points.absent and batch.absent is not None:
            terms["absent"] = config.points.absent * absent_class_loss(out["logits"], batch.absent)
    return _total(terms, out)


def semi_supervised(student: SegmentationModel, batch: TargetBatch, state: TrainState, config: LossesConfig) -> Terms:
    """Labeled images, and pseudo-labels on unlabeled ones: an EMA teacher sees the weak view, the student a strong
    view with CutMix; CW-BASS chooses and weighs; MGD adds frozen teachers. See `SemiConfig`.

    Raises:
        ValueError: config.semi.ema without state.ema, or config.semi.mgd without state.teachers.
    """
    if not (config.semi.uses_pseudo_labels or config.semi.mgd):
        return supervised(student, batch, state, config)
    views = student_views(batch, state, config.semi)
    out = student(views.images)
    dense = batch.every(config.supervised.stride)
    terms = _supervised(out["logits"][: len(batch.images)], dense, config.supervised)
    if config.semi.uses_pseudo_labels:
        terms |= pseudo_label_terms(out["logits"], views, batch, state, config)
    if config.semi.mgd:
        terms |= distill_mixed(out, views, batch, state, config.mgd)
    return _total(terms, out)


def from_noisy_maps(student: SegmentationModel, batch: TargetBatch, state: TrainState, config: LossesConfig) -> Terms:
    """Dense maps, many of whose pixels are wrong: CromSS with the student as first branch and
    `state.extra["texture"]` as second; without selection, cross-entropy and Dice on the maps as they are.

    Raises:
        ValueError: config.noisy.selection without the second branch.
    """
    batch, noisy = _labeled_images(batch), config.noisy
    out = student(batch.images)
    if not noisy.selection:
        return _total(_supervised(out["logits"], batch, config.supervised), out)
    if "texture" not in state.extra:
        raise ValueError("losses.noisy.selection needs the second branch: give extra_modules(...) as TrainState.extra")
    texture = upsample(state.extra["texture"](texture_planes(batch.images)), out["logits"].shape[-2:])
    branches, hard = (out["logits"], texture), _known(batch)
    given = [label_confidence(logits, hard) for logits in branches]
    sure = [prediction_confidence(logits) for logits in branches]
    share, trust = selection_share(state.progress, noisy)
    soft = smoothed_labels(hard, texture.shape[1], noisy)
    terms: Terms = {}
    for mine, name in enumerate(("", "texture_")):
        other = 1 - mine
        weight = selection_weight(entangle(given[mine], given[other]), hard, texture.shape[1], share)
        found = _supervised(branches[mine], batch, config.supervised, weight, soft)
        terms |= {name + key: value for key, value in found.items()}
        terms[f"{STAT}{name}selected"] = weighted_mean(weight, (hard != IGNORE).float())
        if noisy.consistency:
            vouched = 1 - trust + trust * entangle(sure[other], sure[mine])
            terms[name + "consistency"] = noisy.consistency * consistency(branches[mine], branches[other], vouched)
    return _total(terms, out)


def distill(student: SegmentationModel, batch: TargetBatch, state: TrainState, config: LossesConfig) -> Terms:
    """Frozen teachers (`state.teachers`) at image, region and pixel level (MGD) on all images, and
    `supervised` on the labeled ones.

    Raises:
        ValueError: there is no teacher.
    """
    out = student(batch.images)
    terms = _supervised(out["logits"], batch.every(config.supervised.stride), config.supervised)
    terms |= distill_mixed(out, Views(batch.images), batch, state, config.mgd)
    return _total(terms, out)


RECIPES: dict[RecipeName, Recipe] = {
    "supervised": supervised,
    "from_tags": from_tags,
    "from_points": from_points,
    "semi_supervised": semi_supervised,
    "from_noisy_maps": from_noisy_maps,
    "distill": distill,
}


def _labeled_images(batch: TargetBatch) -> TargetBatch:
    """The labeled images; all, if none is labeled, so that every worker runs its student."""
    rows = batch.labeled.nonzero()[:, 0]
    return batch.rows(rows) if 0 < len(rows) < len(batch.images) else batch


def _known(batch: TargetBatch) -> Tensor:
    """Targets int64 [B, H, W] of labeled images, IGNORE where their weight is 0."""
    return batch.hard.masked_fill((batch.weight <= 0) | ~batch.labeled[:, None, None], IGNORE)


def _supervised(
    logits: Tensor,
    batch: TargetBatch,
    config: SupervisedConfig,
    selection: Tensor | None = None,
    soft: Tensor | None = None,
) -> Terms:
    """Weighted terms "cross_entropy", "dice", "boundary". selection: float32 [B, H, W], times the labels' weights."""
    hard = _known(batch)
    weight = batch.weight.float() ** config.gamma
    if selection is not None:
        weight = weight * selection
    terms: Terms = {}
    if config.cross_entropy:
        terms["cross_entropy"] = config.cross_entropy * weighted_cross_entropy(logits, hard, weight, soft)
    if config.dice:
        terms["dice"] = config.dice * dice(logits, hard, weight, soft)
    if config.boundary:
        terms["boundary"] = config.boundary * boundary_cross_entropy(logits, hard, boundary_map(hard), weight)
    return terms


def _total(terms: Terms, out: Mapping[str, Any]) -> Terms:
    """Adds "loss", the sum of the terms; every output of the student is in its graph, whatever the terms are."""
    outputs = [value for value in (out["logits"], *out.get("aux", {}).values()) if value.requires_grad]
    anchor = sum((value.float().sum() * 0 for value in outputs), out["logits"].new_zeros((), dtype=torch.float32))
    losses = [value for name, value in terms.items() if not name.startswith(STAT)]
    return {"loss": sum(losses, anchor), **terms}
