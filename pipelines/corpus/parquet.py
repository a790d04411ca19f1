"""`parquet:FILE_FOLDER_OR_GLOB`: Parquet files with one image a row: bytes, or Hugging Face's struct of bytes, path.

A column of text that `--images.column` names holds addresses of the images, relative to the Parquet file or to
`--images.root`. What lies at a remote one is looked at when it is read, and again when the Parquet file changes.

Beside the image, these columns are read where a file has them: `weak` (JSON text of pipelines/weak.py's mapping),
`tags` (a list of class names), `caption` or `captions`. Listing reads the footers and these columns, never the images.
"""

import json
from collections.abc import Iterator
from typing import Any

from pipelines.corpus.base import UNKNOWN_SIZE, Asset, Corpus, CorpusError, absolute, facts, join, shards
from pipelines.corpus.read import cell_uri, local_path, open_parquet

ROWS_A_BATCH = 4096
CAPTIONS = ("captions", "caption")


class ParquetCorpus(Corpus):
    """The rows of one or more Parquet files; the files by name, the rows in their order.

    column: the one with the images; None finds it. Raises CorpusError where there is no such file or column.
    An asset is "FILE#row=N", its tag `path` the path that Hugging Face's struct carries.
    """

    def __init__(self, address: str, column: str | None = None, images_root: str | None = None) -> None:
        self.root = absolute(address)
        self._column = column
        self._images_root = absolute(images_root) if images_root else None
        self._files = list(shards(self.root, (".parquet", ".pq")))
        if not self._files:
            raise CorpusError(f"there is no Parquet file at {self.root}")

    def list(self) -> Iterator[Asset]:
        for file in self._files:
            try:
                parquet = open_parquet(file.uri)
            except OSError as error:
                raise CorpusError(f"{file.uri} cannot be read: {error}") from error
            column = self._image_column(parquet.schema_arrow, file.uri)
            of_addresses = _holds_text(parquet.schema_arrow.field(column).type)
            base = self._images_root or file.uri.rpartition("/")[0]
            for row, beside in enumerate(_beside(parquet, column, of_addresses)):
                uri, found = cell_uri(file.uri, row, column), (UNKNOWN_SIZE, f"{file.size_bytes}-{file.mtag}")
                if of_addresses and beside["path"]:
                    uri = join(base, beside["path"])
                    found = found if local_path(uri) is None else facts(uri)
                tags = {"path": beside["path"]} if beside.get("path") else {}
                yield Asset(f"{file.path}#row={row}", uri, *found, _weak(beside), tags)

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


def _holds_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _beside(parquet: Any, column: str, of_addresses: bool) -> Iterator[dict[str, Any]]:
    """What each row holds beside the image: path, weak, tags, captions. of_addresses: the column is the path."""
    import pyarrow.types as types

    schema = parquet.schema_arrow
    columns = [name for name in ("weak", "tags", *CAPTIONS) if name in schema.names and name != column]
    kind = schema.field(column).type
    has_path = types.is_struct(kind) and kind.get_field_index("path") >= 0
    columns += [f"{column}.path"] if has_path else [column] if of_addresses else []
    if not columns:
        yield from ({} for _ in range(parquet.metadata.num_rows))
        return
    for batch in parquet.iter_batches(ROWS_A_BATCH, columns=columns):
        for values in batch.to_pylist():
            if has_path:
                values["path"] = (values.pop(column) or {}).get("path")
            elif of_addresses:
                values["path"] = values.pop(column)
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
    captions = next((beside[name] for name in CAPTIONS if beside.get(name)), None)
    said = {"tags": tags} if isinstance(tags, list) else {}
    return {**said, **({"captions": captions} if captions else {}), **weak}
