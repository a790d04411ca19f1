"""What every training process of Ray Train runs: steps of the head on stored features, and the verdict at the end.

A step's images are the same however many workers there are: each takes its share of them, and the gradients are summed.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from models.localize.fit import FitConfig, Fitter, TaggedBatch, loss_of_tags
from models.localize.localiser import Localiser, LocaliserConfig
from models.localize.precision import average_precision
from pipelines.localising.features import FeatureStore
from pipelines.localising.images import Indices, TaggedImages
from pipelines.training.finish import STATE_FILE
from pipelines.training.stream import checkpoint_name

SCALING_IMAGES = 256
"""Training images that mean and deviation of the features are taken from."""
HELD_BATCH = 16


@dataclass(frozen=True)
class WorkerSettings:
    """files: digest of an image to the file that has its features. threads: of torch. monitor: an actor handle."""

    network: LocaliserConfig
    fit: FitConfig
    batch_images: int
    images: TaggedImages
    store: FeatureStore
    files: Mapping[str, str]
    checkpoint_every: int
    log_every: int
    threads: int
    monitor: Any


def train_loop(settings: WorkerSettings) -> None:
    """The function that TorchTrainer runs on every worker."""
    import ray
    import ray.train
    import ray.train.torch

    torch.set_num_threads(settings.threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    join = dist.all_reduce if world > 1 else None
    worker = Worker(settings, ray.train.torch.get_device(), rank, world, join)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            worker.restore(Path(folder))
    if rank == 0:
        settings.monitor.tell.remote({"kind": "started", "step": worker.fitter.done, "history": worker.history})

    def tell(values: dict[str, float]) -> None:
        settings.monitor.tell.remote({"kind": "log", "step": worker.fitter.done, "values": values})

    def save() -> None:
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if rank == 0:
                torch.save(worker.state(), Path(folder) / STATE_FILE)
                saved = ray.train.Checkpoint.from_directory(folder)
            name = checkpoint_name(worker.fitter.done)
            ray.train.report({"step": worker.fitter.done}, checkpoint=saved, checkpoint_dir_name=name)

    try:
        worker.run(tell, save)
    except (ValueError, ArithmeticError) as error:
        # It would come again: the run ends. Whatever else breaks a worker is tried once more by Ray Train.
        ray.get(settings.monitor.tell.remote({"kind": "failed", "reason": f"worker {rank}: {error}"}))
        raise


class Worker:
    """One training process, of `world`. Knows nothing of Ray. join: sums a tensor over all of them, in place; None for
    one that is alone."""

    def __init__(
        self,
        settings: WorkerSettings,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        join: Callable[[Tensor], object] | None = None,
    ) -> None:
        self.settings, self.device, self.rank, self.world = settings, device, rank, world
        self._join = join
        self.localiser = Localiser(settings.network)
        rows = settings.images.train
        chosen = np.random.default_rng([settings.fit.seed, 1]).permutation(rows)[:SCALING_IMAGES]
        self.localiser.standardise(torch.cat([self._read(row).flatten(1).T for row in chosen.tolist()]))
        self.fitter = Fitter(self.localiser.to(device), settings.fit)
        self.history: list[dict[str, float]] = []
        self.precision: list[float] | None = None

    def run(self, tell: Callable[[dict[str, float]], None], save: Callable[[], None]) -> None:
        """Train to the end. tell: gets numbers of the curves; save: keeps `state`; every worker calls it."""
        settings, steps = self.settings, self.settings.fit.steps
        total, since = 0.0, 0
        while self.fitter.done < steps:
            total += self._step()
            since += 1
            done = self.fitter.done
            if done % settings.log_every == 0 or done == steps:
                loss = total / since
                total, since = 0.0, 0
                if not np.isfinite(loss):
                    raise FloatingPointError(f"the loss is not a number after {done} steps: lower optim.lr")
                if self.rank == 0:
                    self.history.append({"step": done, "loss": loss})
                    tell({"loss": loss})
            if done == steps:
                self.precision = self._judge() if self.rank == 0 else None
            if done % settings.checkpoint_every == 0 or done == steps:
                save()

    def _step(self) -> float:
        """One step; returns its loss, over all workers."""
        settings, images = self.settings, self.settings.images
        rows = batch_rows(images.train, self.fitter.done, settings.batch_images, settings.fit.seed)
        known = max(1, int((images.tags[rows] >= 0).sum()))
        own = rows[self.rank :: self.world]
        batch = self._batch(own)
        # The mean over the tags of all workers: each has the part of it that its own known tags are.
        loss = loss_of_tags(self.localiser, batch) * (int((batch.tags >= 0).sum()) / known)
        self.fitter.step(loss, self._sum)
        told = loss.detach().clone()
        self._sum(told)
        return float(told)

    def _sum(self, values: Tensor) -> None:
        if self._join is not None:
            self._join(values)

    def _judge(self) -> list[float]:
        """Average precision of each class on the images held out."""
        images = self.settings.images
        scores = np.zeros((len(images.held), images.tags.shape[1]), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images.held), HELD_BATCH):
                batch = self._batch(images.held[start : start + HELD_BATCH])
                found = self.localiser.score(self.localiser(batch.features), batch.valid)
                scores[start : start + HELD_BATCH] = found.cpu().numpy()
        return [float(value) for value in average_precision(scores, images.tags[images.held])]

    def _batch(self, rows: Indices) -> TaggedBatch:
        tags = torch.from_numpy(self.settings.images.tags[rows].astype(np.int64))
        made = TaggedBatch.of([self._read(row) for row in rows.tolist()], tags)
        return TaggedBatch(made.features.to(self.device), made.valid.to(self.device), made.tags.to(self.device))

    def _read(self, row: int) -> Tensor:
        digest = self.settings.images.digests[row]
        return self.settings.store.read(self.settings.files[digest], digest)

    def state(self) -> dict[str, Any]:
        """Plain tensors, numbers and lists, so that it can be loaded without running code."""
        return {"fit": self.fitter.state_dict(), "history": self.history, "precision": self.precision}

    def restore(self, folder: Path) -> None:
        saved = torch.load(folder / STATE_FILE, map_location=self.device, weights_only=True)
        self.fitter.load_state_dict(saved["fit"])
        self.history, self.precision = saved["history"], saved["precision"]


def batch_rows(train: Indices, step: int, batch_images: int, seed: int) -> npt.NDArray[np.int64]:
    """The images of a step: every one once in an epoch, in an order of its own, without the few that fill no batch."""
    size = min(batch_images, len(train))
    epoch, place = divmod(step, len(train) // size)
    order = np.random.default_rng([seed, 2, epoch]).permutation(train)
    return order[place * size : (place + 1) * size]
