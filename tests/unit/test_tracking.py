"""Tracking: a sqlite store has all that was promised; a server that is not there costs seconds and is said."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.tracking import ChildRun, Tracker, choose_store, experiment_name, flatten, metric_name
from pipelines.tracking_pending import find, load
from pipelines.tracking_store import ENVIRONMENT

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def tracked(tmp_path: Path, said: list[str], uri: str = "", enabled: bool = True) -> Tracker:
    output = tmp_path / "out" / "photos"
    output.mkdir(parents=True, exist_ok=True)
    with Tracker(
        "voc:a corpus", "run-1", str(output), str(output / "runs/1"), uri, enabled, say=said.append
    ) as tracker:
        tracker.params({"corpus": "photos", "decide": {"par": {"steps": 10}, "long": "x" * 7000}, "empty": {}})
        tracker.tags({"job": "abc"})
        for step in (1, 2, 3):
            tracker.metrics({"images": 10 * step, "iou": {"cat <b>": 0.5, "none": None}, "bad": float("nan")}, step)
        tracker.text("<html></html>", "report.html")
        tracker.pictures({"a/b c.jpg": PNG})
        tracker.snapshot(str(output / "labels"), 4, "labels of photos")
    return tracker


def test_a_local_store_has_everything(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = tracked(tmp_path, said)
    store = f"sqlite:///{tmp_path}/out/mlflow.db"
    assert said == [
        f"MLflow   run run-1 in experiment voc/a-corpus; see them with: mlflow ui --backend-store-uri {store}"
    ]

    from mlflow import MlflowClient

    client = MlflowClient(store)
    run = client.get_run(tracker.run_id or "")
    assert client.get_experiment(run.info.experiment_id).name == "voc/a-corpus"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run-1")
    assert run.data.params["decide.par.steps"] == "10"
    assert len(run.data.params["decide.long"]) == 6000
    system = {name for name in run.data.metrics if name.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= system
    assert {n: v for n, v in run.data.metrics.items() if n not in system} == {"images": 30.0, "iou/cat _b_": 0.5}
    history = client.get_metric_history(run.info.run_id, "images")
    assert [(m.step, m.value) for m in history] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert run.data.tags["job"] == "abc" and len(run.data.tags["config_digest"]) == 64
    assert run.data.tags["snapshot"] == "4"
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    if revision.returncode == 0:
        assert run.data.tags["mlflow.source.git.commit"] == revision.stdout.strip()
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("labels of photos", "version-4")
    assert json.loads(dataset.dataset.source)["path"] == str(tmp_path / "out/photos/labels")
    assert json.loads(dataset.dataset.source)["delta_table_version"] == 4
    files = {f.path for folder in ("", "overlays") for f in client.list_artifacts(run.info.run_id, folder)}
    assert files == {"report.html", "overlays", "overlays/00_a_b_c.jpg.png"}
    assert next((tmp_path / "out" / "mlartifacts").rglob("report.html")).read_text() == "<html></html>"


def test_an_unreachable_server_is_said_within_seconds_and_metrics_are_kept(tmp_path: Path) -> None:
    said: list[str] = []
    start = time.monotonic()
    tracker = tracked(tmp_path, said, uri="http://user:secret@127.0.0.1:9")
    assert time.monotonic() - start < 15
    assert tracker.run_id is None
    assert len(said) == 1
    assert "127.0.0.1:9 cannot be used" in said[0]
    assert "secret" not in said[0]
    kept = tmp_path / "out/photos/runs/1/metrics.jsonl"
    assert str(kept) in said[0]
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(line["step"], line["images"], line["iou/cat <b>"]) for line in lines] == [
        (1, 10, 0.5), (2, 20, 0.5), (3, 30, 0.5),
    ]  # fmt: skip
    about, operations = load(str(tmp_path / "out/photos/runs/1/mlflow-pending"))
    assert (about.name, about.status, about.run_id) == ("run-1", "FINISHED", "")
    assert [one.kind for one in operations].count("file") == 2
    assert list(find(str(tmp_path / "out"))) == [f"{tmp_path}/out/photos/runs/1/mlflow-pending"]
    assert f"upload.py --output {tmp_path}/out/photos/runs/1 --tracking.uri" in said[0]
    assert "secret" not in "".join(file.read_text() for file in tmp_path.rglob("*.json*"))


def test_an_error_of_the_run_passes_through_and_marks_it_failed(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        pytest.raises(RuntimeError, match="ours"),
        Tracker("e", "r", str(tmp_path / "out"), str(tmp_path / "out/runs/r"), say=said.append) as tracker,
    ):
        raise RuntimeError("ours")

    from mlflow import MlflowClient

    assert MlflowClient(tracker.tracking_uri).get_run(tracker.run_id or "").info.status == "FAILED"


def test_what_mlflow_refuses_is_told_and_the_rest_is_logged(tmp_path: Path) -> None:
    said: list[str] = []
    with Tracker("e", "r", str(tmp_path / "out"), str(tmp_path / "out/runs/r"), say=said.append) as tracker:
        tracker.params({"once": 1})
        tracker.params({"once": 2, "other": 3})  # a param cannot change
        tracker.metrics({"after": 1})
    assert tracker.failure is None
    assert len(said) == 2 and "MLflow does not take params of this run" in said[0]
    from mlflow import MlflowClient

    data = MlflowClient(tracker.tracking_uri).get_run(tracker.run_id or "").data
    assert data.metrics["after"] == 1.0 and data.params == {"once": "1", "other": "3"}


def test_disabled_tracking_imports_nothing(tmp_path: Path) -> None:
    code = f"""
