"""Which pseudo-labels count and how much: threshold policies, class boundaries, and the loss of CW-BASS."""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decide.confidence import dynamic_threshold
from models.losses.config import ConfidenceConfig, CwBassConfig
from models.losses.supervised import pixel_cross_entropy, upsample, weighted_mean
from models.losses.types import IGNORE, in_float32
from models.losses.workers import sum_over_workers


@dataclass(frozen=True)
class PseudoLabels:
    """A teacher's opinion. hard: int64 [B, H, W]. confidence: float32 [B, H, W], its probability, 0..1."""

    hard: Tensor
    confidence: Tensor


@torch.no_grad()
@in_float32
def pseudo_labels(logits: Tensor, size: tuple[int, ...]) -> PseudoLabels:
    """Most likely class and its probability at height and width `size`, from logits float [B, C, h, w]."""
    confidence, hard = upsample(logits, size).softmax(1).max(1)
    return PseudoLabels(hard, confidence)


class ConfidencePolicy:
    """Thresholds on confidence.

    "fixed": `threshold`. "dynamic": CW-BASS's, base / (1 + exp(-slope * (mean - 0.5))) of the mean confidence over all
    pixels, the formula that also keeps pixels of labels (`models.decide.confidence`); with the shipped base and slope
    it spans 0.3 to 0.79, where the released ones (0.6, 0.5) span 0.30 to 0.34. "per-class": what the most confident
    `class_share` of the pixels of each predicted class reaches, averaged over steps in `memory`.
    """

    def __init__(self, config: ConfidenceConfig) -> None:
        if config.dynamic_low > config.dynamic_high:
            raise ValueError(f"dynamic_low {config.dynamic_low} is above dynamic_high {config.dynamic_high}")
        self.config = config

    @torch.no_grad()
    def thresholds(self, pseudo: PseudoLabels, num_classes: int, memory: MutableMapping[str, Tensor]) -> Tensor:
        """float32 [C]: the confidence that pixels of each predicted class need.

        memory: `TrainState.memory`; "per-class" reads and updates "class_thresholds", the same on all workers.
        """
        config = self.config
        if config.policy == "per-class":
            return self._per_class(pseudo, num_classes, memory)
        threshold = config.threshold
        if config.policy == "dynamic":
            mean = float(pseudo.confidence.mean()) if pseudo.confidence.numel() else 0.0
            threshold = dynamic_threshold(
                mean, config.dynamic_base, config.dynamic_slope, config.dynamic_low, config.dynamic_high
            )
        return pseudo.confidence.new_full((num_classes,), threshold)

    def _per_class(self, pseudo: PseudoLabels, num_classes: int, memory: MutableMapping[str, Tensor]) -> Tensor:
        found, count = class_share_threshold(pseudo.confidence, pseudo.hard, num_classes, self.config.class_share)
        seen = (count > 0).float()
        total = sum_over_workers(torch.stack([found * seen, seen]))
        found, occurs = total[0] / total[1].clamp(min=1), total[1] > 0
        before = memory.get("class_thresholds", torch.full_like(found, math.nan)).to(found)
        momentum = self.config.class_momentum
        after = torch.where(before.isnan(), found, momentum * before + (1 - momentum) * found)
        memory["class_thresholds"] = torch.where(occurs, after, before)
        return memory["class_thresholds"].nan_to_num(1.0)  # A class that was never predicted has no pixels to keep.


@torch.no_grad()
@in_float32
def class_share_threshold(confidence: Tensor, classes: Tensor, num_classes: int, share: float) -> tuple[Tensor, Tensor]:
    """The confidence that the most confident `share` of each class's pixels reaches.

    Args:
        confidence: float, any shape, 0..1. classes: int64, same shape; IGNORE is left out. share: 0..1.

    Returns:
        threshold float32 [C], 1 for classes without pixels; count int64 [C]. At least one pixel of a class reaches
        its threshold, however few there are.
    """
    classes, confidence = classes.flatten(), confidence.flatten().clamp(0, 1)
    group = torch.where(classes == IGNORE, num_classes, classes)
    # Two stable sorts order pixels by class, and by falling confidence inside a class, without a loop over classes.
    ordered, order = confidence.sort(descending=True, stable=True)
    by_class = group[order].sort(stable=True).indices
    ordered = F.pad(ordered[by_class], (0, 1), value=1.0)
    count = torch.zeros(num_classes + 1, dtype=torch.int64, device=confidence.device)
    count = count.scatter_add_(0, group, torch.ones_like(group))[:num_classes]
    last = count.cumsum(0) - count + (count.double() * share).long().clamp(min=1) - 1
    # Classes without pixels point at the 1 behind the end.
    return ordered[torch.where(count > 0, last, len(confidence))], count


def boundary_map(hard: Tensor) -> Tensor:
    """bool [B, H, W]: pixels whose 3x3 neighbourhood holds another class, of int64 [B, H, W].

    Every pixel where a Sobel filter of the one-hot map answers (CW-BASS), and those few where it cancels in a
    symmetric pattern. Neighbours beyond the frame do not exist, so that the frame is no boundary (released code pads
    with zeros, which makes all of it one), and neither do IGNORE pixels, so that the end of what is known is none.
    """
    known = hard != IGNORE
    values = hard.float()[:, None]
    # max_pool2d pads with minus infinity: what lies outside never wins.
    highest = F.max_pool2d(values.masked_fill(~known[:, None], -math.inf), 3, 1, 1)
    lowest = -F.max_pool2d((-values).masked_fill(~known[:, None], -math.inf), 3, 1, 1)
    return (highest > lowest)[:, 0] & known


def confidence_weight(confidence: Tensor, config: CwBassConfig, progress: float) -> Tensor:
    """(confidence * decay^progress)^gamma, the weight of a pseudo-label in CW-BASS.

    The paper lets confidences decay as training goes on; released code multiplies them by a constant, and only if
    asked to. Here decay is the factor at the end (progress 1), and 1 switches it off.
    """
    return (confidence * config.decay**progress) ** config.gamma


@in_float32
def boundary_cross_entropy(logits: Tensor, hard: Tensor, boundary: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over labeled pixels of the boundary, float32; 0 where there are none.

    Args:
        logits: float [B, C, h, w]. hard: int64 [B, H, W]. boundary: bool [B, H, W].
        weight: float [B, H, W]; None: 1.
    """
    on = (boundary & (hard != IGNORE)).float()
    return weighted_mean(pixel_cross_entropy(logits, hard), on if weight is None else on * weight)


@in_float32
def confidence_weighted_cross_entropy(logits: Tensor, hard: Tensor, weight: Tensor) -> Tensor:
    """CW-BASS: sum of weight times cross-entropy over the number (not the weight) of labeled pixels, float32.

    So lower confidences make the whole term smaller, unlike in `weighted_cross_entropy`.
    """
    return (pixel_cross_entropy(logits, hard) * weight).sum() / (hard != IGNORE).sum().clamp(min=1)
