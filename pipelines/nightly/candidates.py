"""Candidates: labels that were decided and not published, each under the name of its run.

`OUTPUT/candidates/<run id>/candidate.json` names the data files, which lie in the label table's folder with no commit
that mentions them. So publishing a candidate is one commit and copies nothing, and a later run that would decide the
same takes them as they are.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow.parquet as pq

from pipelines import storage
from pipelines.config import UsageError
from pipelines.tables.delta import CommitConflict, DataFile
from pipelines.tables.labels import LabelTable
from pipelines.tables.snapshots import ANYWAY, snapshots

FOLDER, FILE = "candidates", "candidate.json"


@dataclass(frozen=True)
class Candidate:
    """base: the snapshot that it was to follow, None for none. files: names in the label table's folder. reasons: why
    the gate refused it. metadata: what its commit would say."""

    name: str
    created_at: str
    base: int | None
    files: tuple[str, ...]
    reasons: tuple[str, ...]
    metadata: dict[str, str]

    def keep(self, output: str) -> None:
        address = storage.join(output, FOLDER, self.name, FILE)
        storage.write_bytes(address, json.dumps(asdict(self), indent=2).encode())

    @classmethod
    def load(cls, output: str, name: str) -> "Candidate":
        """Raises UsageError where there is none of this name."""
        try:
            values: dict[str, Any] = json.loads(storage.read_bytes(storage.join(output, FOLDER, name, FILE)))
        except FileNotFoundError as error:
            known = ", ".join(one.name for one in candidates(output)) or "there is none"
            raise UsageError(f"{output} keeps no candidate {name!r}: {known}") from error
        return cls(**{**values, "files": tuple(values["files"]), "reasons": tuple(values["reasons"])})

    def urls(self, labels: LabelTable) -> list[str]:
        return [storage.join(labels.url, name) for name in self.files]


def candidates(output: str) -> list[Candidate]:
    """All that are kept, the oldest first."""
    folder = storage.join(output, FOLDER)
    fs, path = storage.filesystem(folder)
    if not fs.isdir(path):
        return []
    names = sorted(str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=True))
    return [Candidate.load(output, name) for name in names if storage.exists(storage.join(folder, name, FILE))]


def drop(output: str, candidate: Candidate) -> None:
    """Forget a candidate; its files go with the next vacuum, unless a snapshot holds them."""
    storage.remove(storage.join(output, FOLDER, candidate.name, FILE))


def drop_older(output: str, before: datetime) -> list[str]:
    """Forget the candidates that are older; returns their names."""
    old = [one for one in candidates(output) if datetime.fromisoformat(one.created_at) < before]
    for candidate in old:
        drop(output, candidate)
    return [candidate.name for candidate in old]


def publish(output: str, name: str, reason: str) -> int:
    """Publish a candidate although it was refused, for a reason that is recorded; returns the new snapshot.

    Raises UsageError where it is not there, its files are gone, or labels were published since.
    """
    candidate, labels = Candidate.load(output, name), LabelTable(storage.join(output, "labels"))
    try:
        files = [_data_file(url) for url in candidate.urls(labels)]
    except FileNotFoundError as error:
        raise UsageError(
            f"candidate {name} is too old, its files were deleted ({error}): run the night again"
        ) from error
    moved = UsageError(
        f"candidate {name} was made to follow snapshot {candidate.base}, and labels were published since: run the "
        "night again, with --publish-anyway if need be; what the candidate has decided is used"
    )
    newest = labels.version()
    # Files that were rewritten since are no other labels.
    since = [one for one in snapshots(labels) if one.version > (candidate.base or 0)]
    if not all(one.same_as is not None for one in since) or (candidate.base is None and newest is not None):
        raise moved
    try:
        snapshot = labels.commit(files, {**candidate.metadata, ANYWAY: reason}, after=newest)
    except CommitConflict as error:
        raise moved from error
    drop(output, candidate)
    return snapshot


def _data_file(url: str) -> DataFile:
    fs, path = storage.arrow_filesystem(url)
    info = fs.get_file_info(path)
    with fs.open_input_file(path) as file:
        return DataFile(url.rsplit("/", 1)[-1], int(info.size), pq.read_metadata(file).num_rows)
