"""Addresses: one string for every place an image can come from, and its bytes.

/photos/a b.jpg                          a local file, spelled as it is
rawpath:%2Fphotos%2F%FF.jpg              a local file whose name is not UTF-8, percent-encoded
s3://bucket/a.jpg                        any URL that fsspec reads
s3://bucket/x.parquet#row=7&column=image a cell of a Parquet file
s3://bucket/x.tar#offset=512&size=9000   a part of a file, such as a member of a tar
data:image/png;base64,....               the bytes themselves
"""

import base64
import os
import re
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

PARQUET_CELL = re.compile(r"(?P<file>.+)#row=(?P<row>\d+)&column=(?P<column>[^#]+)", re.DOTALL)
PART = re.compile(r"(?P<file>.+)#offset=(?P<offset>\d+)&size=(?P<size>\d+)", re.DOTALL)
CHAINED = re.compile(r"::[a-z][a-z0-9+.-]*://", re.IGNORECASE)
ROW_GROUPS_CACHED = 2  # a row group can be hundreds of MB; rows are read in order, so the last one is nearly always hit


def read_bytes(uri: str) -> bytes:
    """The bytes at an address. FileNotFoundError, PermissionError and other OSErrors pass through."""
    if uri.startswith("data:"):
        head, _, body = uri.partition(",")
        return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    if cell := PARQUET_CELL.fullmatch(uri):
        return _cells.read(cell["file"], int(cell["row"]), cell["column"])
    if part := PART.fullmatch(uri):
        return _read_part(part["file"], int(part["offset"]), int(part["size"]))
    path = local_path(uri)
    if path is None:
        fs, inner = filesystem(uri)
        return bytes(fs.cat_file(inner))
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        # A folder is listed as an asset only where its entries could not be read: say why.
        with os.scandir(path):
            raise


def _read_part(file: str, offset: int, size: int) -> bytes:
    path = local_path(file)
    if path is None:
        fs, inner = filesystem(file)
        data = bytes(fs.cat_file(inner, start=offset, end=offset + size))
    else:
        with Path(path).open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    if len(data) < size:
        raise FileNotFoundError(f"{file} is shorter than when it was listed")
    return data


def local_path(uri: str) -> str | None:
    """The path of a local address, None for any other."""
    if uri.startswith("rawpath:"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("rawpath:")))
    if uri.startswith(("file://", "local://")) and not CHAINED.search(uri):
        return uri.partition("://")[2]
    return None if re.match(r"[a-z][a-z0-9+.-]*://", uri, re.IGNORECASE) else uri


def local_uri(path: str) -> str:
    """The address of a local path: the path, or its percent-encoded bytes where it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "rawpath:" + quote_from_bytes(os.fsencode(path))
    return path


@lru_cache(maxsize=64)
def _filesystem(protocol: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except ValueError as error:
        raise OSError(f"no storage is known for {protocol}:// addresses") from error


def filesystem(uri: str) -> tuple[Any, str]:
    """(fsspec filesystem, path in it) of a remote address; "::" in a name is a name, not a chain of file systems."""
    if CHAINED.search(uri):
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(uri)
        return fs, path
    fs = _filesystem(uri.partition("://")[0].lower())
    return fs, fs._strip_protocol(uri)


def part_uri(file: str, offset: int, size: int) -> str:
    return f"{file}#offset={offset}&size={size}"


def cell_uri(file: str, row: int, column: str) -> str:
    return f"{file}#row={row}&column={column}"


class _Cells:
    """Reads cells of Parquet files row group by row group, and keeps the last groups of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, Any] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int, str], Any] = OrderedDict()

    def read(self, file: str, row: int, column: str) -> bytes:
        with self._lock:
            parquet = self._open(file)
            group, offset = self._locate(parquet, row, file)
            key = (file, group, column)
            if key not in self._groups:
                while len(self._groups) >= ROW_GROUPS_CACHED:
                    self._groups.popitem(last=False)
                self._groups[key] = parquet.read_row_group(group, columns=[column]).column(0)
            self._groups.move_to_end(key)
            value = self._groups[key][offset].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if value is None:
            raise FileNotFoundError(f"row {row} of {file} holds no bytes in {column!r}")
        return bytes(value)

    def _open(self, file: str) -> Any:
        if file not in self._files:
            while len(self._files) >= 8:
                self._files.popitem(last=False)
            self._files[file] = open_parquet(file)
        self._files.move_to_end(file)
        return self._files[file]

    @staticmethod
    def _locate(parquet: Any, row: int, file: str) -> tuple[int, int]:
        for group in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if row < rows:
                return group, row
            row -= rows
        raise FileNotFoundError(f"{file} has fewer rows than when it was listed")


def open_parquet(uri: str) -> Any:
    """A pyarrow ParquetFile; only its footer is read. Raises OSError where it cannot be opened or is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = local_path(uri)
    if path is not None:
        source: Any = Path(path).open("rb")  # noqa: SIM115 - the ParquetFile keeps it
    else:
        fs, inner = filesystem(uri)
        source = fs.open(inner, "rb")
    try:
        return pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        source.close()
        raise OSError(f"{uri} is not a Parquet file: {error}") from error


_cells = _Cells()
