"""What MLflow keeps of one output: its runs, the files in them, and the models that came out of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.tracking_store import connect

MOST_RUNS = 1000


@dataclass(frozen=True)
class RunAbout:
    """One run that was told of the output. snapshot: of the labels that it is about. files: its artifacts. models:
    registered versions, NAME/VERSION."""

    run_id: str
    job: str
    snapshot: int | None
    files: tuple[str, ...] = field(default=())
    models: tuple[str, ...] = field(default=())


def runs_about(tracking_uri: str, output: str) -> list[RunAbout]:
    """Runs whose output or labels are those of `output`, the newest first; none where there is no store.

    MLflow's errors pass through.
    """
    file = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not file.is_file():
        return []
    client = connect(tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: dict[str, RunAbout] = {}
    for tag, value in (("labels", storage.join(output, "labels")), ("labels", output), ("output", output)):
        # A quote cannot be escaped in MLflow's filters; a name with one is asked for with a wildcard in its place.
        like = value.replace("'", "_")
        runs = client.search_runs(experiments, f"tags.{tag} LIKE '{like}'", max_results=MOST_RUNS)
        found |= {run.info.run_id: _about(client, run) for run in runs}
    return list(found.values())


def _about(client: Any, run: Any) -> RunAbout:
    tags = run.data.tags
    models = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    snapshot = tags.get("snapshot", "")
    return RunAbout(
        run.info.run_id,
        tags.get("job", "run"),
        int(snapshot) if snapshot.isdigit() else None,
        tuple(_files(client, run.info.run_id, None)),
        tuple(f"{model.name}/{model.version}" for model in models),
    )


def _files(client: Any, run_id: str, folder: str | None) -> list[str]:
    found: list[str] = []
    for entry in client.list_artifacts(run_id, folder):
        found += _files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found