import sys
from pipelines.tracking import Tracker
with Tracker("e", "r", {str(tmp_path / "out")!r}, {str(tmp_path / "runs")!r}, enabled=False) as tracker:
    tracker.metrics({{"a": 1}})
    tracker.text("x", "y")
assert "mlflow" not in sys.modules
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "mlflow.db").exists()
    assert json.loads((tmp_path / "runs/metrics.jsonl").read_text())["a"] == 1


def test_which_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = str(tmp_path / "out" / "photos")
    assert choose_store("", output) == (f"sqlite:///{tmp_path}/out/mlflow.db", f"file://{tmp_path}/out/mlartifacts")
    assert choose_store("", "s3://bucket/photos")[0] == f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as patch:  # as in the image, whose working directory is root's
        (tmp_path / "home").mkdir()
        patch.setenv("HOME", str(tmp_path / "home"))
        patch.setattr("os.access", lambda path, mode: str(path) != str(tmp_path))
        assert choose_store("", "s3://bucket/photos")[0] == f"sqlite:///{tmp_path}/home/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert choose_store("", output) == ("http://server:5000", None)
    assert choose_store("sqlite:///mine.db", output) == ("sqlite:///mine.db", f"file://{tmp_path}/mlartifacts")


def test_names_are_made_acceptable() -> None:
    assert experiment_name("sample:") == "sample"
    assert experiment_name("voc:../data/VOC 2012/") == "voc/data/VOC-2012"
    assert experiment_name("s3://bucket/photos") == "s3/bucket/photos"
    assert experiment_name("/") == "corpus"
    assert flatten({"a": {"b": [1, None], "c": {}}, "d": "text"}) == {"a.b": "[1, null]", "a.c": "{}", "d": "text"}
    assert metric_name("iou/naïve: <b>") == "iou/na_ve_ _b_"
    assert metric_name("a//b/../c") == "a_b/_/c"
    assert metric_name("/") == "_"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_children_lie_within_their_parent(tmp_path: Path) -> None:
    said: list[str] = []
    with Tracker("voc:a corpus", "search", str(tmp_path / "out"), str(tmp_path / "search"), say=said.append) as tracker:
        tracker.children(
            ChildRun(
                f"trial-{n}",
                {"mask_top": n, "keep_policy": "fixed"},
                {"miou": n / 10, "coverage": None},
                {"part": n > 1},
            )
            for n in range(3)
        )
    from mlflow import MlflowClient

    client = MlflowClient(tracker.tracking_uri)
    parent = client.get_run(tracker.run_id or "")
    runs = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{tracker.run_id}'")
    assert sorted(run.info.run_name for run in runs) == ["trial-0", "trial-1", "trial-2"]
    last = next(run for run in runs if run.info.run_name == "trial-2")
    assert last.data.params == {"mask_top": "2", "keep_policy": "fixed"}
    assert last.data.metrics == {"miou": 0.2}
    assert last.info.experiment_id == parent.info.experiment_id
    assert (last.data.tags["part"], last.info.status) == ("True", "FINISHED")
    assert tracker.failure is None, said
