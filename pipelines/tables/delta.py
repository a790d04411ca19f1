"""A Delta table that is only appended to: the newest row of an asset is what holds, a removal is a row too.

`sequence` orders the rows of an asset. One commit makes all its rows visible at once, or none.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction

from pipelines import storage


@dataclass(frozen=True)
class DataFile:
    """A Parquet file in the table's folder that no commit mentions yet."""

    name: str
    size_bytes: int
    rows: int


class NewestRowTable:
    """Reads and appends to one table of rows keyed by `asset`."""

    def __init__(self, url: str, schema: pa.Schema) -> None:
        self.url = url
        self.schema = schema

    def _table(self, version: int | None = None) -> DeltaTable | None:
        try:
            return DeltaTable(self.url, version=version)
        except TableNotFoundError:
            return None

    def version(self) -> int | None:
        """The newest published version, or None while nothing has been published."""
        table = self._table()
        return None if table is None else table.version()

    def files(self, version: int | None = None) -> list[str]:
        """Addresses of the data files of a version."""
        table = self._table(version)
        return [] if table is None else data_files(self.url, table)

    def _dataset(self, version: int | None) -> pads.Dataset | None:
        files = self.files(version)
        if not files:
            return None
        # Not DeltaTable.to_pyarrow_*: those abort the interpreter at exit in a good part of runs.
        fs, _ = storage.arrow_filesystem(files[0])
        paths = [storage.arrow_filesystem(file)[1] for file in files]
        return pads.dataset(paths, schema=self.schema, format="parquet", filesystem=fs)

    def newest(
        self,
        columns: Sequence[str],
        version: int | None = None,
        batch_rows: int = 256,
        removed: bool = False,
        assets: Collection[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the newest row of every asset (of `version`, default the newest), in no particular order.

        Memory holds the assets' names and sequence numbers, and a batch of rows. Rows that say "removed" are left
        out unless `removed`. With `assets`, only their rows, and only the files that hold them are opened.
        """
        dataset = self._dataset(version)
        if dataset is None:
            return
        newest, files = _winners(dataset.to_table(columns=["asset", "sequence", "__filename"]), assets)
        if not newest:
            return
        if assets is not None:
            dataset = pads.dataset(sorted(files), schema=self.schema, format="parquet", filesystem=dataset.filesystem)
        wanted = list(dict.fromkeys([*columns, "asset", "sequence", "removed"]))
        # Without the two bounds the scanner reads ahead dozens of batches of pictures.
        scanner = dataset.scanner(
            columns=wanted,
            filter=None if assets is None else pads.field("asset").isin(list(newest)),
            batch_size=batch_rows,
            batch_readahead=1,
            fragment_readahead=1,
        )
        for batch in scanner.to_batches():
            order = zip(*(batch[name].to_pylist() for name in ("asset", "sequence", "removed")), strict=True)
            mask = []
            for asset, sequence, gone in order:
                first = newest.get(asset) == sequence
                if first:
                    del newest[asset]  # The same file committed twice must not give a row twice.
                mask.append(first and (removed or not gone))
            if any(mask):
                yield batch.filter(pa.array(mask)).select(list(columns))

    def newest_sequence(self) -> int:
        """The highest sequence number of a published row; 0 while there is none."""
        dataset = self._dataset(None)
        if dataset is None:
            return 0
        return int(pc.max(dataset.to_table(columns=["sequence"])["sequence"]).as_py() or 0)

    def next_sequence(self) -> int:
        """A number above that of every published row: the time in microseconds, unless the clock went back."""
        return max(int(time.time() * 1e6), self.newest_sequence() + 1)

    def write_file(self, name: str, table: pa.Table, row_group_rows: int = 64) -> DataFile:
        """Write rows into the table's folder; readers see them once they are committed."""
        table = table.select(self.schema.names).cast(self.schema)
        size = storage.write_parquet(storage.join(self.url, name), table, row_group_size=row_group_rows)
        return DataFile(name, size, table.num_rows)

    def commit(self, files: Sequence[DataFile], metadata: dict[str, str] | None = None) -> int:
        """Make all `files` part of the table in one atomic step; returns the new version."""
        now = int(time.time() * 1000)
        actions = [
            AddAction(file.name, file.size_bytes, {}, now, True, json.dumps({"numRecords": file.rows}))
            for file in files
        ]
        table = self._table()
        if table is None:
            table = DeltaTable.create(self.url, schema=self.schema, mode="ignore")
        properties = CommitProperties(custom_metadata=metadata or {}, max_commit_retries=20)
        table.create_write_transaction(actions, "append", self.schema, commit_properties=properties)
        table.update_incremental()
        return table.version()

    def append(self, name: str, table: pa.Table, metadata: dict[str, str] | None = None) -> int:
        return self.commit([self.write_file(name, table)], metadata)


def _winners(keys: pa.Table, assets: Collection[str] | None) -> tuple[dict[str, int], set[str]]:
    """The highest sequence of every asset, and the files that hold those rows."""
    newest: dict[str, int] = {}
    files: dict[str, str] = {}
    for batch in keys.to_batches():
        for asset, sequence, file in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if (assets is None or asset in assets) and sequence > newest.get(asset, -1):
                newest[asset], files[asset] = sequence, file
    return newest, set(files.values())


def data_files(url: str, table: DeltaTable) -> list[str]:
    """Addresses of a table's data files. All lie directly in its folder; deltalake's own addresses come escaped."""
    return [storage.join(url, uri.rsplit("/", 1)[-1]) for uri in table.file_uris()]
