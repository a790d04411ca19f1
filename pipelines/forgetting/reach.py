"""What forgetting cannot reach: students that learned from the image, MLflow's copies, the photograph itself."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.corpus.base import kind
from pipelines.forgetting.names import Names
from pipelines.learned import BIAS, FOLDER, HEAD, REFERENCES, cards
from pipelines.quality import cards as quality
from pipelines.tables.labels import LabelTable
from pipelines.tracking_names import without_password
from pipelines.training.record import RECORD, SUMMARY

# How far around the output trained students are looked for.
AROUND = ("*", "*/*")


@dataclass(frozen=True)
class Student:
    """A trained student. snapshot: of the labels it learned from. certain: whether that is known to have the image."""

    folder: str
    snapshot: int | None
    certain: bool = True


@dataclass
class Unreachable:
    """students: that learned from a snapshot with the image. mlflow: lines about runs. photographs: addresses at which
    the image itself still lies. remarks: what else a person should think of."""

    students: list[Student] = field(default_factory=list)
    mlflow: list[str] = field(default_factory=list)
    photographs: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        told = [f"student {s.folder}: learned from snapshot {s.snapshot}, {_had(s.certain)}" for s in self.students]
        told += self.mlflow
        told += [f"the photograph itself: {address}" for address in self.photographs]
        return told + self.remarks


def _had(certain: bool) -> str:
    return "which had the image" if certain else "which perhaps had the image: its files are gone"


def snapshots_with(output: str, names: Names) -> dict[int, bool]:
    """Versions of the label table in which the image has a label, to whether that is certain: what the files of a
    version that was vacuumed held, nobody can say."""
    table = LabelTable(storage.join(output, "labels"))
    newest = table.version()
    told = {}
    there = {address.rpartition("/")[2]: address for address in storage.list_files(table.url)}
    for address in there.values():
        if address.endswith(".parquet"):
            rows = storage.read_parquet(address, ["asset", "sequence", "removed"])
            about = rows.filter(pc.is_in(rows["asset"], value_set=pa.array(sorted(names.assets), pa.string())))
            if about.num_rows:
                told[address.rpartition("/")[2]] = about.to_pylist()
    found = {}
    for version in range(0 if newest is None else newest + 1):
        try:
            files = {file.rpartition("/")[2] for file in table.files(version)}
        except Exception:  # deltalake's errors are of no common kind; its log is gone
            found[version] = False
            continue
        if files - there.keys():
            found[version] = False
            continue
        last: dict[str, tuple[int, bool]] = {}
        for row in (row for file in files for row in told.get(file, [])):
            last[row["asset"]] = max(last.get(row["asset"], (-1, True)), (row["sequence"], not row["removed"]))
        if any(labeled for sequence, labeled in last.values() if sequence >= 0):
            found[version] = True
    return found


def students_around(output: str, snapshots: Mapping[int, bool]) -> list[Student]:
    """Trainings in folders beside the output, and in it, that learned from one of its snapshots."""
    fs, path = storage.filesystem(output)
    parent = path.rstrip("/").rpartition("/")[0]
    found = {}
    for pattern in AROUND:
        for base in (parent, path.rstrip("/")):
            for record in fs.glob(f"{base}/{pattern}/{RECORD}"):
                student = _student(fs, str(record), output)
                if student is not None and student.snapshot is not None and student.snapshot in snapshots:
                    found[student.folder] = replace(student, certain=snapshots[student.snapshot])
    return [found[folder] for folder in sorted(found)]


def _student(fs: Any, record: str, output: str) -> Student | None:
    try:
        content = json.loads(fs.cat_file(record))
        labels, snapshot = content["learned"].get("labels", ""), content.get("snapshot")
    except (ValueError, KeyError, OSError, AttributeError):
        return None
    folder = record.removesuffix("/" + RECORD)
    if fs.exists(f"{folder}/{SUMMARY}"):
        snapshot = json.loads(fs.cat_file(f"{folder}/{SUMMARY}")).get("snapshot", snapshot)
    same = labels and (storage.absolute(labels) == output or output.endswith("/" + labels.strip("./")))
    return Student(folder, snapshot) if same else None


def mlflow(tracking_uri: str, output: str, snapshots: Mapping[int, bool]) -> list[str]:
    """Lines about runs whose files show images of the output, and about models that learned from such a snapshot."""
    from pipelines.tracking_about import runs_about

    try:
        runs = runs_about(tracking_uri, output)
    except Exception as error:  # whatever MLflow raises
        return [f"MLflow at {tracking_uri}, which could not be asked ({type(error).__name__})"]
    told, shown = [], []
    for run in runs:
        if run.snapshot is not None and run.snapshot in snapshots and run.models:
            had = _had(snapshots[run.snapshot])
            told.append(f"MLflow models {', '.join(run.models)}: learned from snapshot {run.snapshot}, {had}")
        showing = [file for file in run.files if file.endswith((".png", ".html", ".json", ".csv"))]
        if showing:
            told.append(
                f"MLflow run {run.run_id} ({run.job}): {len(showing)} files such as {showing[0]}, which may show it"
            )
            shown.append(run.run_id)
    if shown:
        store = without_password(tracking_uri)
        told.append(
            f"to remove these runs from MLflow: export MLFLOW_TRACKING_URI={shlex.quote(store)}; "
            f"for run in {' '.join(shown)}; do mlflow runs delete --run-id $run; done; "
            f"mlflow gc --backend-store-uri {shlex.quote(store)}"
        )
    return told


def photographs(names: Names) -> list[str]:
    """Addresses at which a file still lies."""
    found = []
    for uri in sorted(names.uris):
        try:
            there = not uri.startswith("data:") and kind(re.split("#(?:row|offset)=", uri)[0]) == "file"
        except OSError:
            there = True  # Nobody can say; better one line too many.
        if there:
            found.append(uri)
    return found


def remarks(output: str) -> list[str]:
    told = ["copies that were made outside of the output: exports, backups, what people downloaded"]
    for part, name in ((HEAD, "heads"), (REFERENCES, "references"), (BIAS, "statistics of backgrounds")):
        if made := cards(output, part):
            told.append(
                f"{storage.join(output, FOLDER)}: {len(made)} {name} that the features of up to {made[0].images:,} "
                "images went into, perhaps this one's (delete the folder, and the next run fits anew and decides anew)"
            )
    if models := quality.cards(output):
        told.append(
            f"{storage.join(output, quality.FOLDER)}: {len(models)} quality models that numbers of up to "
            f"{max(card.images for card in models):,} images with gold were averaged into, perhaps this one's"
        )
    if "://" in output:
        told.append("older versions of the objects, where the bucket keeps versions: expire them")
    return told
