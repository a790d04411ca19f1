"""Runs that lose MLflow: nothing ends, nothing is lost, and an upload brings each thing exactly once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking_delivery, tracking_pending
from pipelines.tracking import ChildRun, Tracker
from pipelines.tracking_store import ENVIRONMENT, About, RunWriter
from tuning import upload

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store's file with its tables and nothing in them, to be copied."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    yield path


def log(tracker: Tracker) -> None:
    tracker.params({"seed": 1, "optim": {"lr": 0.1}})
    tracker.tags({"job": "train_student"})
    for step in range(5):
        tracker.metrics({"loss": 1.0 / (step + 1)}, step)
    tracker.text("a,b\n", "table.csv")
    tracker.dataset("/gold", "abc", "gold", "evaluation")
    tracker.children([ChildRun(f"trial-{n}", {"x": n}, {"miou": n / 10}) for n in range(2)])


def lost(tmp_path: Path) -> tuple[Path, list[str]]:
    """A run that never reached its server. Returns its folder."""
    said: list[str] = []
    folder = tmp_path / "out" / "runs" / "1"
    uri = "http://127.0.0.1:9"
    with Tracker("photos", "run-1", str(tmp_path / "out"), str(folder), uri, say=said.append, system=False) as tracker:
        log(tracker)
    assert tracker.failure is not None
    return folder, said


def check(store: str, name: str = "run-1") -> Any:
    """All that `log` logged is there, once."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("photos")
    (run,) = client.search_runs([experiment.experiment_id], "tags.job = 'train_student'")
    assert (run.info.run_name, run.info.status) == (name, "FINISHED")
    assert run.data.params == {"seed": "1", "optim.lr": "0.1"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(n, 1.0 / (n + 1)) for n in range(5)]
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["table.csv"]
    assert len(run.inputs.dataset_inputs) == 1
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert sorted(child.info.run_name for child in children) == ["trial-0", "trial-1"]
    assert all(child.info.status == "FINISHED" for child in children)
    return run


def test_an_upload_brings_everything_once(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = lost(tmp_path)
    assert f"upload.py --output {folder}" in said[0]
    store = shutil.copy(empty_store, tmp_path / "elsewhere.db")
    uri = f"sqlite:///{store}"
    # An upload that was killed half way: the run is there, and some of it.
    about, operations = tracking_pending.load(str(folder / tracking_pending.FOLDER))
    half = RunWriter(about, uri, (tmp_path / "mlartifacts").as_uri())
    for operation in operations[: len(operations) // 2 + 2]:
        half.apply(operation)

    command = ["--output", str(tmp_path / "out"), "--tracking.uri", uri]
    assert upload.main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"uploaded": 1, "runs": [half.run_id]}
    run = check(uri)
    assert run.info.start_time == about.started_ms and run.info.end_time == about.ended_ms
    assert not (folder / tracking_pending.FOLDER).exists() and (folder / "metrics.jsonl").exists()
    assert upload.main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["uploaded"] == 0
    assert upload.main(["--output", str(tmp_path / "absent")]) == 2


def test_an_upload_to_where_nobody_is_keeps_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = lost(tmp_path)
    before = sorted(file.name for file in (folder / tracking_pending.FOLDER).iterdir())
    assert upload.main(["--output", str(folder), "--tracking.uri", "http://u:secret@127.0.0.1:9"]) == 1
    err = capsys.readouterr().err
    assert "what was not uploaded is kept" in err and "secret" not in err
    assert sorted(file.name for file in (folder / tracking_pending.FOLDER).iterdir()) == before


def test_a_store_that_comes_back_has_it_all(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_delivery, "RETRY_S", 0.2)
    said: list[str] = []
    (tmp_path / "disk").write_text("not mounted")
    uri = f"sqlite:///{tmp_path}/disk/mlflow.db"
    out = str(tmp_path / "out")
    with Tracker("photos", "run-1", out, out, uri, say=said.append, system=False) as tracker:
        tracker.drain()
        assert tracker.failure is not None
        tracker.flush()
        assert (tmp_path / "out" / tracking_pending.FOLDER / "about.json").exists()
        (tmp_path / "disk").unlink()
        (tmp_path / "disk").mkdir()
        shutil.copy(empty_store, tmp_path / "disk" / "mlflow.db")
        log(tracker)
    assert tracker.failure is None, said
    assert "cannot be used" in said[0] and "has answered again" in said[1]
    check(uri)
    assert not (tmp_path / "out" / tracking_pending.FOLDER).exists()


def test_a_resumed_run_brings_what_its_first_leg_could_not_tell(tmp_path: Path, empty_store: Path) -> None:
    out = str(tmp_path / "out")
    with Tracker("photos", "run-1", out, out, "http://127.0.0.1:9", say=lambda text: None, system=False) as first:
        log(first)
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    with Tracker("photos", "run-1", out, out, uri, say=lambda text: None, system=False) as second:
        second.metrics({"second": 1.0}, 5)
    assert second.failure is None
    assert check(uri).data.metrics["second"] == 1.0
    assert not list(tracking_pending.find(out))


def test_a_run_that_cannot_be_looked_up_is_not_made_anew(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    gone = RunWriter(About("key", "photos", "run-1", run_id="0" * 32), uri, None)
    assert gone.run_id != "0" * 32, "the store has no such run"

    def away(*_: object) -> None:
        raise MlflowException("a proxy does not answer")

    monkeypatch.setattr(MlflowClient, "get_run", away)
    with pytest.raises(MlflowException, match="a proxy"):
        RunWriter(About("another", "photos", "run-1", run_id=gone.run_id), uri, None)
    (experiment,) = (one for one in MlflowClient(uri).search_experiments() if one.name == "photos")
    assert len(MlflowClient(uri).search_runs([experiment.experiment_id])) == 1


@pytest.mark.parametrize("name", ["student", "labels"])
def test_a_job_may_be_called_as_a_folder_of_an_output(name: str, tmp_path: Path) -> None:
    about = About("key", "photos", "run-1")
    kept = tracking_pending.save(str(tmp_path / "out" / name), about, [])
    tracking_pending.save(str(tmp_path / "out" / name / "deeper"), about, [])
    assert list(tracking_pending.find(str(tmp_path / "out"))) == [kept]


def test_a_full_disk(tmp_path: Path, empty_store: Path) -> None:
    """The store's file cannot grow: its disk is full to this process, and a run of its own cannot tell."""
    store = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    code = f"""
import resource
from pipelines.tracking import Tracker
size = {store.stat().st_size}
with Tracker("photos", "run-1", {str(tmp_path / "out")!r}, {str(tmp_path / "out")!r}, "sqlite:///{store}") as tracker:
    tracker.tags({{"job": "train_student"}})
    tracker.drain()
    assert tracker.failure is None and tracker.run_id
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    tracker.params({{f"p{{n}}": "x" * 5000 for n in range(90)}})
    tracker.metrics({{"miou": 0.5}})
print(tracker.run_id)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "the run goes on without it" in done.stderr and "upload.py --output" in done.stderr
    assert '"miou": 0.5' in (tmp_path / "out" / "metrics.jsonl").read_text()
    assert upload.main(["--output", str(tmp_path / "out"), "--tracking.uri", f"sqlite:///{store}"]) == 0
    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{store}").get_run(done.stdout.split()[-1])
    assert run.data.metrics["miou"] == 0.5 and len(run.data.params["p89"]) == 5000
