"""The two sides of a diff: states of label tables, and the pairs of rows in which they differ."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.config import UsageError
from pipelines.tables.labels import LabelTable
from pipelines.tables.newest import NewestRows

# Pairs of rows that are in memory at once; each holds two class maps, compressed.
PAIRS = 64
# Above every class id.
IDS = 65536
LIGHT = ("areas", "height", "width", "coverage", "class_set_digest", "run_id")
# A class of a row: the digest of its class set ("" where the row does not say), and the class's id in that set.
ClassKey = tuple[str, int]


@dataclass(frozen=True)
class Side:
    """One state of an output's labels. snapshot: a version of the table, None where nothing is published.

    extra: addresses of data files on top of it that no commit mentions (a candidate).
    """

    output: str
    snapshot: int | None
    extra: tuple[str, ...] = ()

    @classmethod
    def open(cls, text: str) -> "Side":
        """`OUT` (the published snapshot) or `OUT@7`. Raises UsageError where there is no such snapshot."""
        match = re.fullmatch(r"(.+)@(\d+)", text)
        output = storage.absolute(match[1] if match else text)
        newest = LabelTable(storage.join(output, "labels")).version()
        if newest is None:
            raise UsageError(f"{output} has no published labels; make them with label_corpus.py")
        snapshot = int(match[2]) if match else newest
        if snapshot > newest:
            raise UsageError(f"{output} has no snapshot {snapshot}; the newest is {newest}")
        return cls(output, snapshot)

    @cached_property
    def rows(self) -> NewestRows:
        """The label of every asset. Raises UsageError for a snapshot whose files are gone."""
        return self._all.present()

    def removals(self, assets: Collection[str]) -> list[dict[str, Any]]:
        """asset and cause of those of `assets` that were removed."""
        gone = self._all.where(self._all.keys["removed"].to_numpy()).present(removed=True, assets=assets)
        return [row for batch in gone.read(["asset", "cause"], 4096) for row in batch.to_pylist()]

    @cached_property
    def _all(self) -> NewestRows:
        table = LabelTable(storage.join(self.output, "labels"))
        try:
            files = table.files(self.snapshot) if self.snapshot is not None else []
            return NewestRows.of(table.schema, [*files, *self.extra])
        except FileNotFoundError as error:
            raise UsageError(
                f"snapshot {self.snapshot} of {self.output} cannot be read any more: its files were vacuumed ({error})"
            ) from error

    def __str__(self) -> str:
        candidate = " with a candidate" if self.extra else ""
        return f"{self.output}@{self.snapshot}{candidate}"


@dataclass(frozen=True)
class Sides:
    """Two sides, matched by asset.

    Rows of one table with one sequence number are the same row, so only the others are read: what an unchanged image
    costs is its name and number in memory.
    """

    old: Side
    new: Side

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """For each new row: index of the old row of the same asset, -1 for none; and whether it is the same row."""
        old, new = self.old.rows.keys, self.new.rows.keys
        at = pc.fill_null(pc.index_in(new["asset"], old["asset"].combine_chunks()), -1).to_numpy().astype(np.int64)
        if self.old.output != self.new.output or not len(old):
            return at, np.zeros(len(at), bool)
        return at, (at >= 0) & (old["sequence"].to_numpy()[at] == new["sequence"].to_numpy())

    @property
    def fresh(self) -> NewestRows:
        """New rows of assets that the old side does not have."""
        return self.new.rows.where(self._places[0] < 0)

    @property
    def same(self) -> NewestRows:
        """Rows that both sides have."""
        return self.new.rows.where(self._places[1])

    @cached_property
    def gone(self) -> NewestRows:
        """Old rows of assets that the new side does not have."""
        found = np.zeros(len(self.old.rows), bool)
        at = self._places[0]
        found[at[at >= 0]] = True
        return self.old.rows.where(~found)

    @cached_property
    def sums(self) -> "Sums":
        """Sums of light columns, one pass over the rows that both sides have."""
        at, changed = self._places[0], self._changed
        return Sums(
            same=AreaSums().add(self.same),
            gone=AreaSums().add(self.gone),
            fresh=AreaSums().add(self.fresh),
            before=AreaSums().add(self.old.rows.take(at[changed])),
            after=AreaSums().add(self.new.rows.where(changed)),
        )

    @property
    def changed(self) -> int:
        """How many assets have another row than before."""
        return int(self._changed.sum())

    @property
    def _changed(self) -> npt.NDArray[np.bool_]:
        at, same = self._places
        return (at >= 0) & ~same

    def pairs(
        self, columns: Sequence[str], assets: Collection[str] | None = None
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Stream (old row, new row) of the assets that have another row than before. assets: only of these."""
        at, wanted = self._places[0], self._changed
        keys = self.new.rows.keys
        if assets is not None:
            wanted = wanted & pc.is_in(keys["asset"], pa.array(list(assets), pa.large_string())).to_numpy()
        rest = np.flatnonzero(wanted)
        # In the order of the new files, whose neighbours mostly were neighbours before.
        rest = rest[np.lexsort((keys["row"].to_numpy()[rest], keys["file"].to_numpy()[rest]))]
        for start in range(0, len(rest), PAIRS):
            part = rest[start : start + PAIRS]
            before = _by_asset(self.old.rows.take(at[part]), columns)
            for asset, row in _by_asset(self.new.rows.take(part), columns).items():
                yield before[asset], row


