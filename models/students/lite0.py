"""EfficientNet-Lite0 as a student's backbone, with or without its ImageNet weights; the head is FFNet's."""

from torch import Tensor, nn

from models.pocket.backbone import CHANNELS, IMAGE_MEAN, IMAGE_STD, Lite0, load_imagenet

__all__ = ["CHANNELS", "IMAGE_MEAN", "IMAGE_STD", "Lite0Backbone"]


class Lite0Backbone(nn.Module):
    """float [B, 3, H, W], H and W multiples of 32, to four maps of 24, 40, 112, 320 channels at stride 4, 8, 16, 32.

    Raises:
        ImportError: `pretrained` without the extra `pretrain`, which holds the ImageNet weights.
    """

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.net = Lite0()
        if pretrained:
            load_imagenet(self.net)
        else:
            _init_weights(self.net)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.net(x)
        return [levels[stride] for stride in CHANNELS]


def _init_weights(net: Lite0) -> None:
    """Batch norm is folded away here, so the size of activations hangs on the weights alone: Kaiming by fan-in, and
    residual blocks that begin as their shortcut."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            assert part.bias is not None
            nn.init.zeros_(part.bias)
    for block in net.blocks:
        if block.residual:
            nn.init.zeros_(block.project.conv.weight)  # type: ignore[union-attr, arg-type]
