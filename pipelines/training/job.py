"""A training from beginning to end, as the driver sees it: plan, train, finish."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

from pipelines import execution, storage
from pipelines.config import UsageError
from pipelines.flow.progress import duration, say
from pipelines.flow.stop import RunFailed, stop_on_signals
from pipelines.tracking import Tracker
from pipelines.training import record
from pipelines.training.config import TrainConfig
from pipelines.training.drive import drive
from pipelines.training.layout import TrainLayout, layout, shape
from pipelines.training.loader import LoaderSettings, StreamLoader
from pipelines.training.monitor import Event, Monitor
from pipelines.training.record import Record
from pipelines.training.sources import Prepared, prepare
from pipelines.training.stream import Shape, checkpoint_name, dataset

SKIPPED_TOLD = 20
CHECKPOINTS = "checkpoints"
KEPT_CHECKPOINTS = 2


@dataclass
class Training:
    """What all steps of one training share."""

    config: TrainConfig
    record: Record
    prepared: Prepared
    shape: Shape
    layout: TrainLayout
    loader: LoaderSettings
    part: "Part | None" = None

    @property
    def output(self) -> str:
        return storage.absolute(self.config.output)


@dataclass
class Told:
    """What the workers told: the newest rate, the starts of the workers, and images that could not be used."""

    rate: float = 0.0
    data_wait: float = 0.0
    starts: int = 0
    skipped: dict[str, str] | None = None


@dataclass(frozen=True)
class Part:
    """A training that is a part of something greater, which holds the cluster, the signals and the model registry: a
    trial of a search.

    prepared: what all parts read. cpus, gpus: this one's share of the cluster. name: of the MLflow run, mlflow_run_id:
    of one to go on with, or "". params: what tells this part from the others. on_validation: gets step and numbers of
    each validation, those of before an interruption again. on_checkpoint: gets the step and the folder of the state.
    start: folder of the state of another part that this one goes on from, with its own settings, or "".
    """

    prepared: Prepared
    cpus: float
    gpus: float
    name: str
    on_validation: Callable[[int, Mapping[str, float]], None]
    on_checkpoint: Callable[[int, str], None] = lambda step, folder: None
    params: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    mlflow_run_id: str = ""


class Diverged(RunFailed):
    """The loss is not a number any more."""


def train_student(config: TrainConfig, part: Part | None = None) -> dict[str, Any]:
    """Train, or go on, or say what a finished training came to. Returns the summary.

    Raises:
        UsageError: what the config names cannot be trained on, or the output holds another training.
        RunFailed: the training failed (Diverged: for its settings). Interrupted: see there.
    """
    output = storage.absolute(config.output)
    before = record.open_output(config, output)
    if before is not None and before.summary is not None:
        say(f"the training in {output} is finished; --restart trains anew")
        if config.register_model:
            say("--register does nothing for a finished training: it is done when a training ends")
        return before.summary
    prepared = part.prepared if part else check(config, before.snapshot if before else config.snapshot)
    if part is None:
        _start_ray(config)
    cpus, gpus = (part.cpus, part.gpus) if part else execution.cluster_resources()
    plan = layout(config, cpus, gpus)
    sizes = shape(config, plan.workers, len(prepared.plan.unlabeled), len(prepared.plan.validation))
    found = before or _new_record(config, prepared, part)
    if found.plan_digest != prepared.plan.digest:
        raise UsageError(
            f"the images are not those that the training in {output} began with (files came or went): --restart "
            "trains anew, another --output keeps both"
        )
    record.save(output, found)
    again = config.model_copy(update={"restart": False})  # so that the file, given to --config, goes on
    storage.write_bytes(storage.join(output, "config.yaml"), _yaml(again.model_dump(mode="json")))
    storage.write_bytes(storage.join(output, "classes.yaml"), _yaml(prepared.classes.to_dict()))
    training = Training(config, found, prepared, sizes, plan, loader_settings(config, prepared, sizes), part)
    _tell_plan(training)
    from pipelines.training.finish import finish

    settings = config.tracking
    experiment = settings.experiment or prepared.corpus
    with Tracker(
        experiment,
        part.name if part else found.run_id,
        output,
        output,
        uri=settings.uri,
        enabled=settings.enabled,
        parent=settings.parent,
        say=say,
        run_id=found.mlflow_run_id,
    ) as tracker:
        if part:
            tracker.params(part.params)
        started = time.monotonic()
        told, folder = _fit(training, tracker)
        return finish(training, folder, told, tracker, time.monotonic() - started)


def check(config: TrainConfig, snapshot: int | None) -> Prepared:
    """What the config names to be read, all of it found good; says what a person should know. Raises UsageError."""
    prepared = prepare(config, snapshot)
    for remark in prepared.remarks:
        say(remark)
    if config.teachers:
        import torch

        from pipelines.training.teachers import load_teachers

        load_teachers(config, prepared.classes, torch.device("cpu"))
    return prepared


def _start_ray(config: TrainConfig) -> None:
    execution.start_ray(config.execution.ray_address, config.execution.object_store_mb)
    stop_on_signals()  # Ray has put its own handlers in the place of ours


def _new_record(config: TrainConfig, prepared: Prepared, part: Part | None) -> Record:
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    known = part.mlflow_run_id if part else ""
    return Record(run_id, record.learned(config), prepared.snapshot, prepared.plan.digest, known)


def loader_settings(config: TrainConfig, prepared: Prepared, sizes: Shape) -> LoaderSettings:
    """What the loaders of a training are told."""
    data = config.data
    return LoaderSettings(
        sizes,
        prepared.channels,
        config.seed,
        data.shuffle_images,
        data.class_balance,
        data.quality_weight,
        data.cache_mb * 1_000_000,
        data.max_pixels,
        config.augment,
    )


def _yaml(value: Any) -> bytes:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).encode()


def _tell_plan(training: Training) -> None:
    plan, sizes, prepared = training.prepared.plan, training.shape, training.prepared
    pinned = f", snapshot {prepared.snapshot}" if prepared.snapshot is not None else ""
    say(
        f"train: {len(plan.train):,} images{pinned}, {len(plan.validation):,} validate (by {prepared.validated_by}), "
        f"{len(plan.unlabeled):,} unlabeled; {len(prepared.channels)} classes; {training.config.student.name}, "
        f"recipe {training.config.recipe}"
    )
    epochs = sizes.steps * sizes.step_images / len(plan.train)
    say(
        f"train: {sizes.steps:,} steps of {sizes.step_images} images ({epochs:.1f} epochs) on "
        f"{training.layout.workers} {training.layout.device} workers and {training.layout.readers} readers; "
        f"a kill costs at most {training.config.checkpoint_every_steps} steps"
    )


def _fit(training: Training, tracker: Tracker) -> tuple[Told, str]:
    """Run the workers to the end. Returns what they told, and the address of the last checkpoint."""
    import ray

    execution.set_up_data()
    monitor = ray.remote(Monitor).options(num_cpus=0).remote()
    told = Told(skipped={})
    return told, drive(_trainer(training, monitor), monitor, Listener(training, tracker, told).take)


def _trainer(training: Training, monitor: Any) -> Any:
    import ray
    import ray.train
    from ray.data import ExecutionOptions
    from ray.train.torch import TorchTrainer

    from pipelines.training.worker import WorkerSettings, train_loop

    config, plan = training.config, training.layout
    references = (ray.put(training.prepared.plan), ray.put(training.prepared.sources))
    stream = dataset(
        training.shape, StreamLoader, (references, training.loader, monitor), plan.readers, plan.reader_cpus
    )
    settings = WorkerSettings(
        config,
        training.shape,
        len(training.prepared.channels),
        training.prepared.classes,
        len(training.prepared.plan.train),
        plan.threads,
        monitor,
        training.part.start if training.part else "",
    )
    filesystem, path = storage.arrow_filesystem(training.output)
    resources = {"CPU": plan.worker_cpus} | ({"GPU": plan.worker_gpus} if plan.worker_gpus else {})
    return TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=plan.workers, use_gpu=bool(plan.worker_gpus), resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.execution.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
        datasets={"train": stream},
        dataset_config=ray.train.DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )


class Listener:
    """Turns events into progress lines and tracked numbers."""

    def __init__(
        self, training: Training, tracker: Tracker, told: Told, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._training, self._tracker, self._told, self._clock = training, tracker, told, clock
        self._last = float("-inf")

    def take(self, events: list[Event], skipped: list[tuple[str, str]]) -> None:
        known = self._told.skipped if self._told.skipped is not None else {}
        for asset, reason in skipped:
            known[asset] = reason
            if len(known) <= SKIPPED_TOLD:
                say(f"skipped: {asset}: {reason}")
        for event in events:
            getattr(self, f"_{event['kind']}")(event)

    def _started(self, event: Event) -> None:
        self._told.starts += 1
        if event["step"]:
            say(f"train: goes on from step {event['step']:,}")
        self._tracker.keep(event["history"])
        for point in event["history"]:
            if "validation/miou" in point:
                self._hand_on(
                    point["step"], {k.removeprefix("validation/"): v for k, v in point.items() if k != "step"}
                )
        if self._tracker.run_id and self._tracker.run_id != self._training.record.mlflow_run_id:
            self._remember_mlflow()

    def _remember_mlflow(self) -> None:
        self._training.record.mlflow_run_id = self._tracker.run_id or ""
        record.save(self._training.output, self._training.record)

    def _hand_on(self, step: int, values: Mapping[str, float]) -> None:
        if self._training.part:
            # Who gets this may end the process at once: what came before it is safe then.
            self._tracker.flush()
            self._tracker.drain()
            self._training.part.on_validation(step, values)

    def _failed(self, event: Event) -> None:
        raise (Diverged if event.get("diverged") else RunFailed)(event["reason"])

    def _log(self, event: Event) -> None:
        step, total = event["step"], self._training.shape.steps
        rate = self._told.rate = event["images_per_second"]
        self._told.data_wait = event["data_wait"]
        numbers = {**event["values"], "images_per_second": rate, "data_wait": event["data_wait"]}
        self._tracker.metrics(numbers, step)
        if self._clock() - self._last >= self._training.config.execution.progress_seconds or step == total:
            self._last = self._clock()
            left = (total - step) * self._training.shape.step_images / rate if rate else 0.0
            say(
                f"train: step {step:,}/{total:,}, loss {event['values']['loss']:.4f}, {rate:.1f} images/s, "
                f"ETA {duration(left)}"
            )

    def _validation(self, event: Event) -> None:
        values = event["values"]
        self._tracker.metrics({"validation": values}, event["step"])
        end = "; no gain any more, so this is the end" if event["stopped"] else ""
        say(f"validation: step {event['step']:,}, mIoU {values['miou']:.4f} (best {values['best_miou']:.4f}){end}")
        self._hand_on(event["step"], values)

    def _checkpoint(self, event: Event) -> None:
        self._tracker.flush()
        if self._training.part:
            name = checkpoint_name(event["step"])
            self._training.part.on_checkpoint(event["step"], storage.join(self._training.output, CHECKPOINTS, name))
        if self._tracker.run_id and not self._training.record.mlflow_run_id:
            self._remember_mlflow()
