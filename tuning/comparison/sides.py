"""What is compared: label snapshots, students and MLflow runs, each opened to one record."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.compare import PastRuns
from pipelines.evaluation.config import ELSEWHERE
from pipelines.references import STUDENT_CARD
from pipelines.tables.labels import LabelTable
from pipelines.tracking import flatten
from pipelines.tracking_read import RUN_ID, StoredRun, read_run, stores
from pipelines.training.config import TrainConfig
from pipelines.training.record import RECORD, SUMMARY
from tuning.comparison.config import CompareConfig


@dataclass(frozen=True)
class Snapshot:
    """One version of a label table. run_ids: of the runs that wrote its rows, the newest last."""

    output: str
    version: int
    run_ids: tuple[str, ...]

    @property
    def table(self) -> LabelTable:
        return LabelTable(storage.join(self.output, "labels"))

    @cached_property
    def runs(self) -> PastRuns:
        return PastRuns(self.output)

    @property
    def classes(self) -> ClassSet:
        """Of the newest run."""
        return self.runs[self.run_ids[-1]].classes


@dataclass(frozen=True)
class Side:
    """One of the things that are compared.

    settings: by dotted name. facts: what it is, for people. numbers: what it says of itself, by name; nested names
    have a slash. per_class: IoU by class that it says of itself. evaluations: stored ones, the newest last.
    snapshot, student: where its labels and its network are, None without. output: its folder, "" if it is not known.
    """

    name: str
    reference: str
    kind: Literal["labels", "student", "run"]
    settings: Mapping[str, str]
    facts: Mapping[str, object]
    numbers: Mapping[str, float]
    per_class: Mapping[str, float] = field(default_factory=dict)
    evaluations: tuple[Mapping[str, Any], ...] = ()
    snapshot: Snapshot | None = None
    student: str | None = None
    output: str = ""
    experiment: str = ""


def open_sides(config: CompareConfig) -> list[Side]:
    """All that was asked for, in that order. Raises UsageError naming the one that cannot be opened."""
    folders = [_split(run)[0] for run in config.runs if not RUN_ID.fullmatch(run)]
    # A store lies beside the outputs that were logged to it.
    uris = stores(config.tracking.uri, [*folders, config.page or ELSEWHERE, ELSEWHERE, "here"])
    sides = [_open(run, uris) for run in config.runs]
    names = short_names([side.name for side in sides])
    return [replace(side, name=name) for side, name in zip(sides, names, strict=True)]


def _open(reference: str, uris: Sequence[str]) -> Side:
    if RUN_ID.fullmatch(reference):
        return _open_run(reference, uris)
    address, version = _split(reference)
    output = storage.absolute(address)
    if version is not None or storage.exists(storage.join(output, "labels", "_delta_log")):
        return _open_labels(reference, output, version)
    for folder in (output, output.rpartition("/")[0] if output.endswith("/student") else output):
        if storage.exists(storage.join(folder, "student", STUDENT_CARD)) or storage.exists(
            storage.join(folder, RECORD)
        ):
            return _open_student(reference, folder)
    if not storage.exists(output):
        raise UsageError(
            f"{reference}: there is no folder {output}, nor is this the id of an MLflow run (32 hex digits)"
        )
    raise UsageError(
        f"{reference}: the folder holds neither labels (the --output of label_corpus.py) nor a student "
        "(the --output of train_student.py)"
    )


def _split(reference: str) -> tuple[str, int | None]:
    """OUT@VERSION -> (OUT, VERSION); without a version (reference, None)."""
    address, at, version = reference.rpartition("@")
    return (address, int(version)) if at and version.isdigit() else (reference, None)


def _open_labels(reference: str, output: str, version: int | None) -> Side:
    table = LabelTable(storage.join(output, "labels"))
    newest = table.version()
    if newest is None:
        raise UsageError(f"{reference}: {output} has no published labels")
    version = newest if version is None else version
    if version > newest:
        raise UsageError(f"{reference}: the newest snapshot of {output} is {newest}")
    images: dict[str, int] = {}
    for batch in table.newest(("run_id",), version=version, batch_rows=4096):
        for run_id in batch["run_id"].to_pylist():
            images[run_id] = images.get(run_id, 0) + 1
    if not images:
        raise UsageError(f"{reference}: snapshot {version} of {output} has no label")
    snapshot = Snapshot(output, version, tuple(sorted(images)))
    past = snapshot.runs[snapshot.run_ids[-1]]
    facts = {"labels": output, "snapshot": version, "images": sum(images.values()), "newest run": snapshot.run_ids[-1]}
    if len(images) > 1:
        facts["rows of earlier runs"] = sum(images.values()) - images[snapshot.run_ids[-1]]
    return Side(
        f"{output}@{version}",
        reference,
        "labels",
        flatten(past.config.model_dump(mode="json")),
        facts,
        {},
        evaluations=tuple(one for one in _evaluations(output) if one.get("snapshot") == version),
        snapshot=snapshot,
        output=output,
        experiment=past.config.corpus,
    )


#: Numbers of a training's summary that are shown, with their names on the page.
TOLD = {
    "miou": "validation mIoU", "best_step": "best step", "steps": "steps", "loss": "training loss",
    "train_images": "training images", "unlabeled_images": "unlabeled images", "seconds": "training seconds",
    "images_per_second": "images a second",
}  # fmt: skip


def _open_student(reference: str, output: str) -> Side:
    summary = _json(storage.join(output, SUMMARY)) or {}
    record = _json(storage.join(output, RECORD)) or {}
    facts = {"student": output, "run": record.get("run_id"), "validated by": summary.get("validated_by")}
    if not summary:
        facts["state"] = "not finished"
    settings = _train_settings(output)
    if record.get("snapshot") is not None:
        settings["snapshot"] = str(record["snapshot"])
    whole = storage.exists(storage.join(output, "student", STUDENT_CARD))
    return Side(
        output,
        reference,
        "student",
        settings,
        {name: value for name, value in facts.items() if value is not None},
        {told: float(summary[name]) for name, told in TOLD.items() if summary.get(name) is not None},
        per_class={name: iou for name, iou in (summary.get("per_class_iou") or {}).items() if iou is not None},
        evaluations=tuple(_evaluations(output)),
        student=output if whole else None,
        output=output,
        experiment=str(summary.get("labels") or summary.get("gold") or ""),
    )


def _train_settings(output: str) -> dict[str, str]:
    """What a training was told; defaults of settings that are newer than it are filled in where that is possible."""
    address = storage.join(output, "config.yaml")
    values = yaml.safe_load(storage.read_bytes(address)) if storage.exists(address) else {}
    try:
        return flatten(TrainConfig.model_validate(values).model_dump(mode="json"))
    except ValidationError:
        return flatten(values)


def _evaluations(output: str) -> list[dict[str, Any]]:
    """Stored results of evaluate.py, oldest first."""
    fs, path = storage.filesystem(storage.join(output, "evaluations"))
    return [json.loads(fs.cat_file(file)) for file in sorted(fs.glob(f"{path}/*/evaluation.json"))]


def _json(address: str) -> dict[str, Any] | None:
    return json.loads(storage.read_bytes(address)) if storage.exists(address) else None


def _open_run(run_id: str, uris: Sequence[str]) -> Side:
    try:
        run = read_run(run_id, uris)
    except LookupError as error:
        raise UsageError(f"{error.args[0]}: --tracking.uri names the store that has it") from error
    except Exception as error:  # MLflow's stores have errors of their own kinds
        raise UsageError(f"{run_id}: MLflow at {uris[0]} cannot be read ({type(error).__name__}: {error})") from error
    facts = {"MLflow run": f"{run.name} ({run_id})", "experiment": run.experiment, "state": run.status.lower()}
    side = _behind(run)
    if side is not None:
        return replace(side, name=run.name, reference=run_id, facts={**facts, **side.facts}, experiment=run.experiment)
    plain = {name: value for name, value in run.metrics.items() if not name.startswith(CLASS_METRICS)}
    per_class = {
        name.partition("/")[2]: value for name, value in run.metrics.items() if name.startswith(CLASS_METRICS[:2])
    }
    return Side(
        run.name, run_id, "run", run.params, facts, plain, per_class=per_class, student=run.tags.get("registered"),
        output=run.tags.get("output", ""), experiment=run.experiment,
    )  # fmt: skip


CLASS_METRICS = ("per_class_iou/", "iou/", "per_class_boundary_f/", "kept/per_class_iou/", "kept_share/")


def _behind(run: StoredRun) -> Side | None:
    """What the run left in its output, if that can be reached from here and is still the run's."""
    output, job = run.tags.get("output", ""), run.tags.get("job")
    try:
        if job == "label_corpus" and run.tags.get("snapshot", "").isdigit():
            return _open_labels(run.run_id, output, int(run.tags["snapshot"]))
        record = _json(storage.join(output, RECORD)) if job == "train_student" and output else None
    except (UsageError, OSError):
        return None
    return _open_student(run.run_id, output) if record and record.get("run_id") == run.tags.get("run") else None


def short_names(names: Sequence[str]) -> list[str]:
    """The ends of these addresses that tell them apart; what is the same all the same gets a number."""
    parts = [name.rstrip("/").split("/") for name in names]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    short = ["/".join(part[shared:]) for part in parts]
    return [
        name if short[:n].count(name) == 0 else f"{name} ({short[:n].count(name) + 1})" for n, name in enumerate(short)
    ]


def common_start(names: Sequence[str]) -> str:
    """What names begin with alike, without a trailing "seed-" or separator; "" if nothing is left."""
    first, last = min(names), max(names)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return re.sub(r"[\s/_.@-]*(seeds?)?[\s/_.@-]*$", "", first[:same], flags=re.IGNORECASE)
