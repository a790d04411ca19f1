"""MLflow: the one way to it. `tracking_*.py` beside this file are its parts.

A `Tracker` hands everything to a thread of its own, so that the run neither waits for MLflow's import nor for its
server. Where MLflow is away the run goes on; what could not be told is kept in the run's folder, and one command tells
it afterwards. Conventions: an experiment for each corpus, a run for each job, nested runs for its trials; tags for git
revision, Ray job, snapshot and config digest; the machine's metrics; what was read as datasets.
"""

import hashlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines import storage, tracking_pending
from pipelines.tracking_delivery import Delivery
from pipelines.tracking_models import fetch_model
from pipelines.tracking_names import (
    choose_store,
    experiment_name,
    flatten,
    how_to_look,
    metric_name,
    numbers,
    picture_stem,
    without_password,
)
from pipelines.tracking_origin import SystemMetrics, origin_tags, ray_tags
from pipelines.tracking_store import About, Operation, set_environment

__all__ = [
    "ChildRun", "Tracker", "choose_store", "experiment_name", "fetch_model", "flatten", "how_to_look", "metric_name",
]  # fmt: skip

#: How long the end of a run waits for what is still on its way to MLflow, s. The first use of a sqlite file takes ten
#: and more on a busy machine. Who stops a run does not want to wait.
PATIENCE_S = 120.0
PATIENCE_WHEN_STOPPED_S = 15.0


@dataclass(frozen=True)
class ChildRun:
    """A part of a run that has params and metrics of its own, such as one trial of a search; unique by name."""

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, object]
    tags: Mapping[str, object] = field(default_factory=dict)


