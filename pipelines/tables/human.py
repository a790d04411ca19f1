"""What people corrected: partial maps by asset, each with who drew it, when, and on which bytes.

`OUTPUT/human` is only appended to. The newest row of an asset holds all of its corrections, oldest first; a later one
is painted over an earlier one. A correction belongs to the bytes that it was drawn on: for other bytes it is stale,
which is told and never applied, and it stays in the table.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.tables.delta import RETRIES, CommitConflict, NewestRowTable
from pipelines.tables.pictures import png, read_png

SCHEMA_VERSION = 1
SILENT = 65535
"""Value of a stored map where the person said nothing."""
Ids = npt.NDArray[np.int32]

CORRECTION = pa.struct(
    [
        ("id", pa.string()),  # sha256 of everything below but `source`
        ("digest", pa.string()),  # sha256 of the image bytes that it was drawn on
        ("annotator", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("map", pa.binary()),  # 16-bit PNG of class ids at full resolution, SILENT where nothing was said
        ("classes", pa.string()),  # JSON, class id to the name it had
        ("source", pa.string()),  # tool and file that it came from
    ]
)

SCHEMA = pa.schema(
    [
        ("asset", pa.string()),
        ("sequence", pa.int64()),
        ("removed", pa.bool_()),
        ("uri", pa.string()),
        ("corrections", pa.list_(CORRECTION)),
        ("run_id", pa.string()),
        ("schema_version", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Correction:
    """One person's partial map of one image. ids: int32 [H, W] of class ids, -1 where nothing is said.

    digest: of the image bytes. names: the name of every class id in the map. source: tool and file.
    """

    digest: str
    annotator: str
    time: datetime
    ids: Ids
    names: Mapping[int, str]
    source: str

    def to_row(self) -> dict[str, Any]:
        """A value of CORRECTION."""
        stored = png(np.where(self.ids < 0, SILENT, self.ids).astype(np.uint16))
        said = {str(value): self.names[value] for value in np.unique(self.ids[self.ids >= 0]).tolist()}
        classes = json.dumps(said, ensure_ascii=False)
        told = [self.digest, self.annotator, self.time.isoformat(), hashlib.sha256(stored).hexdigest(), classes]
        return {
            "id": hashlib.sha256(json.dumps(told).encode()).hexdigest(),
            "digest": self.digest,
            "annotator": self.annotator,
            "time": self.time,
            "map": stored,
            "classes": classes,
            "source": self.source,
        }


def in_order(corrections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Oldest first; of the same moment, always in the same order."""
    return sorted(corrections, key=lambda row: (row["time"], row["id"]))


def paint(corrections: Sequence[Mapping[str, Any]], classes: ClassSet, size: tuple[int, int]) -> tuple[Ids, list[str]]:
    """(int32 [H, W] of the class set's ids, -1 where nobody said anything; what could not be used and why).

    corrections: values of CORRECTION, in order. Classes are found by the names they had; a class that the set does not
    know says nothing.
    """
    ids = np.full(size, -1, np.int32)
    problems = []
    for row in corrections:
        stored = read_png(row["map"])
        if stored.shape != size:
            problems.append(f"the correction of {row['annotator']} covers {stored.shape} pixels, the image {size}")
            continue
        table = np.full(SILENT + 1, -1, np.int32)
        for value, name in json.loads(row["classes"]).items():
            index = classes.index(name)
            if index is None or (index < 0 and classes.background is None):
                problems.append(f"the correction of {row['annotator']} names {name!r}, which is no class any more")
            elif index >= 0:
                table[int(value)] = classes.classes[index].id
            elif classes.background is not None:
                table[int(value)] = classes.background.id
        given = table[stored]
        ids = np.where(given >= 0, given, ids)
    return ids, problems


class HumanTable(NewestRowTable):
    """`OUTPUT/human`."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SCHEMA)

    def known(self) -> dict[str, list[tuple[str, str]]]:
        """(id, digest of the image bytes) of every asset's corrections, in order."""
        found = {}
        for batch in self.newest(["asset", "corrections"], batch_rows=64):
            for row in batch.to_pylist():
                found[row["asset"]] = [(one["id"], one["digest"]) for one in in_order(row["corrections"])]
        return found

    def read(self, assets: Collection[str], version: int | None = None) -> dict[str, list[dict[str, Any]]]:
        """The corrections of some assets, in order: values of CORRECTION. version: of the table; None: the newest."""
        if not assets:
            return {}
        batches = self.newest(["asset", "corrections"], version=version, batch_rows=64, assets=assets)
        return {row["asset"]: in_order(row["corrections"]) for batch in batches for row in batch.to_pylist()}

    def add(self, found: Mapping[str, tuple[str, Sequence[dict[str, Any]]]], run_id: str) -> int:
        """Append corrections (asset to its address and what is new, values of CORRECTION) with one commit; returns how
        many were new. Raises CommitConflict where others commit without end."""
        for attempt in range(RETRIES + 1):
            try:
                return self._add(found, run_id)
            except CommitConflict:
                if attempt == RETRIES:
                    raise
        raise AssertionError

    def _add(self, found: Mapping[str, tuple[str, Sequence[dict[str, Any]]]], run_id: str) -> int:
        version = self.version()
        if version is None and any(corrections for _, corrections in found.values()):
            version = self.commit([])  # an empty table, so that there is a version that nobody may have followed
        before = self.read(set(found), version)
        sequence, rows, count = self.next_sequence(), [], 0
        for asset, (uri, corrections) in found.items():
            known = {row["id"]: row for row in before.get(asset, [])}
            new = {row["id"]: row for row in corrections if row["id"] not in known}
            if new:
                count += len(new)
                held = in_order([*known.values(), *new.values()])
                rows.append({"asset": asset, "uri": uri, "corrections": held})
        if rows:
            common = {"sequence": sequence, "removed": False, "run_id": run_id, "schema_version": SCHEMA_VERSION}
            table = pa.Table.from_pylist([{**row, **common} for row in rows], schema=SCHEMA)
            file = self.write_file(f"part-{run_id}-{sequence}.parquet", table)
            try:
                # A row replaces all of its asset's: one that came in since would be lost.
                self.commit([file], {"run_id": run_id}, after=version)
            except CommitConflict:
                storage.remove(storage.join(self.url, file.name))
                raise
        return count
