"""Dense CLIP: patch tokens in the text space."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.clip.load import ClipCheckpoint

# Which projections attend to themselves on the parallel path of each mode. "plain" has no such path.
SELF_ATTENTION: dict[str, tuple[str, ...]] = {"plain": (), "vv": ("v_proj",)}


class PatchTextLabeler(nn.Module):
    """Patch features that can be compared with CLIP's text embeddings.

    With qkv_mode "plain" the tokens of the unchanged image tower go through its last norm and the visual projection.
    With "vv" the last `surgery_blocks` blocks run beside a parallel path in which every patch attends by the
    similarity of values instead of queries and keys, and which skips the MLPs (CLIP Surgery, Li et al. 2023; ExCEL,
    CVPR 2025): patches then collect from patches of the same object. The global embedding is always the unchanged one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: ClipCheckpoint, qkv_mode: str = "plain", surgery_blocks: int = 5) -> None:
        super().__init__()
        if qkv_mode not in SELF_ATTENTION:
            raise ValueError(f"attention {qkv_mode!r} is not one of {', '.join(SELF_ATTENTION)}")
        self.vision: Any = checkpoint.model.vision_model
        self.projection: Any = checkpoint.model.visual_projection
        self.patch_px = checkpoint.patch_px
        self.self_projections = SELF_ATTENTION[qkv_mode]
        self.surgery_blocks = min(surgery_blocks, len(self.vision.encoder.layers))
        self.dense_normalise = checkpoint.dense_normalise
        self.register_buffer("mean", torch.tensor(checkpoint.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            pictures: uint8 [B, 3, H, W], RGB; H and W are multiples of the patch size.

        Returns:
            features float32 [B, h, w, D], one for each patch, unit length if the checkpoint says so;
            embedding float32 [B, D], unit length: CLIP's image embedding.
        """
        pixels = (pictures.float() / 255 - self.mean) / self.std
        tokens, dense = self._tokens(pixels)
        dense = self.projection(self.vision.post_layernorm(dense[:, 1:])).float()
        embedding = self.projection(self.vision.post_layernorm(tokens[:, 0])).float()
        if self.dense_normalise:
            dense = functional.normalize(dense, dim=-1)
        height, width = pictures.shape[-2] // self.patch_px, pictures.shape[-1] // self.patch_px
        return dense.unflatten(1, (height, width)), functional.normalize(embedding, dim=-1)

    def _tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, 1 + h*w, C] of the unchanged tower and of the dense path, both before the last norm."""
        tokens = self.vision.embeddings(pixels, interpolate_pos_encoding=True)
        tokens = self.vision.pre_layrnorm(tokens)
        layers = self.vision.encoder.layers
        first = len(layers) - self.surgery_blocks if self.self_projections else len(layers)
        for layer in layers[:first]:
            tokens = layer(tokens, None)
        if first == len(layers):
            return tokens, tokens
        dense = tokens
        for layer in layers[first:]:
            dense = dense + self._self_attention(layer.self_attn, layer.layer_norm1(tokens))
            tokens = layer(tokens, None)
        return tokens, dense

    def _self_attention(self, attention: Any, tokens: Tensor) -> Tensor:
        """Attention whose weights are the self-similarities of one projection, averaged over the mode's projections."""

        def heads(name: str) -> Tensor:
            return getattr(attention, name)(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

        values = heads("v_proj")
        mixed = torch.stack(
            [functional.scaled_dot_product_attention(x, x, values) for x in map(heads, self.self_projections)]
        ).mean(0)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))
