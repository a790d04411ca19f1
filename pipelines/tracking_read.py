"""What MLflow knows of runs that were logged before: the reading half of `pipelines.tracking`."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.tracking_names import choose_store, without_password
from pipelines.tracking_store import connect

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredRun:
    """One run as MLflow has it. params: the settings, by dotted name. metrics: the last value of each."""

    run_id: str
    uri: str
    name: str
    experiment: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def stores(uri: str, outputs: Iterable[str]) -> list[str]:
    """Tracking URIs where runs may be: the one that is given, or MLFLOW_TRACKING_URI, or else the sqlite files beside
    these outputs that there are."""
    given = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if given:
        return [given]
    found = dict.fromkeys(choose_store("", output)[0] for output in outputs)
    return [store for store in found if Path(store.removeprefix("sqlite:///")).is_file()]


def read_run(run_id: str, uris: Iterable[str]) -> StoredRun:
    """The run of this id, from the first store that has it.

    Raises LookupError where none has, and MLflow's own errors where a store cannot be reached.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    looked = list(uris)
    for uri in looked:
        client = connect(uri)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            continue
        return StoredRun(
            run_id,
            uri,
            run.info.run_name or run_id[:8],
            client.get_experiment(run.info.experiment_id).name,
            run.info.status,
            dict(run.data.params),
            dict(run.data.metrics),
            dict(run.data.tags),
        )
    raise LookupError(
        f"no run {run_id} in {', '.join(map(without_password, looked)) or 'any MLflow store: none was found'}"
    )
