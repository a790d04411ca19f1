"""A small network that says where in an image its tags are: a frozen backbone, one or two 1x1 convolutions, pooling.

Class activation maps: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from models.clip.shapes import bucket
from models.localize.pooling import Pooling
from models.pocket.backbone import IMAGE_MEAN, IMAGE_STD, load_imagenet
from models.pocket.clip_net import PATCH_PX, DenseLite0

FEATURES = 432
"""Channels of the backbone's two stride-16 levels."""
_ABSENT = -1e9


@dataclass(frozen=True)
class LocaliserConfig:
    """classes: C, at least 1. hidden: channels between two convolutions; 0: there is one alone, a linear head.

    background: a channel of its own for what is none of the classes, for training on patches (`patch_loss`); without
    it, maps are class activation maps, for training on tags (`tag_loss`). temperature: of the softmax with a
    background; below 1 the maps are bolder than soft targets made the head. size_px: pictures are resized, aspect
    kept, to about the area of a square of this side.
    """

    classes: int
    hidden: int = 0
    background: bool = False
    temperature: float = 1.0
    pooling: Pooling = field(default_factory=Pooling)
    size_px: int = 320

    def __post_init__(self) -> None:
        if self.classes < 1 or self.hidden < 0 or self.temperature <= 0 or self.size_px < PATCH_PX:
            raise ValueError(f"a localiser needs classes, a temperature above 0 and {PATCH_PX} px or more: {self}")


class Localiser(nn.Module):
    """Backbone features to a map for each class, and a score.

    The backbone is EfficientNet-Lite0 with its last stage dilated; it is never trained, so that its features can be
    kept (`features`) and the head alone be fitted to them (`fit`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: LocaliserConfig, pretrained: bool = False) -> None:
        """pretrained: fill the backbone with its ImageNet weights; ImportError without the extra `pretrain`."""
        super().__init__()
        self.config = config
        self.backbone = DenseLite0().requires_grad_(False)
        if pretrained:
            load_imagenet(self.backbone.lite0)
        channels = config.classes + config.background
        self.head = (
            nn.Sequential(nn.Conv2d(FEATURES, config.hidden, 1), nn.GELU(), nn.Conv2d(config.hidden, channels, 1))
            if config.hidden
            else nn.Conv2d(FEATURES, channels, 1)
        )
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))

    def standardise(self, features: Tensor) -> None:
        """Take mean and deviation of the channels from a sample of backbone features, float [n, 432]."""
        self.mean.copy_(features.float().mean(0))
        self.std.copy_(features.float().std(0).clamp_min(1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Backbone features [B, 432, h, w], of any float type, to logits float32 [B, C, h, w] ([B, 1 + C, ..] with a
        background, which comes first)."""
        scaled = (features.float() - self.mean[:, None, None]) / self.std[:, None, None]
        return self.head(scaled)

    def score(self, logits: Tensor, valid: Tensor | None = None) -> Tensor:
        """How much each class seems to be in the image, float [B, C]: 0 is undecided. See `Pooling`."""
        return self.config.pooling(logits[:, self.config.background :], valid)

    @torch.inference_mode()
    def features(self, picture: npt.NDArray[np.uint8]) -> Tensor:
        """The backbone's features of a picture uint8 [H, W, 3], RGB: float32 [432, h, w], a cell for 16 x 16 px."""
        rows, columns = bucket(picture.shape[0], picture.shape[1], self.config.size_px, PATCH_PX)
        resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).to(self.mean.device).permute(2, 0, 1)[None].float() / 255
        scale = [pixels.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD)]
        return self.backbone((pixels - scale[0]) / scale[1])[0]

    @torch.inference_mode()
    def locate(
        self, features: Tensor, present: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """
        Args:
            features: float [432, h, w], from `features`.
            present: bool [C], the classes that can be in the image; None: any.

        Returns:
            maps float32 [C, h, w], 0..1: with a background the probability among it and what can be there, without
            one the positive part of the logits; each map over its maximum, all zero for what cannot be there.
            score float32 [C], see `score`.
        """
        logits = self(features[None])
        allowed = torch.ones(self.config.classes, dtype=torch.bool, device=logits.device)
        if present is not None:
            allowed &= torch.from_numpy(present).to(logits.device)
        if self.config.background:
            with_background = functional.pad(allowed, (1, 0), value=True)
            likely = (logits / self.config.temperature).masked_fill(~with_background[:, None, None], _ABSENT)
            maps = likely.softmax(1)[0, 1:]
        else:
            maps = logits[0].clamp_min(0)
        maps = maps * allowed[:, None, None]
        maps = maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-8)
        return maps.cpu().numpy(), self.score(logits)[0].cpu().numpy()


def tag_loss(scores: Tensor, tags: Tensor) -> Tensor:
    """Binary cross-entropy of image scores, the mean over all tags that are known (0 if none is).

    Args:
        scores: float [B, C], from `Localiser.score`.
        tags: int [B, C]: 1 is in the image, 0 is not, -1 unknown.
    """
    known = tags >= 0
    loss = functional.binary_cross_entropy_with_logits(scores, tags.clamp_min(0).to(scores.dtype), reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)


def patch_loss(logits: Tensor, targets: Tensor, can_be: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of patches against soft targets, among the classes that can be in their image alone.

    Tags are thereby believed: a head that may not win by naming what is absent learns to tell apart what is there.

    Args:
        logits: float [n, 1 + C], background first.
        targets: float [n, 1 + C], rows sum to 1, zero where not `can_be`.
        can_be: bool [n, 1 + C].
        weights: float [1 + C], of the classes, or None.

    Returns:
        The mean over patches.
    """
    likely = logits.masked_fill(~can_be, _ABSENT).log_softmax(1).clamp_min(-50)
    return -(targets * (likely if weights is None else likely * weights)).sum(1).mean()
