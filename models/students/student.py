"""The one interface of all students: pictures in, logits on a quarter of their grid out."""

from collections.abc import Iterator
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 4  # of the grid that logits and features live on
PAD_TO = 32  # the coarsest level of every backbone: with whole cells there, all levels lie in register
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def ceil_div(length: int, step: int) -> int:
    """length / step, rounded up. Without negative numbers, which ONNX divides towards zero, and not downwards."""
    return (length + step - 1) // step


class StudentOutput(TypedDict):
    """logits: float [B, C, ceil(H/4), ceil(W/4)], before any softmax. feats: float [B, D, same grid], what the
    classifier sees. aux: "deep", float [B, E, ceil(H/32), ceil(W/32)], the coarsest features of the backbone."""

    logits: Tensor
    feats: Tensor
    aux: dict[str, Tensor]


class Student(nn.Module):
    """A small segmentation network: backbone, multi-scale head, one linear classifier.

    Args:
        backbone: float [B, 3, h, w] (normalised, h and w multiples of 32) to four maps of stride 4, 8, 16, 32.
        head: those four maps to features, float [B, feature_channels, h/4, w/4].
        feature_channels: D.
        num_classes: C, channels of the logits; channel 0 is the background if the class set has one.
        mean, std: per RGB channel, of values in 0..1; the picture is normalised inside.
        dropout: share of whole feature channels dropped before the classifier while training.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        feature_channels: int,
        num_classes: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.feature_channels, self.num_classes = feature_channels, num_classes
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(feature_channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]  # a convolution with bias has one
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> StudentOutput:
        """float32 [B, 3, H, W], RGB in 0..1, any H and W (of use from 32 px on)."""
        height, width = images.shape[-2:]
        x = (images - self.mean) / self.std
        # Zero is the mean colour, and what convolutions pad with themselves.
        x = F.pad(x, (0, ceil_div(width, PAD_TO) * PAD_TO - width, 0, ceil_div(height, PAD_TO) * PAD_TO - height))
        levels = self.backbone(x)
        feats = self.head(levels)[:, :, : ceil_div(height, STRIDE), : ceil_div(width, STRIDE)]
        return {"logits": self.classifier(self.dropout(feats)), "feats": feats, "aux": {"deep": levels[-1]}}

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """What may start from other weights, and then wants a lower learning rate."""
        return self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Head and classifier: all that the backbone does not hold."""
        yield from self.head.parameters()
        yield from self.classifier.parameters()
