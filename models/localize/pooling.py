"""From a map for each class to one score: how much of an object has to fire before an image is believed to show it.

Soft pooling whose temperature sets the area: after USAGE (Peng et al., ICCV 2023), which tunes it to how much a network
under- or over-activates. Average, maximum and focal term together: TRIS (Liu et al., ICCV 2023); the focal term is of
Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020.
"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from models.localize.kinds import PoolingKind

_FOCAL_POWER, _FOCAL_FLOOR, _FOCAL_BACKGROUND = 3, 0.01, 1.0


@dataclass(frozen=True)
class Pooling:
    """How maps become scores.

    kind: gap: the mean. gmp: the maximum. softmax: the mean weighted by softmax(map / temperature) over the cells,
    which goes from gmp (temperature to 0) to gap (to infinity). topk: the mean of the highest `share` of the cells.
    gap+gmp+focal: mean and maximum, and a penalty on classes that win almost no cell.
    """

    kind: PoolingKind = "softmax"
    temperature: float = 1.0
    share: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in get_args(PoolingKind):
            raise ValueError(f"pooling {self.kind!r} is not one of {', '.join(get_args(PoolingKind))}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, is {self.temperature}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, is {self.share}")

    def __call__(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """
        Args:
            maps: float [B, C, h, w], any range (logits).
            valid: bool [B, h, w], the cells that count, at least one in each image; None: all of them.

        Returns:
            float [B, C]; for all kinds but the last between the lowest and the highest value of the map.
        """
        flat, inside = maps.flatten(2), _inside(maps, valid)
        match self.kind:
            case "gap":
                return _mean(flat, inside)
            case "gmp":
                return flat.masked_fill(~inside, -torch.inf).amax(-1)
            case "softmax":
                return (self.weights(maps, valid).flatten(2) * flat).sum(-1)
            case "topk":
                ranked = flat.masked_fill(~inside, -torch.inf).sort(-1, descending=True).values
                wanted = (self.share * inside.sum(-1, keepdim=True)).round().clamp_min(1)
                chosen = torch.arange(flat.shape[-1], device=flat.device) < wanted
                return ranked.masked_fill(~chosen, 0).sum(-1) / wanted[..., 0]
            case "gap+gmp+focal":
                highest = flat.masked_fill(~inside, -torch.inf).amax(-1)
                return _mean(flat, inside) + highest + _focal(flat, inside)

    def weights(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """What each cell counts for in a softmax score, float [B, C, h, w], sums to 1 over the cells."""
        scaled = maps.flatten(2) / self.temperature
        return scaled.masked_fill(~_inside(maps, valid), -torch.inf).softmax(-1).unflatten(-1, maps.shape[-2:])


def _inside(maps: Tensor, valid: Tensor | None) -> Tensor:
    """bool [B, 1, h * w]."""
    if valid is None:
        return torch.ones(len(maps), 1, maps.shape[-2] * maps.shape[-1], dtype=torch.bool, device=maps.device)
    return valid.flatten(1)[:, None]


def _mean(flat: Tensor, inside: Tensor) -> Tensor:
    return (flat * inside).sum(-1) / inside.sum(-1)


def _focal(flat: Tensor, inside: Tensor) -> Tensor:
    """(1 - m)^3 log(0.01 + m), where m is the share of the cells that a class holds in a softmax with a constant."""
    rivals = functional.pad(flat, (0, 0, 1, 0), value=_FOCAL_BACKGROUND).softmax(1)[:, 1:]
    held = _mean(rivals, inside)
    return (1 - held) ** _FOCAL_POWER * (_FOCAL_FLOOR + held).log()