def _by_asset(rows: NewestRows, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    names = list(dict.fromkeys(["asset", *columns]))
    return {row["asset"]: row for batch in rows.read(names, PAIRS) for row in batch.to_pylist()}


class AreaSums:
    """Pixels of each class id over rows that are counted by their areas, so that no map is opened.

    images, coverage: how many rows, and the sum of the shares that they keep.
    pixels: by class (areas are float32 shares of an image: exact up to some 8 million pixels an image).
    names: the name that a class had. runs: digest of a class set to the newest run with it.
    """

    def __init__(self) -> None:
        self.images, self.coverage = 0, 0.0
        self.pixels: dict[ClassKey, int] = {}
        self.names: dict[ClassKey, str] = {}
        self.runs: dict[str, str] = {}

    def add(self, rows: NewestRows) -> "AreaSums":
        for batch in rows.read(LIGHT, 4096):
            self.batch(batch)
        return self

    def batch(self, batch: pa.RecordBatch) -> None:
        """Add rows that have the columns LIGHT."""
        areas = batch["areas"]
        self.images += batch.num_rows
        self.coverage += pc.sum(batch["coverage"]).as_py() or 0.0
        sets = pc.fill_null(batch["class_set_digest"], "").dictionary_encode()
        digests = sets.dictionary.to_pylist()
        made = pa.table([sets.indices, pc.fill_null(batch["run_id"], "")], ["set", "run"])
        for pair in made.group_by(["set", "run"]).aggregate([]).to_pylist():
            self.runs[digests[pair["set"]]] = max(self.runs.get(digests[pair["set"]], ""), pair["run"])
        size = batch["height"].to_numpy(False).astype(np.float64) * batch["width"].to_numpy(False)
        parents = pc.list_parent_indices(areas).to_numpy()
        flat = areas.flatten()
        ids = flat.field("class_id").to_numpy(False).astype(np.int64) + IDS * sets.indices.to_numpy(False)[parents]
        pixels = np.rint(flat.field("area").to_numpy(False).astype(np.float64) * size[parents]).astype(np.int64)
        unique, first, where = np.unique(ids, return_index=True, return_inverse=True)
        keys = [(digests[number // IDS], number % IDS) for number in unique.tolist()]
        for key, count in zip(keys, np.bincount(where, pixels, len(unique)), strict=True):
            self.pixels[key] = self.pixels.get(key, 0) + int(count)
        self.names.update(zip(keys, flat.field("name").take(pa.array(first)).to_pylist(), strict=True))


@dataclass(frozen=True)
class Sums:
    """Of rows that both sides have (same), that one has (gone, fresh), and of changed rows as they were and are."""

    same: AreaSums
    gone: AreaSums
    fresh: AreaSums
    before: AreaSums
    after: AreaSums

    @property
    def old(self) -> tuple[AreaSums, ...]:
        """All of the old side."""
        return self.same, self.gone, self.before

    @property
    def new(self) -> tuple[AreaSums, ...]:
        return self.same, self.fresh, self.after


def mean_coverage(parts: Sequence[AreaSums]) -> float | None:
    """Mean share of an image that is kept, 0..1; None without a label."""
    images = sum(part.images for part in parts)
    return sum(part.coverage for part in parts) / images if images else None


def merged(*sums: AreaSums) -> tuple[dict[ClassKey, str], dict[str, str]]:
    """Names of all classes that occur, and the newest run of every class set."""
    names: dict[ClassKey, str] = {}
    runs: dict[str, str] = {}
    for one in sums:
        names |= one.names
        for digest, run_id in one.runs.items():
            runs[digest] = max(runs.get(digest, ""), run_id)
    return names, runs