class Tracker:
    """One MLflow run, as a context manager. Every method returns at once and never raises for MLflow's sake.

    uri, output: see `choose_store`; in a Ray worker give the driver's `tracking_uri`. folder: where `metrics.jsonl`
    and what MLflow missed are written, a path or URL. parent: id of the MLflow run that this one is nested in. say:
    told, once, what a person should know. system: whether the machine's load is logged too. run_id: go on with this
    MLflow run, if the store still has it.
    """

    def __init__(
        self,
        experiment: str,
        run_name: str,
        output: str,
        folder: str,
        uri: str = "",
        enabled: bool = True,
        parent: str = "",
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
        system: bool = True,
        run_id: str = "",
    ) -> None:
        self.enabled = enabled
        self.experiment = experiment_name(experiment)
        self.run_name = run_name
        self.folder = storage.absolute(folder)
        self.metrics_url = storage.join(self.folder, "metrics.jsonl")
        self.tracking_uri, artifacts = choose_store(uri, output)
        self._say = say
        self._lines: list[str] = []
        self._pending = False  # something is kept in the folder
        about = About(uuid.uuid4().hex, self.experiment, run_name, parent, run_id, started_ms=_now_ms())
        self._delivery = Delivery(about, self.tracking_uri, artifacts, say, self._tell_loss)
        self._system = SystemMetrics(self._put_metrics) if system and enabled else None

    @property
    def run_id(self) -> str | None:
        """MLflow's, known once it answered."""
        return self._delivery.about.run_id or None

    @property
    def failure(self) -> str | None:
        """Why MLflow has not got what was logged so far; None where it has, or is about to."""
        return self._delivery.failure

    def __enter__(self) -> "Tracker":
        if self.enabled:
            set_environment()
            self._take_pending()
            self._delivery.start()
            self.tags({**origin_tags(), **ray_tags()})
            if self._system:
                self._system.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        if self.enabled:
            self.tags(ray_tags())  # Ray is often started only after the run
            if self._system:
                self._system.stop()
            self._delivery.end(status, PATIENCE_WHEN_STOPPED_S if status == "KILLED" else PATIENCE_S)
        self._write(ended=True)
        if self.enabled and self.failure is None:
            self._say(f"MLflow   run {self.run_name} in experiment {self.experiment}; {how_to_look(self.tracking_uri)}")

    def params(self, config: Mapping[str, Any]) -> None:
        """Log a (nested) config, and its digest as a tag."""
        self._put("params", config)
        text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
        self.tags({"config_digest": hashlib.sha256(text.encode()).hexdigest()})

    def keep(self, records: Iterable[Mapping[str, object]]) -> None:
        """Put these in the place of all that `metrics.jsonl` holds: what an interrupted run left, up to where this one
        goes on."""
        self._lines = [json.dumps(record) + "\n" for record in records]

    def flush(self) -> None:
        """Write `metrics.jsonl` now, and what MLflow missed so far."""
        self._write()

    def tags(self, tags: Mapping[str, object]) -> None:
        if tags:
            self._put("tags", {name: str(value) for name, value in tags.items()})

    def metrics(self, values: Mapping[str, object], step: int = 0) -> None:
        """Log the finite numbers among `values`; nested mappings become `outer/inner`, all else is left out."""
        line = {"time_s": round(time.time(), 3), "step": step, **numbers(values)}
        self._lines.append(json.dumps(line) + "\n")
        self._put_metrics(values, step)

    def text(self, content: str, name: str) -> None:
        """Keep a text, such as the report, as an artifact of this name."""
        self._put("file", {"name": name}, content.encode())

    def pictures(self, pictures: Mapping[str, bytes], folder: str = "overlays") -> None:
        """Keep PNG pictures as artifacts, named after their assets."""
        for number, (asset, png) in enumerate(pictures.items()):
            self._put("file", {"name": f"{folder}/{number:02d}_{picture_stem(asset)}.png"}, png)

    def snapshot(self, url: str, version: int | None, name: str, context: str = "labels") -> None:
        """Log a published label table as a dataset of the run: its address, and its version as the digest."""
        if version is not None:
            source = {"path": url, "delta_table_version": version}
            self._dataset(name, f"version-{version}", "delta_table", source, context)
            self.tags({"snapshot": version, "labels": url})

    def dataset(self, address: str, digest: str, name: str, context: str) -> None:
        """Log images or masks that the run reads: their address, and the digest (hex) of what is there."""
        scheme = address.split("://", 1)[0] if "://" in address else "local"
        self._dataset(name, digest[:36], scheme, {"uri": address}, context)

    def model(self, address: str, side_px: int, register: str | None, description: str) -> None:
        """Log a student, the folder or URL `address`, as a model with a signature: its ONNX file, which MLflow can
        serve, and beside it the files from which our own jobs load it. Under `register` it becomes a version in the
        model registry. side_px: of the example picture."""
        told = {"address": address, "side_px": side_px, "register": register, "description": description}
        self._put("model", told)

    def drain(self) -> None:
        """Wait until all that was put before has arrived, or PATIENCE_S are over."""
        if self.enabled and self.failure is None:
            self._delivery.drain(PATIENCE_S)

    def children(self, runs: Iterable[ChildRun]) -> None:
        """Log finished runs within this one."""
        for run in runs:
            told = {
                "name": run.name,
                "key": f"{self._delivery.about.key}-{run.name}",
                "time_ms": _now_ms(),
                "params": flatten(run.params),
                "metrics": numbers(run.metrics),
                "tags": {name: str(value) for name, value in run.tags.items()},
            }
            self._put("child", told)

    def amend(self, run_id: str, tags: Mapping[str, object]) -> None:
        """Add tags to a run within this one that is over, and end it where it was stopped before it could do so."""
        self._put("amend", {"run_id": run_id, "tags": {name: str(value) for name, value in tags.items()}})

    def _put(self, kind: str, values: Mapping[str, Any], content: bytes | None = None) -> None:
        if self.enabled:
            self._delivery.put(Operation(kind, values, content))

    def _put_metrics(self, values: Mapping[str, object], step: int) -> None:
        if found := numbers(values):
            self._put("metrics", {"values": found, "time_ms": _now_ms(), "step": step})

    def _dataset(self, name: str, digest: str, source_type: str, source: Mapping[str, Any], context: str) -> None:
        told = {"name": name, "digest": digest, "source_type": source_type, "source": dict(source), "context": context}
        self._put("dataset", told)

    def _take_pending(self) -> None:
        """Go on with what an earlier leg of this run, in the same folder, could not tell MLflow."""
        try:
            about, operations = tracking_pending.load(storage.join(self.folder, tracking_pending.FOLDER))
        except (OSError, ValueError, KeyError, TypeError):
            return  # nothing, or nothing whole
        mine = self._delivery.about
        if (about.name, about.experiment) == (mine.name, mine.experiment):
            mine.key, mine.run_id, mine.started_ms = about.key, mine.run_id or about.run_id, about.started_ms
            self._delivery.operations[:0] = operations
            self._pending = True

    def _write(self, ended: bool = False) -> None:
        """The metrics, and what MLflow missed, into the run's folder."""
        try:
            if self._lines:
                storage.write_bytes(self.metrics_url, "".join(self._lines).encode())
            if self.failure is not None:
                self._pending = True
                tracking_pending.save(self.folder, self._delivery.about, list(self._delivery.operations))
            elif self._pending and ended:
                tracking_pending.remove(storage.join(self.folder, tracking_pending.FOLDER))
        except OSError as error:
            self._say(f"{self.folder} cannot hold the run's metrics: {error}")

    def _tell_loss(self, reason: str) -> None:
        where = without_password(self.tracking_uri)
        self._say(
            f"MLflow at {where} cannot be used ({reason}); the run goes on without it. Metrics are in "
            f"{self.metrics_url}; if it does not come back, upload all of the run later:\n"
            f"  {upload_command(self.folder, where)}"
        )


def upload_command(folder: str, tracking_uri: str) -> str:
    """What a person types to tell MLflow what it missed."""
    script = Path(__file__).resolve().parents[1] / "tuning" / "upload.py"
    return f"python {script} --output {folder} --tracking.uri {tracking_uri}"


def _now_ms() -> int:
    return round(time.time() * 1000)
