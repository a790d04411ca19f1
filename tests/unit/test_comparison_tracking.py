"""compare.py on runs of MLflow, and what MLflow is told of a comparison."""

import json
from pathlib import Path

import pytest
from published import publish, rectangle

from pipelines.tracking import Tracker, experiment_name
from pipelines.tracking_read import read_run, stores
from pipelines.tracking_store import ENVIRONMENT
from tuning import compare


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def log(tmp_path: Path, name: str, params: dict[str, object], metrics: dict[str, object], **tags: object) -> str:
    """A run in the store beside tmp_path/out; its id."""
    with Tracker("a corpus", name, str(tmp_path / "out"), str(tmp_path / "runs" / name), say=lambda text: None) as one:
        one.params(params)
        one.metrics(metrics)
        one.tags(tags)
    assert one.run_id is not None
    return one.run_id


def test_runs_of_mlflow_and_the_page_as_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    ids = [
        log(
            tmp_path, f"trial-{seed}-{lr}", {"seed": seed, "optim": {"lr": lr}, "output": str(seed)},
            {"miou": 0.5 + seed / 10 + lr, "per_class_iou": {"cat": 0.25, "dog": lr}}, job="train_student",
        )
        for seed, lr in ((0, 0.01), (1, 0.01), (0, 0.02))
    ]  # fmt: skip
    publish(tmp_path / "out", {"a.jpg": rectangle(5, 2)})
    labels = log(tmp_path, "night", {}, {}, job="label_corpus", output=tmp_path / "out", snapshot=1)
    page = tmp_path / "page.html"
    # The store lies beside the page.
    code, result = compare.run([*ids, labels, "--page", str(page)])
    assert code == 0 and result is not None, capsys.readouterr().err
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert [group["runs"] for group in result["groups"]] == [[ids[0], ids[1]], [ids[2]], [labels]]
    assert numbers["settings"]["optim.lr"] == ["0.01", "0.01", "0.02", None]
    first, second, _ = numbers["tables"]["What they say of themselves"]["miou"]
    assert first["values"] == [pytest.approx(0.51), pytest.approx(0.61)] and second["sd"] is None
    assert numbers["per_class"]["classes"]["dog"][1]["mean"] == pytest.approx(0.02)
    assert numbers["sides"][3]["facts"]["snapshot"] == 1, "what a labeling run left is opened itself"

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(experiment_name("a corpus"))
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id], "tags.job = 'compare'")
    assert {one.path for one in client.list_artifacts(logged.info.run_id)} == {"compare.html", "compare.json"}
    kept = client.download_artifacts(logged.info.run_id, "compare.html", str(tmp_path))
    assert Path(kept).read_text() == page.read_text()


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert stores("", [str(tmp_path / "out"), "elsewhere"]) == []
    assert stores("sqlite:///given.db", ["out"]) == ["sqlite:///given.db"]
    with pytest.raises(LookupError, match="none was found"):
        read_run("0" * 32, [])
    assert not list(tmp_path.glob("*.db"))
