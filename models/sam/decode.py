"""SAM's prompt encoder and mask decoder over prompts of many pictures at once.

`MaskDecoder.forward` takes one image at a time; its parts do not care.
"""

import numpy as np
import torch
from torch import Tensor

from models import torchvision_cpu
from models.sam.prompts import Prompts

torchvision_cpu.ensure()

from segment_anything.modeling import Sam  # noqa: E402


def embed_prompts(sam: Sam, prompts: Prompts, input_size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Sparse prompt tokens, as `PromptEncoder.forward` makes them, prompts grouped by their number of tokens.

    Args:
        prompts: of one picture, in fractions.
        input_size: (height, width) of the picture in SAM's input, pixels, without the padding.

    Returns:
        (rows int64 [G], tokens float [G, T, C]) of each group; rows index `prompts`.
    """
    device = sam.pixel_mean.device
    height, width = input_size
    scale = np.array([width, height], np.float32)
    has_box = ~np.isnan(prompts.boxes[:, 0])
    num_points = (prompts.labels >= 0).sum(axis=1)
    groups = []
    for box, count in sorted({(bool(b), int(n)) for b, n in zip(has_box, num_points, strict=True)}):
        rows = np.flatnonzero((has_box == box) & (num_points == count))
        boxes = torch.from_numpy(prompts.boxes[rows] * np.tile(scale, 2)).to(device) if box else None
        order = np.argsort(prompts.labels[rows] < 0, axis=1, kind="stable")[:, :count]
        points = np.take_along_axis(prompts.points[rows], order[..., None], axis=1) * scale
        labels = np.take_along_axis(prompts.labels[rows], order, axis=1)
        given = (torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device)) if count else None
        tokens, _ = sam.prompt_encoder(points=given, boxes=boxes, masks=None)
        groups.append((torch.from_numpy(rows), tokens))
    return groups


def decode(
    sam: Sam, embeddings: Tensor, image_of: Tensor, tokens: Tensor, masks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_masks` for prompts that belong to different pictures.

    Args:
        embeddings: float [B, C, h, w], of the pictures.
        image_of: int64 [N], the picture of each prompt.
        tokens: float [N, T, C], sparse prompt tokens. masks: float [N, 4h, 4w], logits of earlier answers as prompts.

    Returns:
        logits float [N, 4, 4h, 4w] (0 is the single mask, 1..3 the alternatives), predicted IoU float [N, 4].
    """
    decoder = sam.mask_decoder
    n = len(tokens)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(n, -1, -1)
    if masks is None:
        no_mask = sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        pictures = (embeddings + no_mask)[image_of]
    else:
        pictures = embeddings[image_of] + sam.prompt_encoder.mask_downscaling(masks[:, None])
    position = sam.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
    state, source = decoder.transformer(pictures, position, torch.cat([own, tokens], dim=1))
    height, width = embeddings.shape[-2:]
    upscaled = decoder.output_upscaling(source.transpose(1, 2).unflatten(2, (height, width)))
    kernels = torch.stack([mlp(state[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    logits = (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
    return logits, decoder.iou_prediction_head(state[:, 0])
