"""MLflow: the one module that speaks to it.

A `Tracker` hands everything to a thread of its own, so that the run neither waits for MLflow's import nor for its
server. Whatever goes wrong there is said once and ends the tracking, never the run; every metric is also kept in
`metrics.jsonl` in the run's folder.
"""

import contextlib
import getpass
import json
import logging
import math
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines import storage

#: MLflow's own defaults retry for minutes. A server that does not answer within seconds is treated as absent.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
#: How long the end of a run waits for what is still on its way to MLflow, s. The first use of a sqlite file takes ten
#: and more on a busy machine. Who stops a run does not want to wait.
PATIENCE_S = 120.0
PATIENCE_WHEN_STOPPED_S = 15.0

_PARAM_CHARACTERS = 6000  # MLflow refuses longer values
_BATCH = 100  # and more params or tags than this in one call
_HTTP = ("http://", "https://", "databricks")


def choose_store(uri: str, output: str) -> tuple[str, str | None]:
    """The tracking URI and, for the store that we start ourselves, where its artifacts go (None: MLflow decides).

    First the configured URI, then MLFLOW_TRACKING_URI, then a sqlite file beside the output, so that all outputs in
    one folder can be compared; in the working directory where the output is a URL.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if given:
        return given, None
    target = storage.absolute(output)
    folder = Path.cwd() if "://" in target else Path(target).parent
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        folder = Path(target)
    return f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlartifacts").as_uri()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted names and short texts: what MLflow calls params."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            flat[metric_name(key)] = text[:_PARAM_CHARACTERS]
    return flat


def metric_name(text: str) -> str:
    """`text` with what MLflow refuses in names replaced by an underscore."""
    cleaned = re.sub(r"[^\w.\- /]", "_", text, flags=re.ASCII).strip("/. ")
    return re.sub(r"/{2,}|(?<=/)\.+", "_", cleaned)[:250] or "_"


def origin_tags() -> dict[str, str]:
    """Where a run comes from: git revision, Ray job, script and user, as far as they are known."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    revision = _git("rev-parse", "HEAD")
    if revision:
        tags["mlflow.source.git.commit"] = revision
        tags["git_dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        tags["ray_job_id"] = ray.get_runtime_context().get_job_id()
    submission = os.environ.get("RAY_JOB_SUBMISSION_ID", "")
    if submission:
        tags["ray_submission_id"] = submission
    return tags


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class ChildRun:
    """A part of a run that has params and metrics of its own, such as one trial of a search."""

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, object]
    tags: Mapping[str, object] = field(default_factory=dict)


