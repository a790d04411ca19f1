"""tune_student.py as a user runs it: six short trainings, a worker of one killed, all of it in MLflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from jobs import ROOT, Job, wait_until

from pipelines.config import parse
from pipelines.training.config import TrainConfig

TRIALS, KEPT, STEPS, VALIDATE = 6, 2, 30, 10
TIMEOUT_S = 900


def command(data: Path, folder: Path) -> list[str]:
    told = [
        "--gold.uri", data / "camvid/trainannot", "--gold.images", data / "camvid/train", "--gold.classes", "camvid",
        "--gold.ignore", 11, "--gold.every", 16, "--data.validation_share", 0.2, "--data.size_px", 48,
        "--student", "ffnet-xs", "--workers", 1, "--optim.steps", STEPS, "--optim.batch_images", 4,
        "--optim.warmup_steps", 3, "--validate_every_steps", VALIDATE, "--checkpoint_every_steps", 5,
        "--log_every_steps", 5, "--output", folder, "--trials", TRIALS, "--keep", KEPT,
        "--execution.object_store_mb", 200,
    ]  # fmt: skip
    return [sys.executable, str(ROOT / "tuning" / "tune_student.py"), *map(str, told)]


def kill_a_worker(process: "subprocess.Popen[str]", trial: Path) -> None:
    """Once this trial has a checkpoint."""
    assert wait_until(lambda: process.poll() is not None or any(trial.glob("checkpoints/step-*")), TIMEOUT_S, 0.02)
    assert process.poll() is None, f"the search ended before a checkpoint: {process.communicate()[1][-3000:]}"
    family = psutil.Process(process.pid).children(recursive=True)
    victims = [child for child in family if "TrainWorker" in " ".join(child.cmdline())]
    assert victims, "no training worker is running"
    for victim in victims:
        victim.kill()


def test_six_trials_and_a_killed_worker(job: Job, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    process = subprocess.Popen(
        command(data, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=job.env
    )
    try:
        kill_a_worker(process, folder / "trials" / "trial-0")
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    print(err)
    assert process.returncode == 0, err[-3000:]
    result = json.loads(out.strip().splitlines()[-1])
    assert (result["trials"], result["resumed"]) == (TRIALS, 0)
    stored = json.loads((folder / "result.json").read_text())
    rows = {row["name"]: row for row in stored["all_trials"]}
    assert set(rows) == {f"trial-{number}" for number in range(TRIALS)}
    assert len({json.dumps(row["values"], sort_keys=True) for row in rows.values()}) == TRIALS
    whole = {name: row["numbers"]["best_miou"] for name, row in rows.items() if not row["stopped_early"]}
    assert result["miou"] == max(whole.values()) == whole[result["winner"]]
    killed = json.loads((folder / "trials/trial-0/summary.json").read_text())
    assert (killed["worker_starts"], killed["steps"]) == (2, STEPS)
    check_what_is_kept(folder, whole, result)
    check_mlflow(tmp_path / "mlflow.db", rows, result)
    again = subprocess.run(command(data, folder), capture_output=True, text=True, cwd=ROOT, env=job.env, timeout=120)
    assert json.loads(again.stdout) == {**result, "resumed": stored["resumed"]}, again.stderr
    assert "is finished" in again.stderr


def check_what_is_kept(folder: Path, whole: dict[str, float], result: dict[str, Any]) -> None:
    """The best students, and settings that train_student.py takes."""
    from models.students.card import load_student

    best = sorted(whole, key=lambda name: -whole[name])[:KEPT]
    assert {path.parent.name for path in folder.glob("trials/*/student")} == set(best)
    assert {path.parent.name for path in folder.glob("trials/*/checkpoints")} == set(best)
    _, card = load_student(Path(result["student"]))
    assert card.names[0] == "sky"
    config = parse(TrainConfig, ["--config", result["yaml"], "--output", "elsewhere"], {})
    stored = json.loads((folder / "result.json").read_text())
    assert config.optim.lr == stored["values"]["optim.lr"] and config.optim.steps == STEPS


def check_mlflow(database: Path, rows: dict[str, Any], result: dict[str, Any]) -> None:
    """A run of the search with the student as its model, and one with curves within it for each trial."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    (experiment,) = [one for one in client.search_experiments() if one.name.endswith("trainannot")]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("job") == "tune_student"]
    assert parent.data.metrics["miou"] == result["miou"] and "model_uri" in parent.data.tags
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [run.info.run_name for run in children if run.data.tags["winner"] == "True"] == [result["winner"]]
    for run in children:
        row = rows[run.info.run_name]
        assert run.data.params["optim.lr"] == json.dumps(row["values"]["optim.lr"])
        # Told twice where a killed worker did steps again.
        steps = sorted({point.step for point in client.get_metric_history(run.info.run_id, "loss")})
        assert steps[:2] == [5, 10] and steps[-1] >= row["numbers"]["step"]
        validated = [point.step for point in client.get_metric_history(run.info.run_id, "validation/miou")]
        assert validated[0] == VALIDATE and validated[-1] == row["numbers"]["step"]
        assert row["stopped_early"] == (run.data.tags["stopped_early"] == "True") == (validated[-1] < STEPS)
