"""What every training process of Ray Train runs: take blocks of the stream, step, validate, checkpoint."""

import json
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from models.metrics import Confusion
from pipelines.classes import ClassSet
from pipelines.training import batches
from pipelines.training.config import TrainConfig, learned_settings
from pipelines.training.finish import STATE_FILE
from pipelines.training.learner import Learner, lr_factor
from pipelines.training.stream import TRAIN, Round, Shape, checkpoint_name, rounds_at_once, segment
from pipelines.training.teachers import load_teachers

WARM_STEPS = 10
"""Steps of a process that its rate leaves out: the loaders start and the caches fill."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs. epoch_images: labeled images of an epoch. threads: of torch. monitor: an actor handle.
    start: folder of the state to begin with, "" for a new student."""

    config: TrainConfig
    shape: Shape
    num_classes: int
    classes: ClassSet
    epoch_images: int
    threads: int
    monitor: Any
    start: str = ""


@dataclass
class Best:
    """The validation that was best so far. confusion: int64 [C, C + 1]. weights: of the validated model, on the CPU."""

    miou: float
    step: int
    confusion: np.ndarray[Any, Any]
    weights: dict[str, Tensor] = field(repr=False)


def train_loop(settings: WorkerSettings) -> None:
    """The function that TorchTrainer runs on every worker."""
    import ray
    import ray.train
    import ray.train.torch

    torch.set_num_threads(settings.threads)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    learner = Learner(
        settings.config,
        settings.num_classes,
        device,
        ray.train.torch.prepare_model,
        context.get_world_rank(),
        load_teachers(settings.config, settings.classes, device),
    )
    worker = Worker(settings, learner, context.get_world_rank())
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None and settings.start:
        checkpoint = ray.train.Checkpoint(settings.start)
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            worker.restore(Path(folder))
    try:
        worker.run(ray.train.get_dataset_shard("train"))
    except (ValueError, ArithmeticError) as error:
        # It would come again: the run ends. Whatever else breaks a worker is tried once more by Ray Train.
        monitor = settings.monitor
        reason = f"worker {worker.rank}: {error}"
        diverged = isinstance(error, ArithmeticError)
        ray.get(monitor.tell.remote({"kind": "failed", "reason": reason, "diverged": diverged}))
        raise


