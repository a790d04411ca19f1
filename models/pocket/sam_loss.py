"""Loss of the pocket SAM: focal, class-balanced cross-entropy and dice, on the single mask and the best of three."""

import torch
from torch import Tensor
from torch.nn import functional as F

IOU_WEIGHT = 1.0
ALL_MASKS_WEIGHT = 0.05
"""A little of every mask's loss, so that no token of the three dies."""


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """3 x focal + class-balanced BCE + dice of every mask.

    Focal loss with a plain mean collapses to empty masks on small things; the balanced term keeps both sides of the
    outline at equal weight, and dice (Milletari et al., 3DV 2016) follows the overlap.

    Args:
        logits: float [N, M, h, w]. targets: float [N, h, w] in {0, 1}.

    Returns:
        float32 [N, M].
    """
    logits = logits.float().flatten(2)
    truth = targets.flatten(1)[:, None]
    bce = F.softplus(logits) - logits * truth
    probability = logits.sigmoid()
    miss = probability + truth - 2 * probability * truth
    focal = (bce * miss * miss).mean(2)
    positive = (bce * truth).sum(2) / truth.sum(2).clamp(min=1)
    negative = (bce * (1 - truth)).sum(2) / (1 - truth).sum(2).clamp(min=1)
    overlap = (probability * truth).sum(2)
    dice = 1 - (2 * overlap + 1) / (probability.sum(2) + truth.sum(2) + 1)
    return 3 * focal + 0.5 * (positive + negative) + dice


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of logits > 0, float [N, M, h, w], with targets float [N, h, w]; float32 [N, M]."""
    found = (logits > 0).flatten(2).float()
    truth = targets.flatten(1)[:, None]
    overlap = (found * truth).sum(2)
    return overlap / (found.sum(2) + truth.sum(2) - overlap).clamp(min=1)


def prompt_loss(logits: Tensor, predicted_iou: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The whole loss and, for the log, the single mask's mean IoU.

    Args:
        logits: float [N, 4, h, w]. predicted_iou: float [N, 4]. targets: float [N, h, w].
    """
    losses = mask_loss(logits, targets)
    iou = mask_iou(logits, targets)
    single, three = losses[:, 0], losses[:, 1:]
    quality = F.mse_loss(predicted_iou.float(), iou)
    loss = (single + three.min(dim=1).values).mean() + ALL_MASKS_WEIGHT * three.mean() + IOU_WEIGHT * quality
    return loss, iou[:, 0].mean()
