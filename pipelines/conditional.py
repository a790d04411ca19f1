"""Writes that happen only if nobody else wrote in between: what a lock needs, on disk and on object stores.

On S3 these are the conditional writes If-None-Match and If-Match (AWS since 2024, MinIO, Ceph, SeaweedFS, R2);
on disk a lock of the operating system on a file beside it, so all processes must see one and the same file system.
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import storage

# Of the file beside a local one.
GUARD = ".guard"
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


class Conflict(Exception):
    """Somebody else wrote there first; nothing was written."""


class Unsupported(Exception):
    """The storage has no conditional writes; the message says which one."""


def read(url: str) -> tuple[bytes | None, str]:
    """The content of a small file and the tag that `write` wants; (None, "") where there is no file."""
    fs, path = storage.filesystem(url)
    if "://" not in url:
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return None, ""
        return data, _digest(data)
    while True:
        try:
            tag = fs.info(path)["ETag"]
            data = fs.cat_file(path)
            if fs.info(path)["ETag"] == tag:
                return data, str(tag)
        except FileNotFoundError:
            return None, ""
        except KeyError:
            raise Unsupported(f"{url}: this storage gives its files no ETag") from None


def write(url: str, data: bytes, tag: str) -> str:
    """Write a small file if it still is what `read` found; returns its new tag. tag: "" means no file.

    Raises Conflict where it is not, and Unsupported for a storage that cannot tell.
    """
    if "://" not in url:
        return _write_local(Path(url), data, tag)
    fs, path = storage.filesystem(url)
    if "s3" not in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,)):
        raise Unsupported(f"{url}: conditional writes are known of local folders and S3 only")
    condition: dict[str, Any] = {"IfMatch": tag} if tag else {"mode": "create"}
    try:
        return str(fs.pipe_file(path, data, **condition)["ETag"])
    except FileNotFoundError as error:
        raise Conflict(url) from error
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        if str(response.get("Error", {}).get("Code")) not in REFUSED:
            raise
        # A write whose answer was lost is sent again, and then finds what it wrote itself.
        found, new = read(url)
        if found == data:
            return new
        raise Conflict(url) from error


def _write_local(path: Path, data: bytes, tag: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_name(path.name + GUARD)):
        found, now = read(str(path))
        if (found is not None or tag) and now != tag:
            raise Conflict(str(path))
        storage.write_bytes(str(path), data)
    return _digest(data)


@contextlib.contextmanager
def _alone(guard: Path) -> Iterator[None]:
    """Only one process at a time; the operating system lets go for one that dies."""
    with guard.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
