"""`parquet:FILE_FOLDER_OR_GLOB`: Parquet files with one image a row: bytes, or Hugging Face's struct of bytes, path.

Beside the image, these columns are read where a file has them: `weak` (JSON text of pipelines/weak.py's mapping) and
`tags` (a list of class names). Listing reads the footers and these columns, never the images.
"""

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.corpus.base import UNKNOWN_SIZE, Asset, Corpus, CorpusError, Entry, absolute, facts, kind, walk
from pipelines.corpus.read import cell_uri, filesystem, local_path, open_parquet

ROWS_A_BATCH = 4096


class ParquetCorpus(Corpus):
    """The rows of one or more Parquet files; the files by name, the rows in their order.

    column: the one with the images; None finds it. Raises CorpusError where there is no such file or column.
    An asset is "FILE#row=N", its tag `path` the path that Hugging Face's struct carries.
    """

    def __init__(self, address: str, column: str | None = None) -> None:
        self.root = absolute(address)
        self._column = column
        self._files = self._find()
        if not self._files:
            raise CorpusError(f"there is no Parquet file at {self.root}")

    def _find(self) -> list[Entry]:
        if any(character in self.root for character in "*?[") and kind(self.root) == "missing":
            return self._glob()
        found = kind(self.root)
        if found == "file":
            return [Entry(self.root.rpartition("/")[2], self.root, *facts(self.root))]
        return [e for e in walk(self.root) if e.path.lower().endswith((".parquet", ".pq"))] if found == "folder" else []

    def _glob(self) -> list[Entry]:
        if local_path(self.root) is not None:
            paths = sorted(path for path in glob.glob(self.root, recursive=True) if Path(path).is_file())  # noqa: PTH207
        else:
            fs, inner = filesystem(self.root)
            paths = sorted(fs.unstrip_protocol(path) for path in fs.glob(inner))
        base = self.root[: min(self.root.index(c) for c in "*?[" if c in self.root)].rpartition("/")[0]
        return [Entry(path.removeprefix(base).lstrip("/"), path, *facts(path)) for path in paths]

    def list(self) -> Iterator[Asset]:
        for file in self._files:
            try:
                parquet = open_parquet(file.uri)
            except OSError as error:
                raise CorpusError(f"{file.uri} cannot be read: {error}") from error
            column = self._image_column(parquet.schema_arrow, file.uri)
            for row, beside in enumerate(_beside(parquet, column)):
                uri = cell_uri(file.uri, row, column)
                tags = {"path": beside["path"]} if beside.get("path") else {}
                asset = f"{file.path}#row={row}"
                yield Asset(asset, uri, UNKNOWN_SIZE, f"{file.size_bytes}-{file.mtag}", _weak(beside), tags)

    def _image_column(self, schema: Any, uri: str) -> str:
        if self._column is not None:
            if self._column not in schema.names:
                raise CorpusError(f"{uri} has no column {self._column!r}; its columns: {', '.join(schema.names)}")
            return self._column
        candidates = [name for name in schema.names if _holds_images(schema.field(name).type)]
        if len(candidates) == 1 or "image" in candidates:
            return "image" if "image" in candidates else str(candidates[0])
        reason = "several columns that may hold images" if candidates else "no column of image bytes"
        raise CorpusError(f"{uri} has {reason}; say which with --images.column: {', '.join(schema.names)}")


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _beside(parquet: Any, column: str) -> Iterator[dict[str, Any]]:
    """What each row holds beside the image: path, weak, tags."""
    import pyarrow.types as types

    schema = parquet.schema_arrow
    columns = [name for name in ("weak", "tags") if name in schema.names and name != column]
    kind = schema.field(column).type
    has_path = types.is_struct(kind) and kind.get_field_index("path") >= 0
    columns += [f"{column}.path"] if has_path else []
    if not columns:
        yield from ({} for _ in range(parquet.metadata.num_rows))
        return
    for batch in parquet.iter_batches(ROWS_A_BATCH, columns=columns):
        for values in batch.to_pylist():
            if has_path:
                values["path"] = (values.pop(column) or {}).get("path")
            yield values


def _weak(beside: dict[str, Any]) -> dict[str, Any]:
    weak = beside.get("weak") or {}
    if isinstance(weak, str | bytes):
        try:
            weak = json.loads(weak)
        except ValueError as error:
            return {"problems": [f"the column `weak` is not JSON: {error}"]}
    if not isinstance(weak, dict):
        return {"problems": [f"the column `weak` is not a mapping: {weak!r:.60}"]}
    tags = beside.get("tags")
    return {"tags": tags, **weak} if isinstance(tags, list) else dict(weak)
