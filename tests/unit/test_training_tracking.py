"""What a training asks of the tracker: one run through all interruptions, and the student as a model."""

import json
from pathlib import Path

import pytest
import torch

from models.students.build import build_student
from models.students.card import StudentCard, load_card, save_student
from models.students.config import StudentConfig
from models.students.onnx import export_onnx
from pipelines.localising.config import LocaliserTraining
from pipelines.localising.job import Listener
from pipelines.references import resolve_student
from pipelines.tracking import Tracker
from pipelines.tracking_store import ENVIRONMENT
from pipelines.training import record


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_one_run_through_an_interruption_and_a_model_in_the_registry(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    output = str(tmp_path / "out")
    said: list[str] = []
    with Tracker("drive", "run", output, output, uri=store, say=said.append) as first:
        first.metrics({"loss": 2.0}, 5)
        first.metrics({"loss": 1.5}, 10)
        first.flush()
        assert len((tmp_path / "out/metrics.jsonl").read_text().splitlines()) == 2
        first.drain()
    folder = tmp_path / "student"
    student = build_student(StudentConfig("ffnet-xs"), 2)
    classes = ({"id": 0, "name": "background"}, {"id": 1, "name": "cat"})
    save_student(folder, student, StudentCard(StudentConfig("ffnet-xs"), classes, True, 64))
    export_onnx(student, folder / "student.onnx", 64)
    run_id = str(first.run_id)
    with Tracker("drive", "run", output, output, uri=store, say=said.append, run_id=run_id) as second:
        second.keep([{"step": 5, "loss": 2.0}])
        second.metrics({"loss": 1.4}, 10)
        second.model(str(folder), 64, "drive", "a student")
        second.model(str(folder), 64, "drive", "the same")  # once is enough
        second.drain()
    assert second.failure is None, said
    assert second.run_id == first.run_id
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(5, 2.0), (10, 1.4)]

    from mlflow import MlflowClient
    from mlflow.models import get_model_info

    client = MlflowClient(store, registry_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("drive").experiment_id])
    assert run.info.status == "FINISHED" and run.data.tags["registered"] == "models:/drive/1"
    with torch.no_grad():
        next(student.parameters()).add_(1.0)
    save_student(folder, student, load_card(folder))
    with Tracker("drive", "run", output, output, uri=store, say=said.append, run_id=run_id) as third:
        third.model(str(folder), 64, "drive", "another")
    (again,) = client.search_runs([run.info.experiment_id])
    assert again.data.tags["registered"] == "models:/drive/2", said
    assert again.data.tags["model_uri"] != run.data.tags["model_uri"]
    signature = get_model_info("models:/drive/1").signature
    assert signature.inputs.inputs[0].shape == (-1, 3, -1, -1) and signature.outputs.inputs[0].shape[1] == 2
    found = resolve_student("models:/drive/1", cache=tmp_path / "cache", tracking_uri=store)
    assert load_card(found.path).names == ("background", "cat")


def test_a_localiser_that_goes_on_goes_on_in_the_same_run(tmp_path: Path) -> None:
    store, output = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "out")
    config = LocaliserTraining(labels="out/photos", output=output)
    record.save(output, record.Record("run", record.learned(config), 0, "p"))
    runs = []
    for step in (5, 10):
        found = record.open_output(config, output)
        assert found is not None and found.mlflow_run_id == (runs[-1] if runs else "")
        with Tracker("drive", "run", output, output, uri=store, say=str, run_id=found.mlflow_run_id) as tracker:
            tracker.drain()
            Listener(config, tracker, found).take([{"kind": "log", "step": step, "values": {"loss": 1.0}}], [])
            tracker.drain()
        runs.append(tracker.run_id)
    assert runs[0] and runs[0] == runs[1]
