"""The unlabeled part of `recipes.semi_supervised`: views, pseudo-labels, and frozen teachers on mixed images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.losses.confidence import (
    ConfidencePolicy,
    PseudoLabels,
    boundary_cross_entropy,
    boundary_map,
    confidence_weight,
    confidence_weighted_cross_entropy,
    pseudo_labels,
)
from models.losses.config import ConfidenceConfig, DistillConfig, LossesConfig, SemiConfig
from models.losses.distill import Distiller, teacher_labels
from models.losses.ema import CutMix, cutmix, strong_view
from models.losses.supervised import pixel_cross_entropy
from models.losses.types import IGNORE, STAT, TargetBatch, Terms, TrainState


@dataclass(frozen=True)
class Views:
    """What the student is shown.

    images: float32 [B, 3, H, W], labeled images as they are and strong views of unlabeled ones; then, where the
    student is its own teacher, the weak views of the unlabeled ones once more. rows: int64 [U], the unlabeled images.
    mix: the boxes that were pasted into them.
    """

    images: Tensor
    rows: Tensor | None = None
    mix: CutMix | None = None


def student_views(batch: TargetBatch, state: TrainState, config: SemiConfig) -> Views:
    """Strong views of the unlabeled images, mixed among themselves, in their places in the batch."""
    rows = (~batch.labeled).nonzero()[:, 0]
    weak = batch.images[rows]
    view = strong_view(weak, state.generator) if config.strong_view else weak
    mix = None
    if config.cutmix and len(rows):
        mix = cutmix(len(rows), state.generator, rows.device, config.cutmix_area, config.cutmix_probability)
        view = mix.mix(view)
    images = batch.images.index_copy(0, rows, view.to(batch.images.dtype))
    if config.uses_pseudo_labels and not config.ema:
        images = torch.cat([images, weak])
    return Views(images, rows, mix)


def pseudo_label_terms(
    logits: Tensor, views: Views, batch: TargetBatch, state: TrainState, config: LossesConfig
) -> Terms:
    """ "unlabeled", and with CW-BASS "unlabeled_boundary", weighted and ramped up; both 0 without unlabeled images.

    Without CW-BASS: cross-entropy on pixels above config.semi.threshold, over the number of all pixels (FixMatch,
    Sohn et al., NeurIPS 2020). With it: see `confidence`. Boundaries are those of the pseudo-labels before the boxes
    are pasted: the edge of a box is none.

    Args:
        logits: float [B or B + U, C, h, w], the student's on views.images.
    """
    semi, bass, count = config.semi, config.cw_bass, len(batch.images)
    assert views.rows is not None
    teacher = _teacher_logits(logits, views, batch, state, semi)
    pseudo = pseudo_labels(teacher, batch.hard.shape[-2:])
    policy = bass.confidence if semi.cw_bass else ConfidenceConfig(policy="fixed", threshold=semi.threshold)
    limits = ConfidencePolicy(policy).thresholds(pseudo, logits.shape[1], state.memory)
    kept = pseudo.confidence >= limits[pseudo.hard]
    # Before the boxes are pasted: their edges are no boundaries of objects.
    boundary = boundary_map(pseudo.hard)
    if views.mix is not None:
        pseudo = PseudoLabels(views.mix.mix(pseudo.hard), views.mix.mix(pseudo.confidence))
        kept, boundary = views.mix.mix(kept), views.mix.mix(boundary)
    hard = pseudo.hard.masked_fill(~kept, IGNORE)
    seen = logits[:count].index_select(0, views.rows)
    weight = semi.weight * (min(1.0, state.progress / semi.ramp) if semi.ramp else 1.0)
    share = kept.float().mean() if len(kept) else kept.float().sum()
    terms = {STAT + "pseudo_kept": share, STAT + "pseudo_threshold": limits.mean()}
    if not semi.cw_bass:
        terms["unlabeled"] = weight * pixel_cross_entropy(seen, hard).sum() / max(1, hard.numel())
        return terms
    trust = confidence_weight(pseudo.confidence, bass, state.progress)
    terms["unlabeled"] = weight * confidence_weighted_cross_entropy(seen, hard, trust)
    if bass.boundary:
        terms["unlabeled_boundary"] = weight * bass.boundary * boundary_cross_entropy(seen, hard, boundary)
    return terms


@torch.no_grad()
def _teacher_logits(logits: Tensor, views: Views, batch: TargetBatch, state: TrainState, config: SemiConfig) -> Tensor:
    """Logits [U, C, h, w] on the weak views."""
    assert views.rows is not None
    if not config.ema:
        return logits[len(batch.images) :].detach()
    if state.ema is None:
        raise ValueError("losses.semi.ema needs TrainState.ema: make one with make_ema, or switch it off")
    weak = batch.images[views.rows]
    if not len(weak):
        return logits[:0].detach()
    return _outputs(state.ema, weak)["logits"]


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Mapping[str, Any]:
    found: Mapping[str, Any] = model(images)
    return found


def distill_mixed(
    out: Mapping[str, Tensor], views: Views, batch: TargetBatch, state: TrainState, config: DistillConfig
) -> Terms:
    """Terms "mgd_image", "mgd_region", "mgd_pixel" of the frozen teachers, on all images of the batch.

    Teachers see the weak view, once. What they say is mixed like the images: labels as the paper does it, pooled
    logits and features in place of a second run on the mixed images. Where tags are known, a teacher's labels keep to
    them.
    """
    if not state.teachers:
        raise ValueError("distillation needs a teacher: TrainState.teachers is empty (losses.semi.mgd switches it off)")
    count = len(batch.images)
    said = [_outputs(teacher, batch.images) for teacher in state.teachers]
    size = batch.hard.shape[-2:]
    labels = [
        teacher_labels(seen["logits"], size, config.pixel_threshold, batch.absent) for seen in said if "logits" in seen
    ]
    heard = [{name: seen[name] for name in ("logits", "feats") if name in seen} for seen in said]
    if views.mix is not None and views.rows is not None:
        mix = views.mix.scatter(views.rows, count)
        labels = [mix.mix(hard) for hard in labels]
        heard = [{name: mix.mix(maps) for name, maps in seen.items()} for seen in heard]
    student = {name: out[name][:count] for name in ("logits", "feats")}
    return {f"mgd_{name}": term for name, term in Distiller(config)(student, heard, labels).items()}