class Worker:
    """One training process: its learner, the best validation, and what it tells the driver (rank 0 only)."""

    def __init__(self, settings: WorkerSettings, learner: Learner, rank: int) -> None:
        self.settings, self.learner, self.rank = settings, learner, rank
        self.config, self.shape = settings.config, settings.shape
        self.best: Best | None = None
        self.stale = 0  # validations since the best one
        self.stopped = False
        self.history: list[dict[str, Any]] = []
        self.pace = Pace()
        self._terms: dict[str, Tensor] = {}
        self._summed = 0

    @property
    def step(self) -> int:
        return self.learner.state.step

    @property
    def done(self) -> bool:
        return self.stopped or self.step >= self.shape.steps

    def run(self, shard: Any) -> None:
        """Train to the end, segment by segment of the stream."""
        import ray

        self._tell("started", step=self.step, history=self.history)
        most = rounds_at_once(self.shape)
        while not self.done:
            if self.rank == 0:
                ray.get(self.settings.monitor.begin.remote(self.step))
            stream = iter(shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))
            upcoming = deque(segment(self.shape, self.step, most))
            while upcoming and not self.stopped:
                one = upcoming.popleft()
                if one.kind == TRAIN:
                    self._train(self._next(stream, one), one)
                else:
                    self._validate(stream, one, upcoming)
            del stream  # closes it, and with it this execution of the dataset

    def _next(self, stream: Iterator[batches.Rows], one: Round) -> batches.Rows:
        with self.pace.waiting():
            rows = next(stream)
        wanted = one.count * (self.shape.batch_rows * self.shape.accumulate if one.kind == TRAIN else 1)
        if len(rows["index"]) != wanted:
            raise RuntimeError(f"a block of the stream has {len(rows['index'])} rows, not {wanted}")
        return rows

    def _train(self, rows: batches.Rows, one: Round) -> None:
        prepared = batches.train_batches(rows, self.shape, self.learner.device)
        for _ in range(one.count):
            with self.pace.working():
                own = [next(prepared) for _ in range(self.shape.accumulate)]
                epoch = self.step * self.shape.step_images / self.settings.epoch_images
                terms = self.learner.step(own, epoch)
            self.pace.steps += 1
            for name, value in terms.items():
                self._terms[name] = self._terms.get(name, 0.0) + value
            self._summed += 1
            if self.step % self.config.log_every_steps == 0 or self.step == self.shape.steps:
                self._log()
            if self._checkpoint_due() and not self.shape.validates_after(self.step):
                self.checkpoint()

    def _checkpoint_due(self) -> bool:
        return self.step % self.config.checkpoint_every_steps == 0 or self.step == self.shape.steps

    def _log(self) -> None:
        """A point of the curves: the mean over workers and steps since the last one."""
        names = sorted(self._terms)
        with self.pace.working():
            values = torch.stack([self._terms[name].float().reshape(()) for name in names]) / self._summed
            if _distributed():
                dist.all_reduce(values)
                values /= dist.get_world_size()
            numbers = dict(zip(names, values.tolist(), strict=True))
        self._terms, self._summed = {}, 0
        numbers["lr"] = self.config.optim.lr * lr_factor(self.step - 1, self.config.optim)
        numbers["epoch"] = round(self.step * self.shape.step_images / self.settings.epoch_images, 3)
        self._remember({"step": self.step, **numbers})
        # What a machine's load has a part in is told, and no part of the curves that a checkpoint keeps.
        self._tell("log", step=self.step, values=numbers, **self.pace.report(self.shape.step_images))
        if not all(np.isfinite(value) for value in numbers.values()):
            raise FloatingPointError(f"the loss is not a number after {self.step} steps: lower optim.lr ({numbers})")

    def _validate(self, stream: Iterator[batches.Rows], one: Round, upcoming: deque[Round]) -> None:
        """All rounds of one validation, the same verdict on every worker."""
        model = self.learner.validated
        model.eval()
        confusion = batches.new_confusion(self.settings.num_classes)
        batch = max(1, 2 * self.shape.batch_rows)
        while True:
            rows = self._next(stream, one)
            batches.validate_block(model, rows, confusion, self.learner.device, self.learner.dtype, batch)
            if not upcoming or upcoming[0].kind == TRAIN:
                break
            one = upcoming.popleft()
        if _distributed():
            counts = torch.from_numpy(confusion.counts).to(self.learner.device)
            dist.all_reduce(counts)
            confusion.counts = counts.cpu().numpy()
        self._judge(confusion)
        if self._checkpoint_due() or self.stopped:
            self.checkpoint()

    def _judge(self, confusion: Confusion) -> None:
        """Is it the best so far, and is it time to stop?"""
        miou = confusion.mean_iou()
        gain = self.config.early_stopping.min_gain if self.best is not None else 0.0
        self.stale = 0 if self.best is None or miou >= self.best.miou + gain else self.stale + 1
        if self.best is None or miou > self.best.miou:
            state = self.learner.validated.state_dict()
            weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
            self.best = Best(miou, self.step, confusion.counts, weights)
        patience = self.config.early_stopping.patience
        self.stopped = bool(patience) and self.stale >= patience
        numbers = {"miou": miou, "accuracy": confusion.accuracy(), "best_miou": self.best.miou}
        self._remember({"step": self.step, **{f"validation/{name}": value for name, value in numbers.items()}})
        self._tell("validation", step=self.step, values=numbers, stopped=self.stopped)

    def checkpoint(self) -> None:
        """Save and report; every worker takes part, rank 0 writes."""
        import ray.train

        if self._summed:
            self._log()  # a point of the curves lies wholly before or behind a checkpoint
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if self.rank == 0:
                torch.save(self.state(), Path(folder) / STATE_FILE)
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": self.step}, checkpoint=saved, checkpoint_dir_name=checkpoint_name(self.step))
        self._tell("checkpoint", step=self.step)

    def state(self) -> dict[str, Any]:
        """Plain tensors, numbers and lists, so that it can be loaded without running code."""
        best = None
        if self.best is not None:
            confusion = torch.from_numpy(self.best.confusion)
            best = {**vars(self.best), "confusion": confusion}
        progress = {"stale": self.stale, "stopped": self.stopped, "history": self.history, "best": best}
        progress["learned"] = self._learned()
        return {"learner": self.learner.state_dict(), **progress}

    def restore(self, folder: Path) -> None:
        saved = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.learner.load_state_dict(saved["learner"])
        self.history = saved["history"]
        if saved.get("learned", self._learned()) != self._learned():
            return  # a state of other settings, of which these do not have the merits
        self.stale, self.stopped = saved["stale"], saved["stopped"]
        if saved["best"] is not None:
            self.best = Best(**{**saved["best"], "confusion": saved["best"]["confusion"].numpy()})

    def _learned(self) -> str:
        """The settings that decide what is learned."""
        return json.dumps(learned_settings(self.config), sort_keys=True, default=str)

    def _remember(self, record: dict[str, Any]) -> None:
        if self.rank == 0:
            self.history.append(record)

    def _tell(self, kind: str, **values: Any) -> None:
        if self.rank == 0:
            self.settings.monitor.tell.remote({"kind": kind, **values})


class Pace:
    """Where the time of a process goes: waiting for data, or working on steps. Validation and checkpoints are apart."""

    def __init__(self) -> None:
        self.steps = 0
        self._seconds = {"wait": 0.0, "work": 0.0}
        self._warm: tuple[int, float, float] | None = None

    def waiting(self) -> "_Clock":
        return _Clock(self._seconds, "wait")

    def working(self) -> "_Clock":
        return _Clock(self._seconds, "work")

    def report(self, step_images: int) -> dict[str, float]:
        """images_per_second and the share of time that was spent waiting for data, since the process was warm."""
        wait, work = self._seconds["wait"], self._seconds["work"]
        if self._warm is None:
            if self.steps >= WARM_STEPS:
                self._warm = (self.steps, wait, work)
            since = (0, 0.0, 0.0)
        else:
            since = self._warm
        spent_wait, spent_work = wait - since[1], work - since[2]
        spent = max(1e-9, spent_wait + spent_work)
        return {"images_per_second": (self.steps - since[0]) * step_images / spent, "data_wait": spent_wait / spent}


class _Clock:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._seconds[self._name] += time.perf_counter() - self._started


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
