"""Dense CLIP: patch tokens in the text space."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.clip.load import ClipCheckpoint

# Which projections attend to themselves on the parallel path of each mode. "plain" has no such path.
SELF_ATTENTION: dict[str, tuple[str, ...]] = {
    "plain": (),
    "vv": ("v_proj",),
    "qq": ("q_proj",),
    "kk": ("k_proj",),
    "qq+kk+vv": ("q_proj", "k_proj", "v_proj"),
}


class PatchTextLabeler(nn.Module):
    """Patch features that can be compared with CLIP's text embeddings.

    With qkv_mode "plain" the tokens of the unchanged image tower go through its last norm and the visual projection.
    With "vv" the last `surgery_blocks` blocks run beside a parallel path in which every patch attends by the
    similarity of values instead of queries and keys, and which skips the MLPs (CLIP Surgery, Li et al. 2023; ExCEL,
    CVPR 2025): patches then collect from patches of the same object; "qq", "kk" and "qq+kk+vv" are the same with other
    projections, or the mean of the three. The global embedding is always the unchanged one.

    Two more hooks on the dense path of the last `surgery_blocks` blocks, off at 0:
    extra_attention: weight of `likeness_attention`, added to the attention of a parallel path (so not with "plain").
    token_weight: alpha of `token_weights`, by which the block's normalised tokens are multiplied (after DOEI, 2025).
    With "plain" the dense tokens then take a tower of their own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        checkpoint: ClipCheckpoint,
        qkv_mode: str = "plain",
        surgery_blocks: int = 5,
        extra_attention: float = 0.0,
        token_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if qkv_mode not in SELF_ATTENTION:
            raise ValueError(f"attention {qkv_mode!r} is not one of {', '.join(SELF_ATTENTION)}")
        if extra_attention and not SELF_ATTENTION[qkv_mode]:
            others = ", ".join(mode for mode, projections in SELF_ATTENTION.items() if projections)
            raise ValueError(f"extra_attention adds to attention={others}; attention {qkv_mode!r} has none to add to")
        self.vision: Any = checkpoint.model.vision_model
        self.projection: Any = checkpoint.model.visual_projection
        self.patch_px = checkpoint.patch_px
        self.self_projections = SELF_ATTENTION[qkv_mode]
        self.surgery_blocks = min(surgery_blocks, len(self.vision.encoder.layers))
        self.extra_attention, self.token_weight = extra_attention, token_weight
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
        edited = bool(self.self_projections or self.token_weight)
        first = len(layers) - self.surgery_blocks if edited else len(layers)
        for layer in layers[:first]:
            tokens = layer(tokens, None)
        dense = tokens
        for layer in layers[first:]:
            if self.self_projections:
                normed = layer.layer_norm1(tokens)
                dense = dense + self._self_attention(layer.self_attn, self._weighted(layer, normed, normed))
            else:
                dense = self._weighted_block(layer, dense, layer.layer_norm1(tokens))
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
        if self.extra_attention:
            mixed = mixed + self.extra_attention * (likeness_attention(tokens)[:, None] @ values)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))

    def _weighted(self, layer: Any, normed: Tensor, seen: Tensor) -> Tensor:
        """`normed`, with every patch token by its weight; seen: the unchanged tower's normalised tokens."""
        if not self.token_weight:
            return normed
        attention = layer.self_attn
        query = attention.q_proj(seen[:, :1]).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        keys = attention.k_proj(seen).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        looked_at = (query @ keys.transpose(-1, -2) * attention.scale).softmax(-1).mean(1)[:, 0, 1:]
        weights = functional.pad(token_weights(looked_at, self.token_weight), (1, 0), value=1.0)
        return normed * weights[..., None].to(normed.dtype)

    def _weighted_block(self, layer: Any, dense: Tensor, seen: Tensor) -> Tensor:
        """One block as trained, but for the weights of the tokens."""
        dense = dense + layer.self_attn(self._weighted(layer, layer.layer_norm1(dense), seen))[0]
        return dense + layer.mlp(layer.layer_norm2(dense))


def likeness_attention(tokens: Tensor) -> Tensor:
    """Attention of tokens by their likeness: softmax of 3 (cosine - mean cosine), with nothing for what is less alike
    than average (ExCEL, CVPR 2025).

    Args:
        tokens: float [B, N, C].

    Returns:
        float [B, N, N], rows sum to 1.
    """
    unit = functional.normalize(tokens, dim=-1)
    cosines = unit @ unit.transpose(-1, -2)
    above = (cosines - cosines.mean((-1, -2), keepdim=True)) * 3
    own = torch.eye(above.shape[-1], dtype=torch.bool, device=above.device)  # A lone token is no more than average.
    return above.masked_fill((above < 0) & ~own, -torch.inf).softmax(-1)


def token_weights(looked_at: Tensor, alpha: float) -> Tensor:
    """1 + alpha (rank - 1/2) for each patch, where rank runs from 0 (least looked at) to 1.

    Args:
        looked_at: float [B, N], the class token's attention to the patches.

    Returns:
        float32 [B, N], 1 - alpha/2 .. 1 + alpha/2, mean 1; all 1 for alpha 0 or a single patch.
    """
    count = looked_at.shape[-1]
    if count == 1:
        return torch.ones_like(looked_at, dtype=torch.float32)
    ranks = looked_at.argsort(dim=-1, stable=True).argsort(dim=-1).float() / (count - 1)
    return 1 + alpha * (ranks - 0.5)
