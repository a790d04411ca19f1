"""From decoded logits to the mask bank of a picture: filter, suppress duplicates, resample to the frame."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.evidence import MASK_SOURCES, MaskBank
from models.observe_config import SamObserveConfig
from models.sam.prompts import Prompts


def resampling(valid: float, source: int, target: int, device: torch.device) -> Tensor:
    """Weights float32 [target, source] that resample the first `valid` of `source` cells to `target` cells.

    Linear interpolation, widened to a triangle over all covered cells where cells are merged. Cells beyond `valid`
    (SAM's padding) take no part.
    """
    ratio = valid / target
    centres = (torch.arange(target, device=device) + 0.5) * ratio
    cells = torch.arange(source, device=device) + 0.5
    weights = (1 - (cells - centres[:, None]).abs() / max(1.0, ratio)).clamp(min=0)
    weights[:, cells - 0.5 >= valid] = 0
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


def stored_size(valid: tuple[float, float], limit: int) -> tuple[int, int]:
    """(rows, columns) of the stored masks: SAM's own resolution, reduced to at most `limit` on the longer side."""
    scale = min(1.0, limit / max(valid))
    return max(1, round(valid[0] * scale)), max(1, round(valid[1] * scale))


def candidates(logits: Tensor, iou: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor, npt.NDArray[np.uint8]]:
    """The masks that were asked for: of [N, 4, m, m], mask 0 or masks 1..3 of each prompt.

    Returns:
        logits [C, m, m], predicted IoU [C] in 0..1, source uint8 [C].
    """
    wanted = np.zeros((len(prompts), 4), bool)
    wanted[:, 0] = ~prompts.ambiguous
    wanted[:, 1:] = prompts.ambiguous[:, None]
    rows, columns = np.nonzero(wanted)
    index = torch.from_numpy(rows * 4 + columns).to(logits.device)
    return logits.flatten(0, 1)[index], iou.flatten()[index].clamp(0, 1), prompts.source[rows]


def mask_iou(binary: Tensor) -> Tensor:
    """Pairwise intersection over union [C, C] of bool masks [C, ...]."""
    flat = binary.flatten(1).float()
    intersection = flat @ flat.T
    area = flat.sum(1)
    return intersection / (area[:, None] + area[None] - intersection).clamp(min=1)


def suppress(overlap: npt.NDArray[np.float32], threshold: float, limit: int) -> list[int]:
    """Rows to keep of masks sorted best first: none overlaps an earlier kept one by more than `threshold`."""
    kept: list[int] = []
    for row in range(len(overlap)):
        if len(kept) == limit:
            break
        if not (overlap[row, kept] > threshold).any():
            kept.append(row)
    return kept


def stability_of(logits: Tensor, offset: float) -> Tensor:
    """IoU [C], 0..1, of masks [C, ...] thresholded at +offset and at -offset."""
    high = (logits > offset).flatten(1).sum(1)
    return high / (logits > -offset).flatten(1).sum(1).clamp(min=1)


def to_frame(
    logits: Tensor, valid: tuple[float, float], config: SamObserveConfig
) -> tuple[npt.NDArray[np.uint8], Tensor]:
    """Masks as they are stored, without SAM's padding, and their stability.

    Args:
        logits: float [C, m, m]. valid: how many of the m rows and columns the picture covers.

    Returns:
        probability times 255, uint8 [C, mh, mw], on the host; stability float32 [C].
    """
    size = stored_size(valid, config.mask_px)
    down = resampling(valid[0], logits.shape[1], size[0], logits.device)
    across = resampling(valid[1], logits.shape[2], size[1], logits.device)
    probs = ((down @ logits.sigmoid() @ across.T) * 255).round().to(torch.uint8).cpu().numpy()
    inside = logits[:, : int(np.ceil(valid[0])), : int(np.ceil(valid[1]))]
    return probs, stability_of(inside, config.stability_offset)


def select(
    logits: Tensor, iou: Tensor, prompts: Prompts, valid: tuple[float, float], config: SamObserveConfig
) -> MaskBank:
    """The mask bank of one picture: first the masks of hinted boxes, then by predicted IoU times stability.

    Args:
        logits: float [N, 4, m, m]; iou: float [N, 4], as `models.sam.decode.decode` returns them.
        valid: how many of the m rows and columns the picture covers; the rest is padding.
    """
    chosen, quality, source = candidates(logits, iou, prompts)
    inside = chosen[:, : int(np.ceil(valid[0])), : int(np.ceil(valid[1]))]
    stability = stability_of(inside, config.stability_offset)
    area = (inside > 0).flatten(1).float().mean(1)
    good = (area >= config.min_area) & (area <= config.max_area)
    good &= (quality >= config.min_iou) & (stability >= config.min_stability)
    given = torch.from_numpy(source == MASK_SOURCES.index("box")).to(good.device)  # A person drew it: always kept.
    rank = torch.where(given, 2.0, quality * stability)
    rows = torch.nonzero(good | given).flatten()
    order = rows[torch.argsort(rank[rows], descending=True, stable=True)]
    kept = suppress(mask_iou(inside[order] > 0).cpu().numpy(), config.duplicate_iou, config.max_masks)
    best = order[kept]
    probs, _ = to_frame(chosen[best], valid, config)
    return MaskBank(probs, quality[best].cpu().numpy(), stability[best].cpu().numpy(), source[best.cpu().numpy()])
