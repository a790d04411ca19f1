"""One pinned version of the labels: which images there are, what they are called in an export, and their rows."""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.metrics import expand_quarter
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.runs import PastRun
from pipelines.tables.labels import LabelTable
from pipelines.tables.pictures import read_png

VOID = -1
"""Value of a pixel without a label in `class_ids`."""
LIGHT = ("asset", "uri", "digest", "class_set_digest", "run_id")
BATCH_ROWS = 16
MAX_NAME = 120
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a snapshot. number: from 1, by the asset's name. name: unique, safe as a file name everywhere."""

    asset: str
    uri: str
    digest: str
    number: int
    name: str


@dataclass(frozen=True)
class Snapshot:
    """A version of the label table of one output. run: the newest that wrote to it. entries: by asset, in the order of
    their numbers."""

    output: str
    version: int
    classes: ClassSet
    run_id: str
    run: PastRun
    entries: dict[str, Entry] = field(repr=False)

    def rows(self, columns: Sequence[str], assets: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Label rows, streamed in the table's own order, a few in memory at a time."""
        table = LabelTable(storage.join(self.output, "labels"))
        wanted = [*dict.fromkeys(("asset", *columns))]
        for batch in table.newest(wanted, version=self.version, batch_rows=BATCH_ROWS, assets=assets):
            for row in batch.to_pylist():
                if row["asset"] in self.entries:
                    yield row


def open_snapshot(labels: str, version: int | None, limit: int | None = None) -> Snapshot:
    """Pin a version of an output's labels; None: the newest. Raises UsageError where there is none, or a mixture."""
    output = storage.absolute(labels)
    table = LabelTable(storage.join(output, "labels"))
    pinned = table.version() if version is None else version
    if pinned is None:
        raise UsageError(f"--labels: {output} has no published labels; make them with label_corpus.py")
    try:
        batches = list(table.newest(LIGHT, version=pinned, batch_rows=4096))
    except Exception as error:  # deltalake's errors are of no common kind
        raise UsageError(f"--snapshot {pinned}: {output} has no such version of its labels ({error})") from error
    if not batches:
        raise UsageError(f"--labels: snapshot {pinned} of {output} has no label")
    rows = pa.Table.from_batches(batches).sort_by("asset")
    if len(pc.unique(rows["class_set_digest"])) > 1:
        raise UsageError(
            f"the labels in {output} know different classes: label the whole corpus with one class set, by running "
            "label_corpus.py once more"
        )
    # Run ids begin with the time, so the last one says what the classes are now.
    run_id = pc.max(rows["run_id"]).as_py()
    run = PastRun.load(output, run_id)
    return Snapshot(output, pinned, run.classes, run_id, run, _entries(rows.slice(0, limit)))


def _entries(rows: pa.Table) -> dict[str, Entry]:
    """rows: asset, uri and digest, sorted by asset."""
    taken: set[str] = set()
    found: dict[str, Entry] = {}
    for batch in rows.select(["asset", "uri", "digest"]).to_batches(max_chunksize=4096):
        for asset, uri, digest in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found[asset] = Entry(asset, uri, digest or "", len(found) + 1, safe_name(asset, taken))
    return found


def safe_name(asset: str, taken: set[str]) -> str:
    """A name without its file suffix, of letters, digits, dot, dash and underscore; folders become "__".

    Unique whatever the case; `taken` is added to. The same assets in the same order get the same names.
    """
    stem, dot, suffix = asset.rpartition(".")
    stem = stem if dot and stem and suffix.isalnum() else asset
    plain = "__".join(part for part in stem.split("/") if part not in ("", ".", ".."))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip(".") or "image"
    if len(plain) > MAX_NAME:
        plain = f"{plain[:MAX_NAME]}-{hashlib.sha256(asset.encode()).hexdigest()[:8]}"
    name, count = plain, 1
    while name.lower() in taken:
        count += 1
        name = f"{plain}-{count}"
    taken.add(name.lower())
    return name


def split_of(digest: str, val: float) -> str:
    """train or val, drawn by the image's bytes: the same image is in the same split in every export."""
    return "val" if int(digest[:13] or "0", 16) / 16**13 < val else "train"


def class_ids(row: dict[str, Any], keep: str, min_confidence: float) -> Ids:
    """int32 [H, W] of class ids of a label row (class_map, confidence, keep_threshold); VOID where `keep` says so."""
    ids = read_png(row["class_map"]).astype(np.int32)
    if keep == "all":
        return ids
    threshold = row["keep_threshold"] if keep == "row" else min_confidence
    # Stored in 255 steps: the comparison that the label's own coverage was counted with.
    kept = expand_quarter(read_png(row["confidence"]) >= round(threshold * 255), *ids.shape)
    return np.where(kept, ids, VOID).astype(np.int32)
