"""The pocket SAM: segment_anything's `Sam`, prompt encoder and mask decoder on a small convolutional image encoder.

Architecture: Kirillov et al., "Segment Anything", ICCV 2023, at decoder width 128; EfficientNet-Lite0 (Tan & Le, ICML
2019, without squeeze-excite) takes the place of the ViT. Its strides 4 and 8 are folded onto the stride-16 grid by
pixel unshuffling (Shi et al., CVPR 2016), so that edges survive in the channels.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models import torchvision_cpu
from models.pocket.backbone import CHANNELS, Lite0

torchvision_cpu.ensure()

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer  # noqa: E402
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with layer norm, added to the input; float [B, C, h, w] in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            LayerNorm2d(width), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Neck(nn.Module):
    """Mixes four backbone levels into one embedding on the stride-16 grid."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        folded = {stride: channels * max(1, 16 // stride) ** 2 for stride, channels in CHANNELS.items()}
        self.norms = nn.ModuleList(LayerNorm2d(channels) for channels in CHANNELS.values())
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in folded.values())
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)), LayerNorm2d(width))

    def forward(self, levels: dict[int, Tensor]) -> Tensor:
        """From {stride s: float [B, CHANNELS[s], H/s, W/s]} for s in 4, 8, 16, 32 to float [B, width, H/16, W/16]."""
        s4, s8, s16, s32 = (norm(levels[s]) for norm, s in zip(self.norms, CHANNELS, strict=True))
        coarse = F.interpolate(self.maps[3](s32), scale_factor=2.0, mode="bilinear", align_corners=False)
        fine = self.maps[0](F.pixel_unshuffle(s4, 4)) + self.maps[1](F.pixel_unshuffle(s8, 2))
        return self.blocks(fine + self.maps[2](s16) + coarse)


class PocketImageEncoder(nn.Module):
    """Stands where `Sam` keeps its ViT: float [B, 3, S, S] (normalised, padded) to float [B, width, S/16, S/16].

    `img_size` (px) is what `Sam.preprocess` and `SamPredictor` read.
    """

    def __init__(self, img_size: int, width: int, blocks: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.backbone = Lite0()
        self.neck = Neck(width, blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.backbone(x))


def build_sam(config: dict[str, Any]) -> Sam:
    """The pocket SAM with random weights, in evaluation mode.

    Args:
        config: as `pocket_sam_architecture` gives it and `config.json` holds it.

    Returns:
        A `Sam` on which `SamPredictor` works as it is: square input of `image_size_px`, masks at a quarter of that.

    Raises:
        KeyError: a number is missing in `config["maskstream"]`.
        ValueError: the input size is no multiple of 32.
    """
    c = config["maskstream"]
    size, width = int(c["image_size_px"]), int(c["decoder_width"])
    if size % 32:
        raise ValueError(f"image_size_px must be a multiple of 32, is {size}")
    grid = (size // int(c["embedding_stride_px"]),) * 2
    transformer = TwoWayTransformer(
        depth=int(c["decoder_depth"]), embedding_dim=width, num_heads=int(c["decoder_heads"]),
        mlp_dim=int(c["decoder_mlp_width"]),
    )  # fmt: skip
    sam = Sam(
        image_encoder=PocketImageEncoder(size, width, int(c["neck_blocks"])),
        prompt_encoder=PromptEncoder(
            embed_dim=width, image_embedding_size=grid, input_image_size=(size, size),
            mask_in_chans=int(c["mask_prompt_width"]),
        ),
        mask_decoder=MaskDecoder(transformer_dim=width, transformer=transformer, iou_head_hidden_dim=width),
        pixel_mean=c["image_mean"],
        pixel_std=c["image_std"],
    )  # fmt: skip
    return sam.eval()
