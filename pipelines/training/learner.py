"""The student, its optimiser and its running mean: one optimiser step at a time. Knows no Ray and reads no files."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.device import autocast, pick_dtype
from models.losses.ema import make_ema, update_ema
from models.losses.recipes import RECIPES, extra_modules
from models.losses.types import TargetBatch, Terms, TrainState
from models.students.build import build_student
from models.students.student import Student
from pipelines.training.config import OptimConfig, TrainConfig

POLY_POWER = 0.9


def lr_factor(step: int, optim: OptimConfig) -> float:
    """What learning rates are multiplied by in the step after `step` steps, 0..1."""
    warmup = min(optim.warmup_steps, optim.steps // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, optim.steps - warmup))
    if optim.schedule == "poly":
        return float((1 - done) ** POLY_POWER)
    return 0.5 * (1 + math.cos(math.pi * done)) if optim.schedule == "cosine" else 1.0


class Learner:
    """Trains one replica.

    num_classes: channels. wrap: makes a module ready for its device and, with several workers, distributed. rank: this
    replica's. teachers: frozen models on the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_classes: int,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        rank: int = 0,
        teachers: Sequence[nn.Module] = (),
    ) -> None:
        self.config, self.device, self.rank = config, device, rank
        torch.manual_seed(config.seed)
        self.student: Student = build_student(config.student, num_classes)
        self.extra = extra_modules(config.losses, num_classes, config.recipe).to(device)
        self.student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.optim.backbone_lr_factor == 0:
            for parameter in self.student.backbone_parameters():
                parameter.requires_grad_(False)
        self.ema = make_ema(self.student) if config.optim.ema_decay else None
        self.replica = wrap(self.student)
        self.extra_replicas = {name: wrap(module) for name, module in self.extra.items()}
        self.optimizer = torch.optim.AdamW(self._groups(), fused=device.type == "cuda")
        self.dtype = pick_dtype(config.optim.dtype, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.state = TrainState(
            step=0,
            total_steps=config.optim.steps,
            generator=torch.Generator(),  # on the CPU: the same views on any device
            seed=config.seed,
            ema=self.ema,
            teachers=list(teachers),
            extra=self.extra_replicas,
        )
        self.recipe = RECIPES[config.recipe]

    @property
    def validated(self) -> nn.Module:
        """What is validated and exported: the running mean of the weights, or the student itself without one."""
        return self.student if self.ema is None else self.ema

    def step(self, batches: Sequence[TargetBatch], epoch: float) -> dict[str, Tensor]:
        """One optimiser step on the batches of this replica; returns the mean of every term, on the device."""
        optim, state = self.config.optim, self.state
        self._seed()
        state.epoch = epoch
        factor = lr_factor(state.step, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.replica.train()
        self.extra.train()
        means: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            with self._quiet(number < len(batches) - 1), autocast(self.device, self.dtype):
                terms: Terms = self.recipe(self.replica, batch, state, self.config.losses)
                self.scaler.scale(terms["loss"] / len(batches)).backward()
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value.detach() / len(batches)
        self.scaler.unscale_(self.optimizer)
        if optim.clip_norm:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            update_ema(self.ema, self.student, optim.ema_decay, state.step)
        state.step += 1
        return means

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; tensors stay on their device. Randomness is a function of seed,
        step and rank, so there is no generator in it."""
        return {
            "student": self.student.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "extra": self.extra.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "memory": dict(self.state.memory),
            "step": self.state.step,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.student.load_state_dict(saved["student"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        self.extra.load_state_dict(saved["extra"])
        own = [(group["base_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        # The state may be that of a training with other settings.
        for group, (base_lr, weight_decay) in zip(self.optimizer.param_groups, own, strict=True):
            group["base_lr"], group["weight_decay"] = base_lr, weight_decay
        self.scaler.load_state_dict(saved["scaler"])
        self.state.memory.clear()
        self.state.memory.update({name: value.to(self.device) for name, value in saved["memory"].items()})
        self.state.step = int(saved["step"])

    def _seed(self) -> None:
        sequence = np.random.SeedSequence([self.config.seed, 5, self.state.step, self.rank])
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.state.generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout

    def _quiet(self, more_follow: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged only with the last batch of a step."""
        if more_follow and isinstance(self.replica, nn.parallel.DistributedDataParallel):
            return self.replica.no_sync()
        return nullcontext()

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate and decay: norms and biases are not decayed."""
        optim = self.config.optim
        parts = [
            (list(self.student.backbone_parameters()), optim.lr * optim.backbone_lr_factor),
            (list(self.student.head_parameters()), optim.lr),
            (list(self.extra.parameters()), optim.lr),
        ]
        groups = []
        for parameters, lr in parts:
            trained = [p for p in parameters if p.requires_grad]
            for decay, chosen in (
                (optim.weight_decay, [p for p in trained if p.ndim > 1]),
                (0.0, [p for p in trained if p.ndim <= 1]),
            ):
                if chosen:
                    groups.append({"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay})
        return groups
