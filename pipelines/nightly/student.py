"""A student that is trained again on a schedule, from the published labels, and then labels beside CLIP and SAM."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from pipelines import storage
from pipelines.flow.progress import duration, say
from pipelines.nightly.config import NightlyConfig
from pipelines.tables.labels import LabelTable

FOLDER = "students"
SCRIPT = Path(__file__).resolve().parents[1] / "train_student.py"
CARD = "student/card.json"


def trained(output: str) -> list[tuple[datetime, str]]:
    """(day, address) of the finished students of an output, the newest first."""
    folder = storage.join(output, FOLDER)
    fs, path = storage.filesystem(folder)
    if not fs.isdir(path):
        return []
    names = sorted((str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in fs.ls(path, detail=True)), reverse=True)
    found = []
    for name in names:
        try:
            day = datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
        if storage.exists(storage.join(folder, name, CARD)):
            found.append((day, storage.join(folder, name)))
    return found


def due(config: NightlyConfig) -> bool:
    """Whether a new student is to be trained: there are labels, and the newest student is too old, or there is none."""
    every = config.retrain.every
    output = storage.absolute(config.output)
    if every is None or LabelTable(storage.join(output, "labels")).version() is None:
        return False
    students = trained(output)
    return not students or (config.moment - students[0][0]).total_seconds() >= every


def train(config: NightlyConfig) -> bool:
    """Train one on the published snapshot, as a process of its own; False if that failed, which ends no night."""
    output = storage.absolute(config.output)
    day = (config.as_of or datetime.now(UTC).date()).strftime("%Y%m%d")
    command = [sys.executable, str(SCRIPT), "--labels", output, "--output", storage.join(output, FOLDER, day)]
    if config.retrain.config:
        command += ["--config", config.retrain.config]
    tracking = config.tracking
    for name in ("uri", "experiment"):
        if value := getattr(tracking, name):
            command += [f"--tracking.{name}", value]
    command += ["--tracking.enabled", str(tracking.enabled).lower()]
    if config.execution.ray_address:
        command += ["--execution.ray_address", config.execution.ray_address]
    say(f"student: training one of {day}; the newest is older than {duration(config.retrain.every or 0)}, or absent")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        code = process.wait()
    except BaseException:
        # Stopped by a signal: its checkpoints stay, and the next night goes on from them.
        process.terminate()
        process.wait()
        raise
    if code:
        say(f"student: the training failed (exit code {code}); the night goes on with the students that there are")
    return code == 0


def labelers(config: NightlyConfig) -> tuple[str, ...]:
    """The labelers of tonight: those that the config names, and the newest scheduled student."""
    students = trained(storage.absolute(config.output)) if config.retrain.every is not None else []
    return (*config.labelers, *(f"student:{address}" for _, address in students[:1]))
