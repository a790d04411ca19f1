"""Addresses: a local path or any fsspec URL, read and written the same way."""

import os
import re
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import fsspec
import pyarrow.fs as pafs

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")


def absolute(url: str) -> str:
    """The address with a local path made absolute; a URL is returned as it is, without a trailing slash."""
    if "://" in url:
        return url.rstrip("/") if not url.startswith("file://") else str(Path(urlsplit(url).path).resolve())
    return str(Path(url).expanduser().resolve())


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of an address, and the address in that file system's own terms."""
    # Other processes write here too: a remembered listing would hide their files.
    options = {"use_listings_cache": False} if "://" in url and "::" not in url else {}
    fs, path = fsspec.core.url_to_fs(url, **options)
    fs.invalidate_cache()
    return fs, cast(str, path)


def arrow_filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """The same for pyarrow; local files bypass fsspec, which is faster."""
    if "://" not in url:
        return pafs.LocalFileSystem(), url
    fs, path = filesystem(url)
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def list_files(url: str) -> list[str]:
    """Addresses of the files directly under a folder, sorted; an absent folder has none."""
    fs, path = filesystem(url)
    if not fs.isdir(path):
        return []
    scheme = url.split("://", 1)[0] + "://" if "://" in url else ""
    found = [entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
    return sorted(scheme + name.split("://", 1)[-1] if scheme else name for name in found)


def read_bytes(url: str) -> bytes:
    fs, path = filesystem(url)
    return cast(bytes, fs.cat_file(path))


def write_bytes(url: str, data: bytes) -> None:
    """Write a file whole or not at all, and replace what was there."""
    fs, path = filesystem(url)
    if "://" in url:
        # An object store shows an object only once all of it is there.
        fs.pipe_file(path, data)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with Path(temporary).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)


def upload(local: Path, url: str) -> None:
    """Bring a local file to an address, whole or not at all, without holding it in memory. The local file is gone."""
    fs, path = filesystem(url)
    if "://" in url:
        fs.put_file(str(local), path)
        local.unlink()
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    # Not moved: a temporary file is its owner's alone, and what is published is for those that the umask lets in.
    shutil.copyfile(local, temporary)
    Path(temporary).replace(path)
    local.unlink()


def _temporary(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex}.tmp"


def remove_unfinished(url: str) -> int:
    """Remove what killed writes left below a folder; returns how many files. Nobody may be writing there."""
    if "://" in url:
        return 0  # See write_bytes: nothing is half written there.
    left = [path for path in tree(url) if _TEMPORARY.search(path)]
    for path in left:
        remove(join(url, path))
    return len(left)


def modified(url: str) -> datetime:
    """When a file was last changed, in UTC."""
    fs, path = filesystem(url)
    found: datetime = fs.modified(path)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def tree(url: str) -> list[str]:
    """Every file below a folder, as paths relative to it, sorted; an absent folder has none."""
    fs, path = filesystem(url)
    root = path.rstrip("/") + "/"
    return sorted(name.removeprefix(root) for name in fs.find(path) if name.startswith(root))


def write_parquet(url: str, table: Any, **options: Any) -> int:
    """Write an Arrow table as one Parquet file, whole or not at all. Returns its size in bytes."""
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    data = buffer.getvalue()
    write_bytes(url, data)
    return len(data)


def read_parquet(url: str, columns: list[str] | None = None) -> Any:
    import pyarrow.parquet as pq

    fs, path = arrow_filesystem(url)
    return pq.read_table(path, columns=columns, filesystem=fs, partitioning=None)


def remove(url: str) -> None:
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path)
