"""How a training is laid out on a cluster: processes that train, processes that read, and what each holds."""

import math
from dataclasses import dataclass

from pipelines.config import UsageError
from pipelines.training.config import TrainConfig
from pipelines.training.stream import Shape

MOST_CPU_WORKERS = 8
READERS_A_GPU = 8
CPU_WORKERS_A_READER = 4
# Shares of all CPUs. Ray's own small tasks need room beside them: with whole CPUs a small machine waits for itself.
TRAINING_SHARE, READING_SHARE = 0.7, 0.25


@dataclass(frozen=True)
class TrainLayout:
    """workers: training processes, each with worker_cpus (a share) and worker_gpus; threads: of torch in each.
    readers: reading processes with reader_cpus each."""

    workers: int
    worker_cpus: float
    worker_gpus: float
    threads: int
    readers: int
    reader_cpus: float

    @property
    def device(self) -> str:
        return "cuda" if self.worker_gpus else "cpu"


def layout(config: TrainConfig, cpus: float, gpus: float) -> TrainLayout:
    """Choose for what a cluster has. Raises UsageError where cuda is asked for and there is no GPU."""
    device = config.execution.device
    if device == "cuda" and gpus < 1:
        raise UsageError("execution.device is cuda, but the cluster has no GPU: use auto or cpu")
    cuda = device == "cuda" or (device == "auto" and gpus >= 1)
    most = int(gpus) if cuda else max(1, min(int(cpus), MOST_CPU_WORKERS))
    workers = _dividing(config, most) if config.workers == "auto" else config.workers
    if cuda and workers > gpus:
        raise UsageError(f"workers is {workers}, but the cluster has {int(gpus)} GPUs, and a worker needs a whole one")
    if cuda:
        room = max(1, int(cpus) - workers)
        readers = min(room, READERS_A_GPU * workers) if config.execution.readers == "auto" else config.execution.readers
        worker_cpus = min(1.0, TRAINING_SHARE * cpus / workers)
        left = max(0.1, cpus - workers * worker_cpus)
        return TrainLayout(workers, worker_cpus, 1.0, 1, readers, min(0.9, 0.9 * left / readers))
    auto = max(1, math.ceil(workers / CPU_WORKERS_A_READER))
    readers = auto if config.execution.readers == "auto" else config.execution.readers
    return TrainLayout(
        workers,
        min(1.0, TRAINING_SHARE * cpus / workers),
        0.0,
        # Threads of a worker wait for one another, busily: they must not compete with the readers for a core.
        max(1, (int(cpus) - readers) // workers),
        readers,
        min(0.9, READING_SHARE * cpus / readers),
    )


def _dividing(config: TrainConfig, most: int) -> int:
    """The largest number of workers up to `most` that a step can be divided among."""
    batch = config.optim.batch_images // config.optim.accumulate
    return max(workers for workers in range(1, most + 1) if batch % workers == 0)


def shape(config: TrainConfig, workers: int, unlabeled_images: int, validation: int) -> Shape:
    """The sizes of the stream. Raises UsageError where a step cannot be divided among the workers."""
    optim = config.optim
    parts = workers * optim.accumulate
    if optim.batch_images % parts:
        near = max(1, round(optim.batch_images / parts)) * parts
        raise UsageError(
            f"optim.batch_images {optim.batch_images} cannot be divided among {workers} workers"
            + (f" and {optim.accumulate} accumulated batches" if optim.accumulate > 1 else "")
            + f": use {near}, or another --workers"
        )
    labeled = optim.batch_images // parts
    unlabeled = max(1, round(labeled * config.data.unlabeled_ratio)) if unlabeled_images else 0
    return Shape(
        workers,
        optim.accumulate,
        labeled,
        unlabeled,
        config.data.size_px,
        optim.steps,
        config.validate_every_steps,
        validation,
    )
