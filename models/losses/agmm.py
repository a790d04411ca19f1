"""The losses of AGMM (Wu et al., "Sparsely Annotated Semantic Segmentation with Adaptive Gaussian Mixtures", 2023)."""

from collections.abc import MutableMapping

import torch
from torch import Tensor

from models.losses.config import AgmmConfig
from models.losses.prototypes import PrototypeField
from models.losses.supervised import weighted_mean
from models.losses.types import Terms, in_float32
from models.losses.workers import sum_over_workers

EPSILON = 1e-6


@in_float32
def binary_cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    """Elementwise -t log p - (1 - t) log(1 - p), float32; gradients flow into both."""
    return -target * (predicted + EPSILON).log() - (1 - target) * (1 - predicted + EPSILON).log()


@in_float32
def agmm_losses(
    logits: Tensor,
    features: Tensor,
    seeds: Tensor,
    config: AgmmConfig,
    memory: MutableMapping[str, Tensor] | None = None,
    progress: float = 1.0,
) -> Terms:
    """Weighted terms that spread sparse labels over their images; cross-entropy on the labels comes beside them.

    "agmm_prediction": half the binary cross-entropy between predictions and responsibilities, over all pixels of
    images with labels and the classes labeled in them; it teaches both. "agmm_seeds": the same between
    responsibilities and labels, over labeled pixels. "agmm_repulsion": mean over pairs of classes of exp(-d^2), d the
    mean absolute difference of their centres, each the mean over the batch's images (released code takes the sum).

    Computed on the feature grid, where the paper upsamples everything to the image.

    Args:
        logits: float [B, C, h, w], on the grid of the features. features: float [B, D, h, w].
        seeds: int64 [B, H, W], 0..C-1 or IGNORE.
        memory: `TrainState.memory`; holds the remembered centres if config.memory_momentum is above 0.
        progress: share of the training that is done, for config.ramp.
    """
    field = PrototypeField(features, seeds, logits.shape[1])
    given = field.responsibilities(config.sigma)
    present = field.present[:, :, None, None].float()
    terms: Terms = {}
    if config.prediction:
        costs = _mean_over(binary_cross_entropy(logits.softmax(1), given), present)
        pixels = field.present.any(1)[:, None, None].expand_as(costs).float()
        ramp = min(1.0, progress / config.ramp) if config.ramp else 1.0
        terms["agmm_prediction"] = ramp * config.prediction * 0.5 * weighted_mean(costs, pixels)
    if config.seeds:
        labeled = field.seeds.sum(1)
        truth = field.seeds / labeled[:, None].clamp(min=1)
        costs = _mean_over(binary_cross_entropy(given, truth), present)
        terms["agmm_seeds"] = config.seeds * 0.5 * weighted_mean(costs, labeled)
    if config.repulsion:
        terms["agmm_repulsion"] = config.repulsion * _repulsion(field, config.memory_momentum, memory)
    return terms


def _mean_over(costs: Tensor, present: Tensor) -> Tensor:
    """Mean over the classes present, [B, C, h, w] to [B, h, w]."""
    return (costs * present).sum(1) / present.sum(1).clamp(min=1)


def _repulsion(field: PrototypeField, momentum: float, memory: MutableMapping[str, Tensor] | None) -> Tensor:
    """Mean over pairs of classes of exp(-d^2); remembered centres are fixed, and no pair is of two of them."""
    count = field.present.sum(0).float()
    centres = field.centres.sum(0) / count.clamp(min=1)[:, None]
    live = count > 0
    known, others = live, centres
    if momentum and memory is not None:
        remembered, seen = _remember(field, momentum, memory)
        others = torch.where(live[:, None], centres, remembered)
        known = live | seen
    distances = torch.cdist(centres, others, p=1) / centres.shape[1]
    pairs = live[:, None] & known[None]
    # A pair of two live classes stands twice in the table, which leaves its mean as it is if there are no others.
    pairs = pairs & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    return weighted_mean(torch.exp(-distances.square()), pairs.float())


@torch.no_grad()
def _remember(field: PrototypeField, momentum: float, memory: MutableMapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Moving means of the centres over steps and workers: float32 [C, D], and bool [C], those ever seen."""
    count = field.present.sum(0).float()[:, None]
    total = sum_over_workers(torch.cat([field.centres.sum(0), count], 1))
    now, occurs = total[:, :-1] / total[:, -1:].clamp(min=1), total[:, -1:] > 0
    before = memory.get("prototypes", torch.zeros_like(now)).to(now)
    seen = memory.get("prototypes_seen", torch.zeros(len(now), 1, dtype=torch.bool)).to(occurs)
    after = torch.where(seen, momentum * before + (1 - momentum) * now, now)
    memory["prototypes"] = torch.where(occurs, after, before)
    memory["prototypes_seen"] = seen | occurs
    return memory["prototypes"], memory["prototypes_seen"][:, 0]
