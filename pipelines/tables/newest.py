"""Which rows of some data files hold: the newest of every asset, found by name and number, read by place."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipelines import storage


def open_files(schema: pa.Schema, files: Sequence[str]) -> pads.Dataset | None:
    """Data files as one dataset, None for no file. Columns that older files lack are null."""
    if not files:
        return None
    # Not DeltaTable.to_pyarrow_*: those abort the interpreter at exit in a good part of runs.
    fs, _ = storage.arrow_filesystem(files[0])
    paths = [storage.arrow_filesystem(file)[1] for file in files]
    return pads.dataset(paths, schema=schema, format="parquet", filesystem=fs)


@dataclass(frozen=True)
class NewestRows:
    """The rows of data files that hold, and where they are.

    keys: asset (string), sequence (int64), removed (bool), file (int32, which of `files`), row (int64, its number in
    the file); one row an asset, by asset's name.
    """

    schema: pa.Schema
    files: tuple[str, ...]
    keys: pa.Table

    @classmethod
    def of(cls, schema: pa.Schema, files: Sequence[str]) -> "NewestRows":
        """The row of the highest sequence of every asset."""
        dataset = open_files(schema, files)
        names = ["asset", "sequence", "removed", "__fragment_index"]
        if dataset is None:
            empty = schema.empty_table().select(names[:3])
            empty = empty.append_column("file", pa.array([], pa.int32())).append_column("row", pa.array([], pa.int64()))
            return cls(schema, (), empty)
        keys = dataset.to_table(columns=names).rename_columns([*names[:3], "file"])
        keys = keys.append_column("row", pa.array(_row_numbers(keys["file"].to_numpy())))
        order = pc.sort_indices(keys, sort_keys=[("asset", "ascending"), ("sequence", "ascending")])
        assets = keys["asset"].combine_chunks().take(order)
        last = np.ones(len(assets), bool)
        last[:-1] = pc.not_equal(assets[:-1], assets[1:]).to_numpy(zero_copy_only=False)
        return cls(schema, tuple(files), keys.take(order.filter(pa.array(last))))

    def __len__(self) -> int:
        return int(self.keys.num_rows)

    def present(self, removed: bool = False, assets: Collection[str] | None = None) -> "NewestRows":
        """Without the rows that say "removed", unless `removed`; only of `assets`, if they are given."""
        mask = np.ones(len(self), bool) if removed else ~self.keys["removed"].to_numpy()
        if assets is not None:
            mask &= pc.is_in(self.keys["asset"], pa.array(list(assets), pa.string())).to_numpy()
        return self.where(mask)

    def where(self, mask: npt.NDArray[np.bool_]) -> "NewestRows":
        """Those of mask, bool [N]."""
        return self if mask.all() else NewestRows(self.schema, self.files, self.keys.filter(pa.array(mask)))

    def take(self, indices: npt.NDArray[np.int64]) -> "NewestRows":
        """Those at indices, int64 [n]."""
        return NewestRows(self.schema, self.files, self.keys.take(pa.array(indices)))

    def read(self, columns: Sequence[str], batch_rows: int = 256) -> Iterator[pa.RecordBatch]:
        """Stream columns of these rows, file by file; only row groups that hold one of them are read."""
        file, row = self.keys["file"].to_numpy(), self.keys["row"].to_numpy()
        order = np.lexsort((row, file))
        for numbers in np.split(order, np.flatnonzero(np.diff(file[order])) + 1):
            if len(numbers):
                yield from self._read_file(self.files[file[numbers[0]]], row[numbers], columns, batch_rows)

    def _read_file(
        self, file: str, rows: npt.NDArray[np.int64], columns: Sequence[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        dataset = open_files(self.schema, [file])
        assert dataset is not None
        [fragment] = dataset.get_fragments()
        sizes = np.array([group.num_rows for group in fragment.row_groups])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.unique(np.searchsorted(starts, rows, "right") - 1)
        # Without the bound the scanner reads ahead dozens of batches of pictures.
        scanner = fragment.subset(row_group_ids=groups.tolist()).scanner(
            schema=self.schema, columns=list(columns), batch_size=batch_rows, batch_readahead=1
        )
        numbers = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
        wanted, at = np.isin(numbers, rows), 0
        for batch in scanner.to_batches():
            mask = wanted[at : at + batch.num_rows]
            at += batch.num_rows
            if mask.any():
                yield batch if mask.all() else batch.filter(pa.array(mask))


def _row_numbers(file: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The number of each row in its file; `file` holds the rows of one file side by side."""
    first = np.flatnonzero(np.diff(file, prepend=-1))
    counts = np.diff(np.append(first, len(file)))
    return (np.arange(len(file)) - np.repeat(first, counts)).astype(np.int64)
