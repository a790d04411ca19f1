"""A Delta table that is only appended to: the newest row of an asset is what holds, a removal is a row too.

`sequence` orders the rows of an asset. One commit makes all its rows visible at once, or none.
"""

import json
import time
from collections.abc import Iterator, Sequence
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
        return [] if table is None else [_plain(uri) for uri in table.file_uris()]

    def _dataset(self, version: int | None) -> pads.Dataset | None:
        files = self.files(version)
        if not files:
            return None
        # Not DeltaTable.to_pyarrow_*: those abort the interpreter at exit in a good part of runs.
        fs, _ = storage.arrow_filesystem(files[0])
        paths = [storage.arrow_filesystem(file)[1] for file in files]
        return pads.dataset(paths, schema=self.schema, format="parquet", filesystem=fs)

    def newest(
        self, columns: Sequence[str], version: int | None = None, batch_rows: int = 256, removed: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Stream the newest row of every asset (of `version`, default the newest), in no particular order.

        Memory holds the assets' names and sequence numbers, and a batch of rows. Rows that say "removed" are left
        out unless `removed`.
        """
        dataset = self._dataset(version)
        if dataset is None:
            return
        keys = dataset.to_table(columns=["asset", "sequence"])
        winners = keys.group_by("asset").aggregate([("sequence", "max")])
        newest = dict(zip(winners["asset"].to_pylist(), winners["sequence_max"].to_pylist(), strict=True))
        wanted = list(dict.fromkeys([*columns, "asset", "sequence", "removed"]))
        # Without these two bounds the scanner reads ahead dozens of batches of pictures.
        scanner = dataset.scanner(columns=wanted, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1)
        for batch in scanner.to_batches():
            assets, order = batch["asset"].to_pylist(), batch["sequence"].to_pylist()
            hidden = [False] * len(assets) if removed else batch["removed"].to_pylist()
            mask = []
            for asset, sequence, gone in zip(assets, order, hidden, strict=True):
                first = newest.get(asset) == sequence
                if first:
                    del newest[asset]  # The same file committed twice must not give a row twice.
                mask.append(first and not gone)
            if any(mask):
                yield batch.filter(pa.array(mask)).select(list(columns))

    def next_sequence(self) -> int:
        """A number above that of every published row: the time in microseconds, unless the clock went back."""
        dataset = self._dataset(None)
        highest = 0
        if dataset is not None:
            highest = pc.max(dataset.to_table(columns=["sequence"])["sequence"]).as_py() or 0
        return max(int(time.time() * 1e6), highest + 1)

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


def _plain(uri: str) -> str:
    """deltalake gives local files as paths or as file:// URLs with escapes, depending on the name."""
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return unquote(urlsplit(uri).path)
    return uri