class Tracker:
    """One MLflow run, as a context manager. Every method returns at once and never raises for MLflow's sake.

    uri, output: see `choose_store`. folder: where `metrics.jsonl` is written, a path or URL. parent: id of the MLflow
    run that this one is nested in. say: told, once, what a person should know.
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
    ) -> None:
        self.enabled = enabled
        self.run_id: str | None = None  # MLflow's, known once it answered
        self.failure: str | None = None
        self.experiment = experiment
        self.run_name = run_name
        self.metrics_url = storage.join(storage.absolute(folder), "metrics.jsonl")
        self.tracking_uri, self._artifacts = choose_store(uri, output)
        self._say = say
        self._lines: list[str] = []
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._client: Any = None
        self._resumed = ""
        self._parent = parent

    def __enter__(self) -> "Tracker":
        if self.enabled:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            self._thread.start()
            self._jobs.put(self._connect)
            self.tags(origin_tags())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        if self.enabled:
            self._put(lambda: self._client.set_terminated(self.run_id, status))
            self._jobs.put(None)
            patience = PATIENCE_WHEN_STOPPED_S if status == "KILLED" else PATIENCE_S
            self._thread.join(patience)
            if self._thread.is_alive():
                self._give_up(f"no answer within {patience:.0f} s")
        if self._lines:
            storage.write_bytes(self.metrics_url, "".join(self._lines).encode())
        if self.enabled and self.failure is None:
            self._say(f"MLflow   run {self.run_name} in experiment {self.experiment}; {how_to_look(self.tracking_uri)}")

    def params(self, config: Mapping[str, Any]) -> None:
        """Log a (nested) config."""
        for part in _batches(flatten(config).items()):
            self._put(partial(self._log_params, part))

    def resume(self, run_id: str) -> None:
        """Before the tracker is entered: go on with this MLflow run, if the store still has it."""
        self._resumed = run_id

    def keep(self, records: Iterable[Mapping[str, object]]) -> None:
        """Put these in the place of all that `metrics.jsonl` holds: what an interrupted run left, up to where this one
        goes on."""
        self._lines = [json.dumps(record) + "\n" for record in records]

    def flush(self) -> None:
        """Write `metrics.jsonl` now."""
        storage.write_bytes(self.metrics_url, "".join(self._lines).encode())

    def tags(self, tags: Mapping[str, object]) -> None:
        for part in _batches(tags.items()):
            self._put(partial(self._log_tags, part))

    def metrics(self, values: Mapping[str, object], step: int = 0) -> None:
        """Log the finite numbers among `values`; nested mappings become `outer/inner`, all else is left out."""
        numbers = _numbers(values)
        now = time.time()
        self._lines.append(json.dumps({"time_s": round(now, 3), "step": step, **numbers}) + "\n")
        if numbers:
            self._put(lambda: self._log_metrics(numbers, round(now * 1000), step))

    def text(self, content: str, name: str) -> None:
        """Keep a text, such as the report, as an artifact of this name."""
        self._put(lambda: self._client.log_text(self.run_id, content, name))

    def pictures(self, pictures: Mapping[str, bytes], folder: str = "overlays") -> None:
        """Keep PNG pictures as artifacts, named after their assets."""
        for number, (asset, png) in enumerate(pictures.items()):
            stem = re.sub(r"[^\w.-]+", "_", asset, flags=re.ASCII)[-80:]
            self._put(partial(self._log_file, f"{number:02d}_{stem}.png", png, folder))

    def snapshot(self, url: str, version: int | None, name: str, context: str = "labels") -> None:
        """Log a published label table as a dataset of the run: its address, and its version as the digest."""
        if version is not None:
            self._put(lambda: self._log_snapshot(url, version, name, context))

    def model(self, folder: Path, onnx: Path, example: Any, register: str | None, description: str) -> None:
        """Log a student as a model with a signature: its ONNX file, which MLflow can serve, and beside it the files of
        `folder`, from which our own jobs load it. Under `register` it becomes a version in the model registry.

        example: float32 [B, 3, H, W]. The files must stay until the tracker is left.
        """
        self._put(lambda: self._log_model(folder, onnx, example, register, description))

    def drain(self) -> None:
        """Wait until all that was put before has arrived, or PATIENCE_S are over."""
        if self.enabled and self.failure is None:
            done = threading.Event()
            self._jobs.put(done.set)
            if not done.wait(PATIENCE_S):
                self._give_up(f"no answer within {PATIENCE_S:.0f} s")

    def children(self, runs: Iterable[ChildRun]) -> None:
        """Log finished runs within this one."""
        for run in runs:
            self._put(partial(self._log_child, run))

    def amend(self, run_id: str, tags: Mapping[str, object]) -> None:
        """Add tags to a run within this one that is over, and end it where it was stopped before it could do so."""
        self._put(partial(self._amend, run_id, tags))

    # Below: only in the thread.

    def _put(self, job: Callable[[], None]) -> None:
        if self.enabled and self.failure is None:
            self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self.failure is not None:
                continue
            try:
                job()
            except Exception as error:  # whatever MLflow raises: a run does not end for it
                self._give_up(_first_line(error))

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._say(
            f"MLflow at {_without_password(self.tracking_uri)} cannot be used ({reason}); the run goes on without it, "
            f"metrics are in {self.metrics_url}"
        )

    def _connect(self) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name in ("alembic", "mlflow.store.db.utils"):  # two dozen lines about the first use of a sqlite file
            logging.getLogger(name).setLevel(logging.WARNING)
        if self._artifacts:
            Path(self.tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        if self._resumed:
            with contextlib.suppress(MlflowException):
                self.run_id = client.get_run(self._resumed).info.run_id
                client.update_run(self.run_id, "RUNNING")
                self._client = client
                return
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                experiment_id = client.create_experiment(self.experiment, artifact_location=self._artifacts)
            except MlflowException:  # another run was quicker
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found is not None:
            experiment_id = found.experiment_id
        nested = {"mlflow.parentRunId": self._parent} if self._parent else None
        self.run_id = client.create_run(experiment_id, run_name=self.run_name, tags=nested).info.run_id
        self._client = client

    def _log_params(self, part: list[tuple[str, str]]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(self.run_id, params=[Param(name, value) for name, value in part])

    def _log_tags(self, part: list[tuple[str, object]]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(metric_name(name), str(value)) for name, value in part])

    def _log_metrics(self, numbers: Mapping[str, float], time_ms: int, step: int) -> None:
        from mlflow.entities import Metric

        for part in _batches(numbers.items()):
            metrics = [Metric(metric_name(name), value, time_ms, step) for name, value in part]
            self._client.log_batch(self.run_id, metrics=metrics)

    def _log_file(self, name: str, content: bytes, folder: str) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(content)
            self._client.log_artifact(self.run_id, str(path), folder)

    def _log_model(self, folder: Path, onnx: Path, example: Any, register: str | None, description: str) -> None:
        from pipelines.tracking_models import log_student

        tags = log_student(
            self._client, self.tracking_uri, str(self.run_id), folder, onnx, example, register, description
        )
        self._log_tags(list(tags.items()))
        if "registered" in tags:
            self._say(f"MLflow   registered as {tags['registered']}")

    def _log_child(self, child: ChildRun) -> None:
        from mlflow.entities import Metric, Param, RunTag

        experiment = self._client.get_run(self.run_id).info.experiment_id
        tags = {"mlflow.parentRunId": str(self.run_id), **{metric_name(k): str(v) for k, v in child.tags.items()}}
        run_id = self._client.create_run(experiment, run_name=child.name).info.run_id
        now = round(time.time() * 1000)
        metrics = [Metric(metric_name(name), value, now, 0) for name, value in _numbers(child.metrics).items()]
        params = [Param(name, value) for name, value in flatten(child.params).items()]
        tags_told = [RunTag(name, value) for name, value in tags.items()]
        self._client.log_batch(run_id, metrics=metrics[:_BATCH], params=params[:_BATCH], tags=tags_told)
        self._client.set_terminated(run_id)

    def _amend(self, run_id: str, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        told = [RunTag(metric_name(name), str(value)) for name, value in tags.items()]
        self._client.log_batch(run_id, tags=told[:_BATCH])
        if self._client.get_run(run_id).info.status != "FINISHED":
            self._client.set_terminated(run_id)

    def _log_snapshot(self, url: str, version: int, name: str, context: str) -> None:
        from mlflow.data.delta_dataset_source import DeltaDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        source = DeltaDatasetSource(path=url, delta_table_version=version)
        dataset = MetaDataset(source=source, name=name, digest=f"version-{version}")
        tags = [InputTag("mlflow.data.context", context)]
        self._client.log_inputs(self.run_id, [DatasetInput(dataset=dataset._to_mlflow_entity(), tags=tags)])
        self._log_tags([("snapshot", version), ("labels", url)])


def fetch_model(reference: str, cache: Path, uri: str = "") -> Path:
    """Local folder of a registered model, `models:/NAME@ALIAS` or `models:/NAME/VERSION`. MLflow's errors pass through.

    uri: of the registry, as `choose_store` gives it for a job's output; default: MLFLOW_TRACKING_URI.

    A version never changes, so each is downloaded once: to `cache`, under the registry's address, name and version.
    """
    import hashlib
    import tempfile

    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    tracking_uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    file = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri or (tracking_uri.startswith("sqlite:///") and not file.is_file()):
        raise FileNotFoundError(f"there is no MLflow registry at {tracking_uri or 'no address'}")
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    name, alias, last = reference.removeprefix("models:/").rpartition("@")
    if alias:
        version = client.get_model_version_by_alias(name, last).version
    else:
        name, _, version = reference.removeprefix("models:/").rpartition("/")
    identity = hashlib.sha256(f"{tracking_uri}\0{name}\0{version}".encode()).hexdigest()[:16]
    target = cache / identity / "model"
    if not target.exists():
        source = client.get_model_version_download_uri(name, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            found = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=tracking_uri)
            with contextlib.suppress(OSError):  # another process was quicker
                Path(found).rename(target)
    return target


def how_to_look(tracking_uri: str) -> str:
    """What a person types or opens to see the runs of this store."""
    if tracking_uri.startswith(_HTTP):
        return f"see {_without_password(tracking_uri)}"
    return f"see them with: mlflow ui --backend-store-uri {_without_password(tracking_uri)}"


def _without_password(uri: str) -> str:
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", uri)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return _without_password(f"{type(error).__name__}: {text[0][:200] if text else 'no message'}")


def _numbers(values: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found


def _batches(items: Iterable[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    entries = list(items)
    return [entries[i : i + _BATCH] for i in range(0, len(entries), _BATCH)]
