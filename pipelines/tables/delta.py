"""A Delta table that is only appended to: the newest row of an asset is what holds, a removal is a row too.

`sequence` orders the rows of an asset. One commit makes all its rows visible at once, or none.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction

from pipelines import storage
from pipelines.tables.newest import NewestRows, open_files


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

    def newest(
        self,
        columns: Sequence[str],
        version: int | None = None,
        batch_rows: int = 256,
        removed: bool = False,
        assets: Collection[str] | None = None,
        extra: Sequence[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """Stream the newest row of every asset (of `version`, default the newest), in no particular order.

        Memory holds the assets' names and places, and a batch of rows. Rows that say "removed" are left out unless
        `removed`. With `assets`, only their rows, and only the files that hold them are opened. extra: addresses of
        data files that are read as if they were committed.
        """
        rows = NewestRows.of(self.schema, [*self.files(version), *extra])
        yield from rows.present(removed, assets).read(columns, batch_rows)

    def newest_sequence(self) -> int:
        """The highest sequence number of a published row; 0 while there is none."""
        dataset = open_files(self.schema, self.files())
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


def data_files(url: str, table: DeltaTable) -> list[str]:
    """Addresses of a table's data files. All lie directly in its folder; deltalake's own addresses come escaped."""
    return [storage.join(url, uri.rsplit("/", 1)[-1]) for uri in table.file_uris()]
