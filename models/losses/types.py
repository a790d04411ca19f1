"""What losses take: a batch of images with their targets, and the state of a training."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

IGNORE = -1
"""Target of a pixel that nothing is known of."""

Terms = dict[str, Tensor]
"""Scalars by name. "loss" is the sum of all others but those that begin with STAT, which are numbers to look at."""
STAT = "stat/"


class SegmentationModel(Protocol):
    """Images float32 [B, 3, H, W] in 0..1 to {"logits": [B, C, h, w], "feats": [B, D, h, w]}."""

    def __call__(self, images: Tensor) -> Mapping[str, Any]: ...


@dataclass
class TargetBatch:
    """Images and what is known of them. C channels: the background first if the class set has one, then its classes.

    images: float32 [B, 3, H, W], RGB in 0..1, geometrically augmented: the weak view.
    hard: int64 [B, H, W], channel or IGNORE. Dense maps and points, scribbles and boxes look alike.
    weight: float32 [B, H, W], 0..1, confidence of hard.
    labeled: bool [B]; False: an unlabeled image, whose hard is never read.
    tags: bool [B, C], classes in the image; tags_known: bool [B] or [B, C], where that can be relied on.
    index: int64 [B], the images' numbers.
    """

    images: Tensor
    hard: Tensor
    weight: Tensor
    labeled: Tensor
    index: Tensor
    tags: Tensor | None = None
    tags_known: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TargetBatch":
        """The same batch on another device."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        moved = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        return type(self)(**moved)

    def rows(self, rows: Tensor) -> "TargetBatch":
        """The images of these numbers, int64 [n], as a batch."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return type(self)(**{k: v[rows] if isinstance(v, Tensor) else v for k, v in values.items()})

    def every(self, stride: int) -> "TargetBatch":
        """The same images with targets and weights on every stride-th pixel along each side."""
        if stride == 1:
            return self
        grid = (slice(None), slice(stride // 2, None, stride), slice(stride // 2, None, stride))
        return dataclasses.replace(self, hard=self.hard[grid], weight=self.weight[grid])

    @property
    def absent(self) -> Tensor | None:
        """bool [B, C], classes that the tags exclude; None where no tags came with the batch."""
        if self.tags is None or self.tags_known is None:
            return None
        known = self.tags_known if self.tags_known.ndim == 2 else self.tags_known[:, None]
        return known & ~self.tags


@dataclass
class TrainState:
    """What a recipe knows of the training beside its batch.

    step: optimiser steps taken, of total_steps. epoch: passes over the labeled images.
    generator: the only source of randomness; its state belongs in the checkpoint. On the CPU or on the images' device.
    ema: the EMA teacher (`ema.make_ema`). teachers: frozen (`teachers`), in the order that `DistillConfig` counts.
    memory: tensors that losses keep from step to step (prototypes, thresholds); belongs in the checkpoint.
    extra: what `recipes.extra_modules` made, each maybe wrapped in DistributedDataParallel; trained like the student.
    """

    step: int
    total_steps: int
    generator: torch.Generator
    epoch: float = 0.0
    seed: int = 0
    ema: nn.Module | None = None
    teachers: list[nn.Module] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0..1."""
        return min(1.0, self.step / max(1, self.total_steps))


Function = TypeVar("Function", bound=Callable[..., Any])


def in_float32(function: Function) -> Function:
    """Decorates a loss: autocast is off inside, and floating tensors among its direct arguments come as float32."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*map(_float32, args), **{name: _float32(value) for name, value in kwargs.items()})

    return wrapped  # type: ignore[return-value]


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
