"""The one training loop of the pocket models' phases: timed, resumable, with a line of progress now and then."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Phase:
    """One phase: its name, wall time in minutes, and how it steps.

    max_steps: 0 means until the time is over. A checkpoint is kept in `folder` under the phase's name.
    """

    name: str
    folder: Path
    minutes: float
    learning_rate: float
    max_steps: int = 0
    checkpoint_minutes: float = 2.0
    report_seconds: float = 15.0
    weight_decay: float = 0.02


def fit(
    phase: Phase, modules: nn.Module, parameters: Iterable[nn.Parameter], loss_of: Callable[[int], Tensor],
    resume: bool = False, report: Callable[[str], None] = print,
) -> list[float]:  # fmt: skip
    """AdamW with warm-up and cosine decay over the wall time; returns the loss of each step, before a resume too.

    Args:
        modules: what is saved and restored.
        parameters: what is optimised.
        loss_of: step number (from 0) to a scalar loss.
    """
    chosen = list(parameters)
    optimizer = torch.optim.AdamW(chosen, phase.learning_rate, betas=(0.9, 0.98), weight_decay=phase.weight_decay)
    path = phase.folder / f"{phase.name}.pt"
    losses: list[float] = []
    before = 0.0
    if resume and path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        losses, before = state["losses"], state["seconds"]
        report(f"{phase.name}: goes on at step {len(losses)} after {before / 60:.1f} min")

    def save() -> None:
        phase.folder.mkdir(parents=True, exist_ok=True)
        state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
        torch.save({**state, "seconds": elapsed()}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    start = time.monotonic()

    def elapsed() -> float:
        return before + time.monotonic() - start

    def share() -> float:
        by_steps = len(losses) / phase.max_steps if phase.max_steps else 0.0
        return min(1.0, max(by_steps, elapsed() / (60 * phase.minutes)))

    reported = saved = start
    while share() < 1.0:
        rate = min(1.0, (len(losses) + 1) / 50) * max(0.02, 0.5 * (1 + math.cos(math.pi * share())))
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * rate
        loss = loss_of(len(losses))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
        losses.append(loss.item())
        now = time.monotonic()
        if now - reported > phase.report_seconds:
            report(_line(phase, losses, elapsed(), share()))
            reported = now
        if now - saved > 60 * phase.checkpoint_minutes:
            save()
            saved = now
    save()
    report(_line(phase, losses, elapsed(), 1.0))
    return losses


def _line(phase: Phase, losses: list[float], seconds: float, share: float) -> str:
    recent = losses[-50:] or [math.nan]
    left = seconds / max(share, 1e-6) - seconds
    return (
        f"{phase.name}: step {len(losses)}, loss {sum(recent) / len(recent):.4f}, "
        f"{len(losses) / max(seconds, 1e-6):.2f} steps/s, {100 * share:.0f} %, ETA {left / 60:.1f} min"
    )
