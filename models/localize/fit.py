"""Fitting a localiser's head to backbone features that are computed once, with the backbone left as it is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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


class Fitter:
    """The training of a localiser's head, from new weights, one step at a time. The same losses and seed give the same
    head."""

    def __init__(self, localiser: Localiser, config: FitConfig) -> None:
        self.localiser, self.config = localiser, config
        self.done = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            for part in localiser.head.modules():
                if isinstance(part, nn.Conv2d):
                    part.reset_parameters()
        parameters = localiser.head.parameters()
        self._optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)

    def step(self, loss: Tensor, join: Callable[[Tensor], None] = lambda gradient: None) -> None:
        """Descend on a scalar. join: called with each gradient, to add those of other processes to it in place."""
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * self.done / config.steps))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.localiser.head.parameters():
            assert parameter.grad is not None
            join(parameter.grad)
        self._optimizer.step()
        self.done += 1

    def state_dict(self) -> dict[str, Any]:
        """All that a training goes on from: the head, how features are scaled, the optimiser."""
        weights = {name: tensor for name, tensor in self.localiser.state_dict().items() if not _frozen(name)}
        return {"done": self.done, "weights": weights, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        load_head(self.localiser, state)
        self._optimizer.load_state_dict(state["optimizer"])


def load_head(localiser: Localiser, state: dict[str, Any]) -> None:
    """Put what a training came to (`Fitter.state_dict`) into a localiser, whose backbone stays as it is."""
    missing, _ = localiser.load_state_dict(state["weights"], strict=False)
    if not all(_frozen(name) for name in missing):
        raise ValueError(f"the state holds no {', '.join(name for name in missing if not _frozen(name))}")


def _frozen(name: str) -> bool:
    return name.startswith("backbone.")


def fit(
    localiser: Localiser,
    batches: Iterable[Batch],
    loss_of: Callable[[Localiser, Batch], Tensor],
    config: FitConfig = FitConfig(),
) -> list[float]:
    """Train the head in place, from new weights; returns the loss of every step.

    Args:
        batches: at least `config.steps` of them, in the order they are to be seen; no more are taken.

    Raises:
        ValueError: the batches end too soon.
    """
    fitter = Fitter(localiser, config)
    losses: list[float] = []
    stream = iter(batches)
    for step in range(config.steps):
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"the batches ended after {step} of {config.steps} steps")
        loss = loss_of(localiser, batch)
        fitter.step(loss)
        losses.append(loss.item())
    return losses
