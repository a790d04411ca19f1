"""Learning from noisy maps by two branches that vouch for each other (CromSS, Liu et al., 2024).

The paper has two sensors, radar and multispectral, each with its own network, and labels of four seasons. A photograph
has one sensor. What stands in for the second is what the first does not need to look at: planes of texture and edges
that are computed from the luminance (`texture_planes`), seen by a small network of its own (`TextureBranch`). Colour
is hidden from it, so that the two err differently; they are not as independent as two sensors, and the branch is thrown
away after training. Of the paper's label prior (frequency over seasons, and a blurred map) there is the blurred map.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses.confidence import class_share_threshold
from models.losses.config import NoisyConfig
from models.losses.ema import LUMINANCE
from models.losses.supervised import one_hot, upsample, weighted_mean
from models.losses.types import IGNORE, in_float32

TEXTURE_PLANES = 6
_STD_WINDOWS_PX = (5, 11)


@torch.no_grad()
@in_float32
def texture_planes(images: Tensor) -> Tensor:
    """Texture and edges of images float [B, 3, H, W] in 0..1: float32 [B, 6, H, W].

    Of the luminance: both derivatives (Sobel), their length, a Laplacian, and the deviation in windows of 5 and 11 px;
    each plane divided by its deviation over the image.
    """
    gray = (images * torch.tensor(LUMINANCE, device=images.device)[:, None, None]).sum(1, keepdim=True)
    gray = gray - gray.mean((2, 3), keepdim=True)  # For the precision of the deviations below.
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device) / 8
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=images.device)
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    dx, dy, curve = F.conv2d(padded, torch.stack([sobel, sobel.T, laplace])[:, None]).split(1, 1)
    planes = [dx, dy, (dx * dx + dy * dy).sqrt(), curve]
    for window in _STD_WINDOWS_PX:
        wide = F.pad(gray, [window // 2] * 4, mode="replicate")
        mean, square = (F.avg_pool2d(x, window, 1) for x in (wide, wide * wide))
        planes.append((square - mean * mean).clamp(min=0).sqrt())
    stacked = torch.cat(planes, 1)
    return stacked / (stacked.std((2, 3), keepdim=True) + 1e-4)


class TextureBranch(nn.Module):
    """The second branch: a small network from texture planes to logits.

    forward: float [B, 6, H, W] to float [B, C, h, w], h and w a quarter.
    """

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()

        def layer(c_in: int, c_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(c_in, c_out, 3, stride, dilation, dilation, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))

        self.layers = nn.Sequential(
            layer(TEXTURE_PLANES, width, stride=2),
            layer(width, 2 * width, stride=2),
            *(layer(2 * width, 2 * width, dilation=dilation) for dilation in (1, 2, 4, 8)),
            nn.Conv2d(2 * width, num_classes, 1),
        )

    def forward(self, planes: Tensor) -> Tensor:
        logits: Tensor = self.layers(planes)
        return logits


@torch.no_grad()
@in_float32
def label_confidence(logits: Tensor, hard: Tensor) -> Tensor:
    """Probability of the given label, float32 [B, H, W]; 0 at IGNORE. logits float [B, C, h, w]."""
    probs = upsample(logits, hard.shape[-2:]).softmax(1)
    return probs.gather(1, hard.clamp(min=0)[:, None])[:, 0] * (hard != IGNORE)


@torch.no_grad()
@in_float32
def prediction_confidence(logits: Tensor) -> Tensor:
    """1 - entropy / log C of logits [B, C, h, w], float32 [B, h, w] in 0..1."""
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return (1 - entropy / math.log(max(2, logits.shape[1]))).clamp(0, 1)


def entangle(mine: Tensor, other: Tensor) -> Tensor:
    """(c_i + c_i c_j) / 2: confidence that the other branch shares counts fully, confidence of its own by half."""
    return (mine + mine * other) / 2


def selection_share(progress: float, config: NoisyConfig) -> tuple[float, float]:
    """How far selection has come at a share of the training.

    Returns:
        the share of pixels of full weight, from 1 falling linearly to config.share when config.anneal of the training
        is done; and how much confidence weighs the consistency, rising from 0 to 1 meanwhile.
    """
    done = min(1.0, progress / config.anneal) if config.anneal > 0 else 1.0
    return 1 - done * (1 - config.share), done


@torch.no_grad()
def selection_weight(confidence: Tensor, hard: Tensor, num_classes: int, share: float) -> Tensor:
    """min(1, c / c*), c* what the most confident `share` of the pixels of the same label reaches; float32 [B, H, W].

    Chosen within each class, so that rare and hard classes keep their share; every class keeps at least one pixel
    (released code drops classes too small for it). 1 everywhere if all confidences of a class are alike; 0 at IGNORE.

    Args:
        confidence: float32 [B, H, W], 0..1. hard: int64 [B, H, W], the noisy labels. share: 0..1.
    """
    threshold, _ = class_share_threshold(confidence, hard, num_classes, share)
    limit = threshold[hard.clamp(min=0)]
    weight = torch.where(limit > 0, confidence / limit.clamp(min=1e-12), torch.ones_like(confidence))
    return weight.clamp(0, 1) * (hard != IGNORE)


@torch.no_grad()
def smoothed_labels(hard: Tensor, num_classes: int, config: NoisyConfig) -> Tensor | None:
    """(1 - prior - uniform) onehot + prior * blurred map + uniform / C, float32 [B, C, H, W], sums of 1.

    prior and uniform are config.prior_smoothing and config.uniform_smoothing; None where both are 0. The blur is a
    Gaussian over labeled pixels only (normalised convolution). Pixels that are IGNORE in hard, int64 [B, H, W], hold
    no distribution: losses leave them out.
    """
    prior, uniform = config.prior_smoothing, config.uniform_smoothing
    if prior + uniform > 1:
        raise ValueError(f"prior_smoothing {prior} and uniform_smoothing {uniform} leave nothing of the label")
    if not prior + uniform:
        return None
    given = one_hot(hard, num_classes)
    smooth = (1 - prior - uniform) * given + uniform / num_classes
    if prior:
        blurred = _gaussian(torch.cat([given, given.sum(1, keepdim=True)], 1), config.prior_sigma_px)
        smooth = smooth + prior * blurred[:, :-1] / blurred[:, -1:].clamp(min=1e-6)
    return smooth


def _gaussian(maps: Tensor, sigma_px: float) -> Tensor:
    """Separable Gaussian blur of [B, K, H, W] up to two sigma, zeros beyond the frame."""
    radius = max(1, round(2 * sigma_px))
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma_px * sigma_px))
    kernel = kernel / kernel.sum()
    flat = maps.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, radius)).view_as(maps)


@in_float32
def consistency(logits: Tensor, other: Tensor, confidence: Tensor) -> Tensor:
    """Mean cross-entropy of one branch to the other's probabilities, each pixel by the other's confidence; float32.

    logits, other: float [B, C, h, w], on one grid; no gradient into other. confidence: float [B, h, w].
    """
    costs = F.cross_entropy(logits, other.detach().softmax(1), reduction="none")
    return weighted_mean(costs, confidence)
