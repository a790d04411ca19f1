"""Which rows of some data files hold: the newest of every asset, found by name and number, read by place."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipelines import storage

# Rows in a row group of files that the tables write.
ROW_GROUP = 64


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

    keys: asset (large_string: a string array ends at 2 GiB), sequence (int64), removed (bool), file (int32, which of
    `files`), row (int64, its number in the file); one row an asset, by asset's name. sizes: rows of every file, int64
    [files], superseded ones too.
    """

    schema: pa.Schema
    files: tuple[str, ...]
    keys: pa.Table
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, schema: pa.Schema, files: Sequence[str]) -> "NewestRows":
        """The row of the highest sequence of every asset."""
        dataset = open_files(schema, files)
        names = ["asset", "sequence", "removed", "__fragment_index"]
        if dataset is None:
            empty = _with_large_names(schema.empty_table().select(names[:3]))
            empty = empty.append_column("file", pa.array([], pa.int32())).append_column("row", pa.array([], pa.int64()))
            return cls(schema, (), empty, np.zeros(0, np.int64))
        keys = _with_large_names(dataset.to_table(columns=names).rename_columns([*names[:3], "file"]))
        keys = keys.append_column("row", pa.array(_row_numbers(keys["file"].to_numpy())))
        sizes = np.bincount(keys["file"].to_numpy(), minlength=len(files)).astype(np.int64)
        order = pc.sort_indices(keys, sort_keys=[("asset", "ascending"), ("sequence", "ascending")])
        assets = keys["asset"].combine_chunks().take(order)
        last = np.ones(len(assets), bool)
        last[:-1] = pc.not_equal(assets[:-1], assets[1:]).to_numpy(zero_copy_only=False)
        return cls(schema, tuple(files), keys.take(order.filter(pa.array(last))), sizes)

    def __len__(self) -> int:
        return int(self.keys.num_rows)

    def present(self, removed: bool = False, assets: Collection[str] | None = None) -> "NewestRows":
        """Without the rows that say "removed", unless `removed`; only of `assets`, if they are given."""
        mask = np.ones(len(self), bool) if removed else ~self.keys["removed"].to_numpy()
        if assets is not None:
            mask &= pc.is_in(self.keys["asset"], pa.array(list(assets), pa.large_string())).to_numpy()
        return self.where(mask)

    def where(self, mask: npt.NDArray[np.bool_]) -> "NewestRows":
        """Those of mask, bool [N]."""
        return self if mask.all() else replace(self, keys=self.keys.filter(pa.array(mask)))

    def take(self, indices: npt.NDArray[np.int64]) -> "NewestRows":
        """Those at indices, int64 [n]."""
        return replace(self, keys=self.keys.take(pa.array(indices)))

    def read(self, columns: Sequence[str], batch_rows: int = 256) -> Iterator[pa.RecordBatch]:
        """Stream columns of these rows, file by file; only row groups that hold one of them are read."""
        file, row = self.keys["file"].to_numpy(), self.keys["row"].to_numpy()
        order = np.lexsort((row, file))
        file, row = file[order], row[order]
        numbers, first = np.unique(file, return_index=True)
        if not len(numbers):
            return
        pieces, places = [], []
        dataset = open_files(self.schema, [self.files[number] for number in numbers])
        assert dataset is not None
        for fragment, number, rows in zip(_in_order(dataset), numbers, np.split(row, first[1:]), strict=True):
            piece, place = _piece(fragment, rows, int(self.sizes[number]))
            pieces.append(piece)
            places.append(place)
        pruned = pads.FileSystemDataset(pieces, self.schema, dataset.format, dataset.filesystem)
        wanted, at = np.concatenate(places), 0
        # Without the two bounds the scanner reads ahead dozens of batches of pictures.
        scanner = pruned.scanner(columns=list(columns), batch_size=batch_rows, batch_readahead=1, fragment_readahead=1)
        for batch in scanner.to_batches():
            mask = wanted[at : at + batch.num_rows]
            at += batch.num_rows
            if mask.any():
                yield batch if mask.all() else batch.filter(pa.array(mask))


def _with_large_names(keys: pa.Table) -> pa.Table:
    return keys.set_column(0, "asset", keys["asset"].cast(pa.large_string()))


def _in_order(dataset: pads.Dataset) -> list[Any]:
    """A dataset's fragments, one a file, in the order of its files."""
    by_path = {fragment.path: fragment for fragment in dataset.get_fragments()}
    return [by_path[path] for path in dataset.files]


def _piece(fragment: Any, rows: npt.NDArray[np.int64], size: int) -> tuple[Any, npt.NDArray[np.bool_]]:
    """The row groups of a file that hold `rows`, and which of their rows those are. size: rows of the file."""
    wanted = np.zeros(size, bool)
    wanted[rows] = True
    # Looking at row groups costs a read of the file's end, so not where it would save little.
    if size <= ROW_GROUP or 2 * len(rows) >= size:
        return fragment, wanted
    starts = np.concatenate([[0], np.cumsum([group.num_rows for group in fragment.row_groups])])
    groups = np.unique(np.searchsorted(starts, rows, "right") - 1)
    return fragment.subset(row_group_ids=groups.tolist()), np.concatenate(
        [wanted[starts[group] : starts[group + 1]] for group in groups]
    )


def _row_numbers(file: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The number of each row in its file; `file` holds the rows of one file side by side."""
    first = np.flatnonzero(np.diff(file, prepend=-1))
    counts = np.diff(np.append(first, len(file)))
    return (np.arange(len(file)) - np.repeat(first, counts)).astype(np.int64)
