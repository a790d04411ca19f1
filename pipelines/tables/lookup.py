"""The newest rows of a table by their asset, read file by file."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.dataset as pads

from pipelines import storage
from pipelines.tables.delta import NewestRowTable


class Lookup:
    """Newest rows of some assets, whatever the order they are asked for.

    A file is read when one of its rows is first needed, and what was read is kept up to `cache_mb`: asked for in the
    order of `assets`, every file is read once. Memory holds the assets' names beside that.

    Raises KeyError where an asset has no row in that version.
    """

    def __init__(
        self,
        table: NewestRowTable,
        columns: Sequence[str],
        assets: Collection[str],
        version: int | None = None,
        cache_mb: int = 256,
    ) -> None:
        self._schema, self._cache_bytes = table.schema, cache_mb * 2**20
        self._columns = list(dict.fromkeys([*columns, "asset", "sequence"]))
        files = table.files(version)
        self._filesystem = storage.arrow_filesystem(files[0])[0] if files else None
        self._places = self._find([storage.arrow_filesystem(file)[1] for file in files], set(assets))
        if missing := [asset for asset in assets if asset not in self._places]:
            raise KeyError(f"{missing[0]!r} has no row in version {version} of {table.url}")
        self._by_file: dict[str, list[str]] = {}
        for asset, (_, file) in self._places.items():
            self._by_file.setdefault(file, []).append(asset)
        self._read: OrderedDict[str, tuple[pa.Table, dict[str, int]]] = OrderedDict()

    @property
    def assets(self) -> list[str]:
        """All assets, those of one file side by side."""
        return [asset for file in sorted(self._by_file) for asset in self._by_file[file]]

    def __getitem__(self, asset: str) -> dict[str, Any]:
        file = self._places[asset][1]
        if file not in self._read:
            self._read[file] = self._load(file)
            while len(self._read) > 1 and sum(table.nbytes for table, _ in self._read.values()) > self._cache_bytes:
                self._read.popitem(last=False)
        self._read.move_to_end(file)
        table, rows = self._read[file]
        (row,) = table.slice(rows[asset], 1).to_pylist()
        return cast(dict[str, Any], row)

    def _find(self, paths: Sequence[str], wanted: Collection[str]) -> dict[str, tuple[int, str]]:
        """The highest sequence of every wanted asset, and the file that holds that row."""
        places: dict[str, tuple[int, str]] = {}
        for path in paths:
            for batch in self._open(path).to_batches(columns=["asset", "sequence"]):
                for asset, sequence in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if asset in wanted and sequence > places.get(asset, (-1, ""))[0]:
                        places[asset] = sequence, path
        return places

    def _open(self, path: str) -> pads.Dataset:
        return pads.dataset([path], schema=self._schema, format="parquet", filesystem=self._filesystem)

    def _load(self, path: str) -> tuple[pa.Table, dict[str, int]]:
        table = self._open(path).to_table(self._columns, filter=pads.field("asset").isin(self._by_file[path]))
        pairs = zip(table["asset"].to_pylist(), table["sequence"].to_pylist(), strict=True)
        return table, {asset: row for row, (asset, sequence) in enumerate(pairs) if sequence == self._places[asset][0]}
