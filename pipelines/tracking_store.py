"""What is logged, as data, and how MLflow takes it. Applying an operation twice changes nothing."""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.tracking_names import SQLITE, batches, flatten, metric_name

#: MLflow's own defaults retry for minutes. A server that does not answer within seconds is treated as absent.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
#: Two threads that import MLflow at once see parts of it half made.
IMPORTING = threading.Lock()
#: Tag of every run: what one is found by again that MLflow had not named yet when it was lost.
KEY_TAG = "maskstream_run"
#: Tag of a run: digest of the student that its model was made of.
MODEL_TAG = "model_digest"


@dataclass(frozen=True)
class Operation:
    """One thing to log. kind: params, tags, metrics, file, dataset, model, child or amend. values: JSON-able, as the
    method of that name in `RunWriter` takes them. content: of a file."""

    kind: str
    values: Mapping[str, Any]
    content: bytes | None = None


@dataclass
class About:
    """What a run is. run_id: MLflow's, "" before it is known. started_ms, ended_ms: Unix time; 0: not yet."""

    key: str
    experiment: str
    name: str
    parent: str = ""
    run_id: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    status: str = "RUNNING"


def set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect(tracking_uri: str) -> Any:
    """A client of the store and the registry at this address."""
    set_environment()
    with IMPORTING:
        from mlflow import MlflowClient
    for name in ("alembic", "mlflow.store.db.utils"):  # two dozen lines about the first use of a sqlite file
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def is_refusal(error: Exception) -> bool:
    """Whether it is the operation that is wrong, and not the store that is away: trying again will not help."""
    code = getattr(error, "error_code", None)
    return code == "INVALID_PARAMETER_VALUE" if code else isinstance(error, _WRONG)


_WRONG = (ValueError, TypeError, FileNotFoundError, ImportError)


class RunWriter:
    """A run in MLflow's store. MLflow's errors pass through."""

    def __init__(self, about: About, tracking_uri: str, artifacts: str | None) -> None:
        """Find the run that `about` names, or create it; notes its id in `about`."""
        if artifacts:
            Path(tracking_uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        self._client, self._uri, self._about = connect(tracking_uri), tracking_uri, about
        self._children: dict[str, Any] | None = None
        self.run_id = about.run_id = self._found() or self._created(self._experiment(artifacts))

    def _found(self) -> str:
        from mlflow.exceptions import MlflowException

        run_id = self._about.run_id
        try:
            run_id = run_id and str(self._client.get_run(run_id).info.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # else a store that is away would get a second run
                raise
            run_id = ""
        experiment = None if run_id else self._client.get_experiment_by_name(self._about.experiment)
        if experiment is not None:
            found = self._client.search_runs([experiment.experiment_id], f"tags.{KEY_TAG} = '{self._about.key}'")
            run_id = str(found[0].info.run_id) if found else ""
        if run_id:
            self._client.update_run(run_id, "RUNNING")
        return run_id

    def _experiment(self, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        name = self._about.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:  # another run was quicker
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _created(self, experiment_id: str) -> str:
        about = self._about
        tags = {KEY_TAG: about.key} | ({"mlflow.parentRunId": about.parent} if about.parent else {})
        run = self._client.create_run(experiment_id, about.started_ms, tags, about.name)
        return str(run.info.run_id)

    def apply(self, operation: Operation) -> None:
        getattr(self, f"_{operation.kind}")(operation)

    def close(self) -> None:
        self._client.set_terminated(self.run_id, self._about.status, self._about.ended_ms or None)

    def _params(self, operation: Operation) -> None:
        self._log_params(self.run_id, operation.values)

    def _tags(self, operation: Operation) -> None:
        self._log_tags(self.run_id, operation.values)

    def _metrics(self, operation: Operation) -> None:
        values = operation.values
        self._log_metrics(self.run_id, values["values"], values["time_ms"], values["step"])

    def _file(self, operation: Operation) -> None:
        folder, _, name = operation.values["name"].rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(operation.content or b"")
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def _dataset(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        told = operation.values
        dataset = Dataset(told["name"], told["digest"], told["source_type"], json.dumps(told["source"]))
        tags = [InputTag("mlflow.data.context", told["context"])]
        self._client.log_inputs(self.run_id, [DatasetInput(dataset=dataset, tags=tags)])

    def _model(self, operation: Operation) -> None:
        from pipelines.references import student_digest
        from pipelines.tracking_models import local, log_student

        told = {**operation.values}
        with local(told.pop("address")) as folder:
            digest = student_digest(folder)
            # A search that went on may have another winner than the one that its run has a model of.
            if self._client.get_run(self.run_id).data.tags.get(MODEL_TAG) != digest:
                tags = log_student(self._client, self._uri, self.run_id, folder, **told)
                self._log_tags(self.run_id, {**tags, MODEL_TAG: digest})

    def _child(self, operation: Operation) -> None:
        """A finished run within this one."""
        told = operation.values
        experiment, there = self._inside()
        run = there.get(told["key"])
        if run is None:
            tags = {"mlflow.parentRunId": self.run_id, KEY_TAG: told["key"]}
            run = there[told["key"]] = self._client.create_run(experiment, told["time_ms"], tags, told["name"])
        elif run.info.status == "FINISHED":
            return
        run_id = run.info.run_id
        self._log_params(run_id, told["params"])
        self._log_tags(run_id, told["tags"])
        self._log_metrics(run_id, told["metrics"], told["time_ms"], 0)
        self._client.set_terminated(run_id, end_time=told["time_ms"])

    def _amend(self, operation: Operation) -> None:
        from mlflow.exceptions import MlflowException

        run_id = operation.values["run_id"]
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # it went to another store
                return
            raise
        self._log_tags(run_id, operation.values["tags"])
        if run.info.status != "FINISHED":
            self._client.set_terminated(run_id)

    def _inside(self) -> tuple[str, dict[str, Any]]:
        """The experiment's id, and the runs in this one by key."""
        experiment = str(self._client.get_run(self.run_id).info.experiment_id)
        if self._children is None:
            condition = f"tags.`mlflow.parentRunId` = '{self.run_id}'"
            runs: list[Any] = []
            token = None
            while True:
                page = self._client.search_runs([experiment], condition, page_token=token)
                runs, token = [*runs, *page], page.token
                if not token:
                    break
            self._children = {run.data.tags.get(KEY_TAG, ""): run for run in runs}
        return experiment, self._children

    def _log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Raises ValueError for params that were something else before, which MLflow cannot change; the rest is there
        then."""
        from mlflow.entities import Param

        known, now = self._client.get_run(run_id).data.params, flatten(values)
        for part in batches((name, value) for name, value in now.items() if name not in known):
            self._client.log_batch(run_id, params=[Param(name, value) for name, value in part])
        if other := [name for name, value in now.items() if known.get(name, value) != value]:
            raise ValueError(f"params cannot change, and stay as they were: {', '.join(other)}")

    def _log_tags(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        for part in batches(values.items()):
            self._client.log_batch(run_id, tags=[RunTag(metric_name(name), str(value)) for name, value in part])

    def _log_metrics(self, run_id: str, values: Mapping[str, float], time_ms: int, step: int) -> None:
        from mlflow.entities import Metric

        for part in batches(values.items()):
            metrics = [Metric(metric_name(name), value, time_ms, step) for name, value in part]
            self._client.log_batch(run_id, metrics=metrics)
