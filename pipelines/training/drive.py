"""Runs a Ray Train trainer beside the main thread, which hears what its workers tell meanwhile."""

import threading
from collections.abc import Callable
from typing import Any

from pipelines.flow.results import TRAINER_THREAD
from pipelines.flow.stop import RunFailed
from pipelines.training.monitor import Event

POLL_SECONDS = 0.5


def drive(trainer: Any, monitor: Any, take: Callable[[list[Event], list[tuple[str, str]]], None]) -> str:
    """Run the workers to the end; returns the address of the last checkpoint, and ends the monitor.

    monitor: handle of a `Monitor`, which workers tell things. take: gets what it was told, in the main thread; what it
    raises ends the training. Raises RunFailed.
    """
    import ray

    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except Exception as error:
            outcome["error"] = error

    # Not in the main thread: there, Ray would take SIGINT for itself.
    thread = threading.Thread(target=fit, name=TRAINER_THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        take(*ray.get(monitor.take.remote()))
    take(*ray.get(monitor.take.remote()))
    if "error" in outcome:
        raise RunFailed(_reason(outcome["error"])) from outcome["error"]
    checkpoint = outcome["result"].checkpoint
    if checkpoint is None:
        raise RunFailed("the workers ended without a checkpoint: please report this")
    ray.kill(monitor)
    return str(checkpoint.path)


def _reason(error: BaseException) -> str:
    """The last line of what went wrong on a worker, and which."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        lines = [line for line in str(failure).strip().splitlines() if line.strip()]
        if lines:
            return f"worker {rank}: {lines[-1].strip()}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
