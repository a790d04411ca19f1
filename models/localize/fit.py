"""Fitting a localiser's head to backbone features that are computed once, with the backbone left as it is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.localize.localiser import Localiser, patch_loss, tag_loss

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class FitConfig:
    """AdamW with cosine decay over the given steps. seed: of the head's first weights."""

    steps: int = 1200
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class TaggedBatch:
    """features: float [B, 432, h, w]. valid: bool [B, h, w], cells that are not padding. tags: int [B, C]; 1 is in the
    image, 0 is not, -1 unknown."""

    features: Tensor
    valid: Tensor
    tags: Tensor

    @classmethod
    def of(cls, features: Sequence[Tensor], tags: Tensor) -> "TaggedBatch":
        """Images of any grids, [432, h, w] each, padded to the largest."""
        rows, columns = (max(one.shape[axis] for one in features) for axis in (1, 2))
        padded = features[0].new_zeros(len(features), features[0].shape[0], rows, columns)
        valid = torch.zeros(len(features), rows, columns, dtype=torch.bool)
        for index, one in enumerate(features):
            padded[index, :, : one.shape[1], : one.shape[2]] = one
            valid[index, : one.shape[1], : one.shape[2]] = True
        return cls(padded, valid, tags)


@dataclass(frozen=True)
class PatchBatch:
    """Patches of many images, see `patch_loss`. features: float [n, 432]. targets: float [n, 1 + C]. can_be: bool."""

    features: Tensor
    targets: Tensor
    can_be: Tensor


def loss_of_tags(localiser: Localiser, batch: TaggedBatch) -> Tensor:
    """Scalar; for `fit`."""
    return tag_loss(localiser.score(localiser(batch.features), batch.valid), batch.tags)


def loss_of_patches(localiser: Localiser, batch: PatchBatch) -> Tensor:
    """Scalar; for `fit`. Rare classes count for more, by the root of how rare they are in the batch."""
    logits = localiser(batch.features[..., None, None])[..., 0, 0]
    shares = batch.targets.mean(0)
    weights = (shares + 2e-3).rsqrt()
    return patch_loss(logits, batch.targets, batch.can_be, weights / (weights * shares).sum())


def fit(
    localiser: Localiser,
    batches: Iterable[Batch],
    loss_of: Callable[[Localiser, Batch], Tensor],
    config: FitConfig = FitConfig(),
) -> list[float]:
    """Train the head in place, from new weights; returns the loss of every step. The same batches and seed give the
    same head.

    Args:
        batches: at least `config.steps` of them, in the order they are to be seen; no more are taken.

    Raises:
        ValueError: the batches end too soon.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for part in localiser.head.modules():
            if isinstance(part, nn.Conv2d):
                part.reset_parameters()
    optimizer = torch.optim.AdamW(localiser.head.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    losses: list[float] = []
    stream = iter(batches)
    for step in range(config.steps):
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"the batches ended after {step} of {config.steps} steps")
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        loss = loss_of(localiser, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
