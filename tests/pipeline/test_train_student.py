"""A student learns; a killed worker and a killed driver change nothing of what it learns."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from jobs import Finished, wait_until
from PIL import Image

from models.metrics import Confusion

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 400
STEPS, CHECKPOINT = 120, 15
TOLERANCE = 1e-4
"""Of a point of the loss curve, relative: what adding gradients up in another order may change."""


class Training:
    """Starts `pipelines/train_student.py` in a process and an environment of its own, tracking off."""

    def __init__(self, data: Path, output: Path) -> None:
        self.output = output
        self.arguments = [
            "--gold.uri", data / "camvid/trainannot", "--gold.images", data / "camvid/train",
            "--gold.classes", "camvid", "--gold.ignore", 11, "--gold.every", 8, "--output", output,
            "--student", "ffnet-xs", "--workers", 2, "--data.size_px", 96, "--optim.batch_images", 8,
            "--optim.steps", STEPS, "--optim.lr", 0.005, "--optim.warmup_steps", 10, "--optim.ema_decay", 0.9,
            "--checkpoint_every_steps", CHECKPOINT, "--validate_every_steps", 40, "--log_every_steps", 5,
            "--data.validation_share", 0.2,
            "--tracking.enabled", "false", "--execution.progress_seconds", 1, "--execution.object_store_mb", 200,
        ]  # fmt: skip
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MASKSTREAM_", "RAY_"))}
        self.env = {**outside, "OMP_NUM_THREADS": "1"}

    def start(self, *more: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(ROOT / "pipelines/train_student.py"), *map(str, [*self.arguments, *more])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.env,
            start_new_session=True,
        )

    def __call__(self, *more: object) -> Finished:
        process = self.start(*more)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the training did not end within {TIMEOUT_S} s:\n{err[-3000:]}")
        return Finished(process.returncode, out, err)

    def checkpoint(self) -> int:
        """The newest step that Ray Train has on record."""
        state = self.output / "checkpoints/checkpoint_manager_snapshot.json"
        try:
            newest = json.loads(state.read_text())["latest_checkpoint_result"]
        except (FileNotFoundError, ValueError):
            return 0
        return int(newest["metrics"]["step"])

    def curve(self) -> dict[int, float]:
        """Loss by step."""
        points = [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]
        return {point["step"]: point["loss"] for point in points if "loss" in point}


def reach(training: Training, process: "subprocess.Popen[str]", step: int) -> None:
    """Wait for a checkpoint of at least this step, and let some steps follow it."""
    assert wait_until(lambda: training.checkpoint() >= step or process.poll() is not None, 200)
    assert process.poll() is None, f"the training ended before step {step}: {process.communicate()[1][-3000:]}"


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [child for child in family if "TrainWorker" in " ".join(child.cmdline())]


def majority(data: Path) -> float:
    """Mean IoU of calling every pixel of CamVid's training masks by the commonest class."""
    confusion = Confusion(11, 11)
    masks = [np.asarray(Image.open(path)) for path in sorted((data / "camvid/trainannot").iterdir())[::8]]
    commonest = int(np.bincount(np.concatenate([mask[mask < 11] for mask in masks])).argmax())
    for mask in masks:
        confusion.update(mask, np.full_like(mask, commonest))
    return confusion.mean_iou()


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Finished]:
    training = Training(data, tmp_path_factory.mktemp("unbroken") / "out")
    return training, training()


def test_it_learns_and_leaves_what_it_promised(data: Path, unbroken: tuple[Training, Finished]) -> None:
    training, done = unbroken
    assert done.code == 0, done.err[-3000:]
    result = done.result
    assert result["steps"] == STEPS and result["validated_by"] == "gold"
    assert result["miou"] > 4 * majority(data)
    assert result["per_class_iou"]["road"] > 0.4
    curve = training.curve()
    assert curve[STEPS] < 0.6 * curve[5]
    assert result["onnx_max_difference"] < 1e-4
    names = {path.name for path in (training.output / "student").iterdir()}
    assert names == {"card.json", "model.safetensors", "student.onnx"}
    there = {path.name for path in training.output.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "summary.json", "classes.yaml"} <= there
    assert len(list((training.output / "checkpoints").glob("step-*"))) == 2

    from models.students.card import load_student

    _, card = load_student(training.output / "student")
    assert card.names[0] == "sky" and not card.background and card.size_px == 96


def test_a_finished_training_only_tells_its_result(unbroken: tuple[Training, Finished]) -> None:
    training, done = unbroken
    again = training()
    assert again.code == 0 and again.result == done.result
    assert "is finished" in again.err
    other = training("--optim.lr", 0.001)
    assert other.code == 2 and "optim.lr was 0.005, is 0.001" in other.err


def test_a_killed_worker_and_a_killed_driver_change_nothing(
    data: Path, unbroken: tuple[Training, Finished], tmp_path: Path
) -> None:
    broken = Training(data, tmp_path / "out")
    process = broken.start()
    reach(broken, process, CHECKPOINT)
    victims = workers_of(process)
    assert len(victims) == 2, "no training worker is running"
    victims[1].kill()
    reach(broken, process, 3 * CHECKPOINT)
    os.kill(process.pid, signal.SIGKILL)
    _, err = process.communicate()
    assert "goes on from step" in err
    at = broken.checkpoint()
    assert at < STEPS

    last = broken()
    assert last.code == 0, last.err[-3000:]
    assert "goes on from step" in last.err
    whole, whole_result = unbroken[0].curve(), unbroken[1].result
    pieced = broken.curve()
    assert pieced.keys() == whole.keys() and len(whole) == STEPS // 5
    assert [pieced[step] for step in whole] == pytest.approx(list(whole.values()), rel=TOLERANCE)
    assert last.result["miou"] == pytest.approx(whole_result["miou"], abs=1e-3)


def test_sigterm_stops_cleanly(data: Path, tmp_path: Path) -> None:
    training = Training(data, tmp_path / "out")
    process = training.start()
    reach(training, process, CHECKPOINT)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err[-2000:]
    assert "the same command goes on" in err
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_usage_errors_name_the_field(data: Path, tmp_path: Path) -> None:
    training = Training(data, tmp_path / "out")
    uneven: Any = training("--optim.batch_images", 7)
    assert uneven.code == 2 and "optim.batch_images 7 cannot be divided among 2 workers" in uneven.err
