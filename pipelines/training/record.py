"""What an output folder says of the training in it: `training.json` while it runs, `summary.json` when it is done."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pipelines import storage
from pipelines.config import UsageError
from pipelines.tracking import flatten
from pipelines.training.config import learned_settings

RECORD, SUMMARY = "training.json", "summary.json"
# In the order in which they go: whatever a kill leaves of it is no finished training, nor one without its record.
MADE = (SUMMARY, "checkpoints", "student", "metrics.jsonl", "config.yaml", "classes.yaml", RECORD)


@dataclass
class Record:
    """learned: the settings that decide what is learned, by dotted name. snapshot: pinned version of the labels.
    plan_digest: of the images and their roles. summary: of a finished training, None before."""

    run_id: str
    learned: dict[str, str]
    snapshot: int | None
    plan_digest: str
    mlflow_run_id: str = ""
    summary: dict[str, Any] | None = field(default=None)


class Trains(Protocol):
    """Settings of a job that trains something."""

    restart: bool
    snapshot: int | None

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def learned(config: Trains) -> dict[str, str]:
    return flatten(learned_settings(config))


def open_output(config: Trains, output: str, made: Sequence[str] = MADE) -> Record | None:
    """The training that is in the output already, None for a new one; with --restart nothing is left of it, which is
    of what trainings of its kind have `made`.

    Raises UsageError where the output holds a training with other settings.
    """
    if config.restart:
        for name in made:
            remove(storage.join(output, name))
        return None
    address = storage.join(output, RECORD)
    if not storage.exists(address):
        return None
    found = Record(**json.loads(storage.read_bytes(address)))
    now = learned(config)
    changed = [name for name in sorted(found.learned.keys() | now.keys()) if found.learned.get(name) != now.get(name)]
    if config.snapshot is not None and config.snapshot != found.snapshot:
        changed.append("snapshot")
        found.learned["snapshot"], now["snapshot"] = str(found.snapshot), str(config.snapshot)
    if changed:
        told = "; ".join(f"{name} was {found.learned.get(name)}, is {now.get(name)}" for name in changed[:3])
        raise UsageError(
            f"{output} holds a training with other settings ({told}): --restart trains anew, another --output "
            "keeps both"
        )
    summary = storage.join(output, SUMMARY)
    if storage.exists(summary):
        found.summary = json.loads(storage.read_bytes(summary))
    return found


def save(output: str, record: Record) -> None:
    values = {name: value for name, value in asdict(record).items() if name != "summary"}
    storage.write_bytes(storage.join(output, RECORD), json.dumps(values, indent=2).encode())


def remove(address: str) -> None:
    """A file or a folder with all that is in it; nothing where there is none."""
    fs, path = storage.filesystem(address)
    if fs.exists(path):
        fs.rm(path, recursive=True)
