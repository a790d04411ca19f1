"""A Delta table that is only appended to: the newest row of an asset is what holds, a removal is a row too.

`sequence` orders the rows of an asset. One commit makes all its rows visible at once, or none.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipelines import storage
from pipelines.tables.newest import NewestRows, open_files

# Of several that commit at once one succeeds; the others try again.
RETRIES = 20
# How long old versions can be read is decided by `snapshots.vacuum`, not by Delta's own defaults of a week and a month.
PROPERTIES: dict[str, str | None] = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}


class CommitConflict(Exception):
    """The table is not what the commit was made for any more; nothing was committed."""


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

    def open(self, version: int | None = None) -> DeltaTable | None:
        """The Delta table as of a version, None while there is none."""
        try:
            return DeltaTable(self.url, version=version)
        except TableNotFoundError:
            return None

    def version(self) -> int | None:
        """The newest published version, or None while nothing has been published."""
        table = self.open()
        return None if table is None else table.version()

    def files(self, version: int | None = None) -> list[str]:
        """Addresses of the data files of a version."""
        table = self.open(version)
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

    def commit(
        self, files: Sequence[DataFile], metadata: dict[str, str] | None = None, after: int | None = None
    ) -> int:
        """Make all `files` part of the table in one atomic step; returns the new version.

        after: the version that it must follow at once; raises CommitConflict where another commit came between.
        """
        return self._commit([_add(file) for file in files], metadata, after)

    def replace(
        self, gone: Sequence[str], files: Sequence[DataFile], after: int, metadata: dict[str, str] | None = None
    ) -> int:
        """Put `files` in the place of the data files named `gone`, in one atomic step. For rows that stay what they
        are: readers of the newest version see the same before and after. Returns the new version.

        after: the version that the rows were read from; raises CommitConflict where another commit came between."""
        now = int(time.time() * 1000)
        removes = [RemoveAction(name, False, now) for name in gone]
        return self._commit([*removes, *(_add(file, new_rows=False) for file in files)], metadata, after)

    def _commit(self, actions: list[Any], metadata: dict[str, str] | None, after: int | None) -> int:
        table = self.open(after)
        if table is None:
            table = DeltaTable.create(self.url, schema=self.schema, mode="ignore", configuration=PROPERTIES)
        properties = CommitProperties(
            custom_metadata=metadata or {}, max_commit_retries=RETRIES if after is None else 0
        )
        try:
            table.create_write_transaction(actions, "append", self.schema, commit_properties=properties)
        except CommitFailedError as error:
            raise CommitConflict(f"another commit to {self.url} came first ({error})") from error
        table.update_incremental()
        return int(table.version())

    def append(self, name: str, table: pa.Table, metadata: dict[str, str] | None = None) -> int:
        return self.commit([self.write_file(name, table)], metadata)


def _add(file: DataFile, new_rows: bool = True) -> AddAction:
    stats = json.dumps({"numRecords": file.rows})
    return AddAction(file.name, file.size_bytes, {}, int(time.time() * 1000), new_rows, stats)


def data_files(url: str, table: DeltaTable) -> list[str]:
    """Addresses of a table's data files. All lie directly in its folder; deltalake's own addresses come escaped."""
    return [storage.join(url, uri.rsplit("/", 1)[-1]) for uri in table.file_uris()]
