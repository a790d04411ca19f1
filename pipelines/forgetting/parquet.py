"""Parquet files: the rows that are about the image, and the file without them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.corpus.read import open_parquet
from pipelines.forgetting.names import NAMING, Names


@dataclass(frozen=True)
class Found:
    """rows: how many are about the image. cells: how many others mention it in a text."""

    rows: int = 0
    cells: int = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.cells)


def look(address: str, names: Names) -> Found:
    """Reads columns of text only."""
    file = open_parquet(address)
    try:
        columns = [field.name for field in file.schema_arrow if _holds_text(field.type)]
        if not columns:
            return Found()
        rows = cells = 0
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            drop = about(table, names)
            rows += pc.sum(drop).as_py() or 0
            cells += _cells(table.filter(pc.invert(drop)), names)
        return Found(rows, cells)
    finally:
        file.close()


def without(address: str, target: str, names: Names) -> tuple[int, int]:
    """Write the file without the image to `target`; returns (its size in bytes, its rows)."""
    file = open_parquet(address)
    try:
        group_rows = max((file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)), default=64)
    finally:
        file.close()
    table = storage.read_parquet(address)
    kept = table.filter(pc.invert(about(table, names)))
    for index, field in enumerate(kept.schema):
        if _holds_text(field.type) and _cells(kept.select([index]), names):
            kept = kept.set_column(index, field, pa.array(_replaced(kept[index].to_pylist(), names), field.type))
    size = storage.write_parquet(target, kept, row_group_size=max(1, group_rows))
    return size, kept.num_rows


def about(table: pa.Table, names: Names) -> pa.BooleanArray:
    """bool [rows]: whether any text of the row, however deep, is one of the image's names."""
    found = pa.repeat(False, table.num_rows)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _holds_text(column.type):
            wanted = pa.array(sorted(names.anywhere | (names.assets if name in NAMING else set())), pa.string())
            for chunk, rows in _leaves(column.combine_chunks()):
                hit = pc.is_in(chunk, value_set=wanted.cast(chunk.type))
                found = pc.or_(found, _in_rows(hit, rows, table.num_rows))
    return found


def _cells(table: pa.Table, names: Names) -> int:
    """How many texts mention the image within a longer text."""
    plain = sorted(names.anywhere)
    count = 0
    for column in table.columns:
        if not _holds_text(column.type):
            continue
        for chunk, _ in _leaves(column.combine_chunks()):
            # A search for one plain text at a time is fast; the careful one looks at what that finds.
            for value in {value for name in plain for value in _with(chunk, name)}:
                count += names.mentioned(value)
    return count


def _with(chunk: pa.Array, name: str) -> list[str]:
    marked = pc.fill_null(pc.match_substring(chunk, name), False)
    return [str(value) for value in chunk.filter(marked).to_pylist()]


def _replaced(value: object, names: Names) -> object:
    if isinstance(value, str):
        return names.replaced(value.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, names) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, names) for key, item in value.items()}
    return value


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))
    if _is_list(kind):
        return _holds_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _leaves(array: pa.Array, rows: pa.Array | None = None) -> list[tuple[pa.Array, pa.Array]]:
    """The arrays of text within an array, each with the row that every value stands in."""
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if rows is None:
        rows = pa.array(range(len(array)), pa.int64())
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _leaves(array.dictionary_decode(), rows)
    if pa.types.is_struct(kind):
        return [leaf for i in range(kind.num_fields) for leaf in _leaves(pc.struct_field(array, [i]), rows)]
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
        return _leaves(array, rows)
    if _is_list(kind):
        return _leaves(pc.list_flatten(array), rows.take(pc.list_parent_indices(array)))
    return [(array, rows)] if _holds_text(kind) else []


def _in_rows(hit: pa.BooleanArray, rows: pa.Array, count: int) -> pa.BooleanArray:
    found = np.zeros(count, bool)
    found[rows.filter(hit).to_numpy()] = True
    return pa.array(found)
