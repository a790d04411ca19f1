"""Cross-entropy and Dice over labeled pixels, each with its weight. Targets are at full resolution."""

from torch import Tensor
from torch.nn import functional as F

from models.losses.types import IGNORE, in_float32

TINY = 1e-8


@in_float32
def upsample(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps float [B, C, h, w] at height and width `size`, bilinear, float32."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


@in_float32
def pixel_cross_entropy(logits: Tensor, hard: Tensor, soft: Tensor | None = None) -> Tensor:
    """Cross-entropy of every pixel, float32 [B, H, W], 0 where hard is IGNORE.

    Args:
        logits: float [B, C, h, w], upsampled to the targets.
        hard: int64 [B, H, W], 0..C-1 or IGNORE.
        soft: float [B, C, H, W], distributions over classes that take the place of hard ones.
    """
    logits = upsample(logits, hard.shape[-2:])
    if soft is None:
        return F.cross_entropy(logits, hard, ignore_index=IGNORE, reduction="none")
    return F.cross_entropy(logits, soft, reduction="none") * (hard != IGNORE)


@in_float32
def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of values times weight over the sum of weights; 0, still in the graph of values, where there is no weight."""
    return (values * weight).sum() / weight.sum().clamp(min=TINY)


@in_float32
def weighted_cross_entropy(
    logits: Tensor, hard: Tensor, weight: Tensor | None = None, soft: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over labeled pixels, each by its weight; 0 where none is labeled.

    Args:
        logits: float [B, C, h, w]. hard: int64 [B, H, W], IGNORE for unknown pixels.
        weight: float [B, H, W], at least 0; None: 1. Only its proportions matter.
        soft: float [B, C, H, W], see `pixel_cross_entropy`.

    Returns:
        float32 scalar.
    """
    labeled = (hard != IGNORE).float()
    return weighted_mean(pixel_cross_entropy(logits, hard, soft), labeled if weight is None else weight * labeled)


@in_float32
def dice(logits: Tensor, hard: Tensor, weight: Tensor | None = None, soft: Tensor | None = None) -> Tensor:
    """Soft Dice loss (Milletari et al., 3DV 2016) over the batch, mean over the classes that occur in it; 0..1.

    1 - 2 sum(w p t) / sum(w (p + t)), sums over the labeled pixels of the batch. Arguments as in
    `weighted_cross_entropy`; 0 where no pixel is labeled.
    """
    probs = upsample(logits, hard.shape[-2:]).softmax(1)
    labeled = (hard != IGNORE).float()
    weight = (labeled if weight is None else weight * labeled)[:, None]
    target = soft if soft is not None else one_hot(hard, logits.shape[1])
    overlap = (weight * probs * target).sum((0, 2, 3))
    truth = (weight * target).sum((0, 2, 3))
    both = (weight * probs).sum((0, 2, 3)) + truth
    return weighted_mean(1 - 2 * overlap / both.clamp(min=TINY), (truth > 0).float())


def one_hot(hard: Tensor, num_classes: int) -> Tensor:
    """float32 [B, C, H, W] of int64 [B, H, W]; nothing at IGNORE."""
    full = F.one_hot(hard.clamp(min=0), num_classes).movedim(-1, 1)
    return (full * (hard != IGNORE)[:, None]).float()


@in_float32
def absent_class_loss(logits: Tensor, absent: Tensor) -> Tensor:
    """-sum over absent classes of log(1 - p), mean over the pixels of images that lack a class (AGMM, CVPR 2023).

    Args:
        logits: float [B, C, h, w]. absent: bool [B, C].
    """
    # log1p keeps the precision at small p; the clamp bounds the loss (at 14) where p is 1.
    log_not = (-logits.softmax(1).clamp(max=1 - 1e-6)).log1p()
    of_image = -(log_not * absent[:, :, None, None]).sum(1).mean((1, 2))
    return weighted_mean(of_image, absent.any(1).float())
