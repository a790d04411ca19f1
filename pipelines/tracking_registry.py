"""MLflow's model registry as promotions use it: versions, aliases, their history, and the runs behind them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.tracking_models import create_version, registry_address
from pipelines.tracking_names import without_password
from pipelines.tracking_store import connect

HISTORY = "champions"
"""Tag of a registered model: the versions that were its champion, as a JSON list, the newest last."""


@dataclass(frozen=True)
class Run:
    """A run of the store. metrics: the last value of each."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    started_ms: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Version:
    """A version of a registered model. source: what was registered; of a model of MLflow `models:/` and its id."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]
    source: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}"


class Registry:
    """The registry and the runs of one MLflow store. MLflow's errors pass through, unless a method says otherwise."""

    def __init__(self, uri: str = "") -> None:
        """uri: default: MLFLOW_TRACKING_URI. Raises FileNotFoundError where that is no registry."""
        self.uri = registry_address(uri)
        self._client = connect(self.uri)

    def run(self, run_id: str) -> Run:
        """Raises LookupError where the store has no such run."""
        from mlflow.exceptions import MlflowException

        try:
            return _run(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise LookupError(f"there is no run {run_id} at {without_password(self.uri)}") from error

    def runs(self, condition: str, experiment_id: str | None = None) -> Iterator[Run]:
        """Runs that meet a condition in MLflow's search language, the newest first; of all experiments, or of one."""
        ids = [experiment_id] if experiment_id else [one.experiment_id for one in self._experiments()]
        token = None
        while True:
            page = self._client.search_runs(ids, condition, order_by=["attributes.start_time DESC"], page_token=token)
            yield from map(_run, page)
            token = page.token
            if not token:
                return

    def _experiments(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_experiments(page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def text(self, run_id: str, name: str, scratch: Path) -> str:
        """A text artifact of a run, by way of a scratch folder."""
        return Path(self._client.download_artifacts(run_id, name, str(scratch))).read_text()

    def artifact_uri(self, run_id: str) -> str:
        return str(self._client.get_run(run_id).info.artifact_uri)

    def by_alias(self, name: str, alias: str) -> Version | None:
        """The version that an alias stands for, None where there is no such model or alias."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def by_number(self, name: str, version: str) -> Version:
        return _version(self._client.get_model_version(name, version))

    def versions(self, name: str) -> list[Version]:
        """The newest first."""
        quoted = name.replace("'", "''")
        found = [_version(one) for one in self._client.search_model_versions(f"name = '{quoted}'")]
        return sorted(found, key=lambda one: -int(one.version))

    def create(self, name: str, source: str, run_id: str, tags: Mapping[str, str], model_id: str | None) -> Version:
        version = create_version(self._client, name, source, run_id, model_id)
        self.tag(Version(name, version, run_id, {}), tags)
        return self.by_number(name, version)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(version.name, version.version, key, value)

    def point(self, alias: str, version: Version) -> None:
        self._client.set_registered_model_alias(version.name, alias, version.version)

    def unpoint(self, alias: str, name: str) -> None:
        self._client.delete_registered_model_alias(name, alias)

    def history(self, name: str) -> list[str]:
        """Versions that were the champion, the newest last."""
        found: list[str] = json.loads(self._client.get_registered_model(name).tags.get(HISTORY, "[]"))
        return found

    def set_history(self, name: str, versions: list[str]) -> None:
        self._client.set_registered_model_tag(name, HISTORY, json.dumps(versions))


def _run(found: Any) -> Run:
    info, data = found.info, found.data
    return Run(
        info.run_id,
        info.run_name or info.run_id[:8],
        info.experiment_id,
        info.status,
        int(info.start_time or 0),
        dict(data.params),
        dict(data.metrics),
        dict(data.tags),
    )


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", dict(found.tags), found.source or "")
