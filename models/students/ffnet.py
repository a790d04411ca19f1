"""FFNet: a plain residual network of basic blocks, and a light head that fuses its four scales.

Mehta et al., "Simple and Efficient Architectures for Semantic Segmentation", CVPR workshop ECV 2022. No dilation, no
attention, no context module: depth at strides 16 and 32 gives the receptive field. The head is the paper's type B
(adapters 64, 128, 128, 256; up-branches 96, 96, 64, 32; 1x1 segmentation head), narrower for the smaller students.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Four = tuple[int, int, int, int]
ADAPTERS: Four = (64, 128, 128, 256)
BRANCHES: Four = (96, 96, 64, 32)


@dataclass(frozen=True)
class FFNetSpec:
    """widths, blocks: of the stages at stride 4, 8, 16, 32. head_scale: of the paper's head. features: D."""

    widths: Four
    blocks: Four
    head_scale: float
    features: int


# m has the width of the paper's slim networks and the depth of ResNet-34. The smaller ones save where pixels are many,
# at stride 4 and 8, so that they train on a CPU.
SPECS = {
    "ffnet-xs": FFNetSpec((16, 32, 64, 88), (1, 1, 2, 2), 0.25, 64),
    "ffnet-s": FFNetSpec((24, 48, 112, 192), (1, 2, 3, 4), 0.5, 96),
    "ffnet-m": FFNetSpec((64, 128, 192, 320), (3, 4, 6, 3), 1.0, 128),
}


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm; a stride of 2 halves the map."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
    )


def conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return conv_bn(c_in, c_out, kernel, stride).append(nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., CVPR 2016); float [B, c_in, h, w] to [B, c_out, h/s, w/s]."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = conv_bn_relu(c_in, c_out, 3, stride).extend(conv_bn(c_out, c_out, 3))
        plain = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if plain else conv_bn(c_in, c_out, 1, stride)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class FFNetBackbone(nn.Module):
    """float [B, 3, H, W], H and W multiples of 32, to four maps [B, widths[i], H/s, W/s], s = 4, 8, 16, 32."""

    def __init__(self, spec: FFNetSpec) -> None:
        super().__init__()
        width = spec.widths[0]
        self.stem = nn.Sequential(conv_bn_relu(3, width, 3, 2), conv_bn_relu(width, width, 3, 2))
        stages: list[nn.Module] = []
        c_in = width
        for i, (c_out, count) in enumerate(zip(spec.widths, spec.blocks, strict=True)):
            first = BasicBlock(c_in, c_out, 1 if i == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(c_out, c_out, 1) for _ in range(count - 1))))
            c_in = c_out
        self.stages = nn.ModuleList(stages)
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class UpHead(nn.Module):
    """The multi-scale head: a top-down path adds each coarser map to the next finer one, a branch filters each sum,
    and all branches meet at the finest grid.

    Args:
        channels: of the four maps that come in, finest first.
        scale: of the paper's widths.
        features: channels that go out.
    """

    def __init__(self, channels: Sequence[int], scale: float, features: int) -> None:
        super().__init__()
        inner = [round(width * scale) for width in ADAPTERS]
        branch = [round(width * scale) for width in BRANCHES]
        self.adapters = nn.ModuleList(conv_bn_relu(c, i, 1) for c, i in zip(channels, inner, strict=True))
        self.ups = nn.ModuleList(conv_bn_relu(inner[i + 1], inner[i], 1) for i in range(len(inner) - 1))
        self.branches = nn.ModuleList(conv_bn_relu(i, b, 3) for i, b in zip(inner, branch, strict=True))
        self.fuse = conv_bn_relu(sum(branch), features, 1)
        init_weights(self)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Four float [B, channels[i], h_i, w_i] to float [B, features, h_0, w_0]."""
        maps = [adapter(level) for adapter, level in zip(self.adapters, levels, strict=True)]
        for i in range(len(maps) - 2, -1, -1):
            maps[i] = maps[i] + _resize(self.ups[i](maps[i + 1]), maps[i])
        scales = [branch(level) for branch, level in zip(self.branches, maps, strict=True)]
        return self.fuse(torch.cat([scales[0], *(_resize(scale, scales[0]) for scale in scales[1:])], dim=1))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def init_weights(module: nn.Module) -> None:
    """Kaiming-normal convolutions (He et al., ICCV 2015); every residual block begins as its shortcut, because the
    scale of its last batch norm is 0 (Goyal et al., 2017)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    for part in module.modules():
        if isinstance(part, BasicBlock):
            last = part.body[-1]
            assert isinstance(last, nn.BatchNorm2d)
            nn.init.zeros_(last.weight)
