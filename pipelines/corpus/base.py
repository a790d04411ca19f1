"""What every corpus reader gives, a stream of assets, and what readers share: listing folders, sizes, modification."""

import glob
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.corpus.read import filesystem, local_path, local_uri

if TYPE_CHECKING:
    from pipelines.classes import ClassSet

UNKNOWN_SIZE = -1


class CorpusError(ValueError):
    """The corpus cannot be listed; the message says what to change."""


@dataclass(frozen=True)
class Asset:
    """One entry of a corpus.

    asset: stable id, the address below the corpus root, "/" between folders, unique in the corpus.
    uri: what `read.read_bytes` takes. size_bytes: of the image file, -1 where only reading would tell.
    mtag: changes when the bytes do (mtime in ns, ETag); "" where the storage has neither.
    weak: weak labels as they were given (pipelines/weak.py), {} for none. tags: licence, original path and the like.
    """

    asset: str
    uri: str
    size_bytes: int
    mtag: str
    weak: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Corpus(ABC):
    """A corpus of one layout. `root` is its address, absolute."""

    root: str

    @abstractmethod
    def list(self) -> Iterator[Asset]:
        """Every asset, streamed, in an order that depends on the names alone. Raises CorpusError."""

    def default_classes(self) -> "ClassSet | None":
        """The class set that the layout brings along."""
        return None

    def remarks(self) -> Sequence[str]:
        """What a person should know, once the listing is through."""
        return ()


@dataclass(frozen=True)
class Entry:
    """One file of a folder: `path` below the listed root, "/" between folders."""

    path: str
    uri: str
    size_bytes: int
    mtag: str


def absolute(address: str) -> str:
    """A local path made absolute (`~` expanded), a URL without a trailing slash."""
    path = local_path(address)
    if path is None:
        return address.rstrip("/")
    return str(Path(os.path.normpath(Path(path).expanduser().absolute())))


def join(root: str, relative: str) -> str:
    """The address of `relative` below `root`; an absolute path or URL stays what it is."""
    if local_path(relative) is None or relative.startswith(("/", "rawpath:", "file://")):
        return relative
    if local_path(root) is not None:
        return local_uri(os.path.normpath(Path(root) / relative))
    relative = relative.removeprefix("./")
    inner, chain, outer = root.partition("::")
    return f"{inner.rstrip('/')}/{relative}{chain}{outer}"


def forget_listings(address: str) -> None:
    """Make the next look at a remote address a fresh one: file systems keep listings for the life of a process."""
    if local_path(address) is None:
        filesystem(address)[0].invalidate_cache()


def kind(address: str) -> str:
    """ "folder", "file" or "missing". PermissionError passes through."""
    path = local_path(address)
    if path is not None:
        return "folder" if Path(path).is_dir() else "file" if Path(path).exists() else "missing"
    fs, inner = filesystem(address)
    try:
        return "folder" if fs.info(inner)["type"] == "directory" else "file"
    except FileNotFoundError:
        return "missing"


def facts(address: str) -> tuple[int, str]:
    """(size in bytes, tag of change) of one file; (-1, "") where it is not there or the storage does not say."""
    path = local_path(address)
    try:
        if path is not None:
            found = Path(path).stat()
            return found.st_size, str(found.st_mtime_ns)
        fs, inner = filesystem(address)
        info = fs.info(inner)
        return _size(info), _mtag(info)
    except OSError:
        return UNKNOWN_SIZE, ""  # reading it will say what is wrong


def walk(root: str) -> Iterator[Entry]:
    """Every file below a folder that is not hidden, names sorted in every folder, streamed folder by folder.

    Symbolic links are followed; one that leads back into a folder above itself is not entered. A folder that cannot
    be listed and a link to nowhere are entries too, so that reading them tells the reason.
    """
    path = local_path(root)
    if path is not None:
        yield from _walk_local(path, "", ())
    else:
        fs, inner = filesystem(root)
        yield from _walk_remote(fs, inner, "", root.partition("::")[2] and "::" + root.partition("::")[2])


def shards(root: str, endings: tuple[str, ...]) -> Iterator[Entry]:
    """The files that an address means: itself, what a glob matches, or those of a folder that end so; sorted."""
    found = kind(root)
    if found == "file":
        yield Entry(root.rpartition("/")[2], root, *facts(root))
    elif found == "folder":
        yield from (entry for entry in walk(root) if entry.path.lower().endswith(endings))
    elif any(character in root for character in "*?["):
        yield from _matches(root)


def _matches(pattern: str) -> Iterator[Entry]:
    inner, uris = pattern, {}
    if local_path(pattern) is not None:
        uris = {path: path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}  # noqa: PTH207
    else:
        fs, inner = filesystem(pattern)
        uris = {path: fs.unstrip_protocol(path) for path in fs.glob(inner)}
    base = inner[: min(inner.index(c) for c in "*?[" if c in inner)].rpartition("/")[0]
    for path, uri in sorted(uris.items()):
        yield Entry(path.removeprefix(base).lstrip("/"), uri, *facts(uri))


def _walk_local(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    try:
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in above:
            return
        with os.scandir(folder) as scan:
            names = sorted(entry.name for entry in scan if not entry.name.startswith("."))
    except OSError:
        yield Entry(_text(prefix), local_uri(folder), UNKNOWN_SIZE, "")
        return
    for name in names:
        # os.path.join, because pathlib would cost a third of the listing time of a large corpus
        path = os.path.join(folder, name)  # noqa: PTH118
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError:
            yield Entry(_text(prefix + name), local_uri(path), UNKNOWN_SIZE, "")
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _walk_local(path, f"{prefix}{name}/", (*above, (here.st_dev, here.st_ino)))
        elif stat.S_ISREG(found.st_mode):  # reading a pipe or a device would hang
            yield Entry(_text(prefix + name), local_uri(path), found.st_size, str(found.st_mtime_ns))


def _text(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk_remote(fs: Any, folder: str, prefix: str, chain: str) -> Iterator[Entry]:
    here = folder.rstrip("/")
    try:
        found = fs.ls(folder, detail=True)
    except OSError:
        yield Entry(prefix, fs.unstrip_protocol(here) + "/" + chain, UNKNOWN_SIZE, "")
        return
    for info in sorted(found, key=lambda info: info["name"]):
        path = info["name"].rstrip("/")
        name = path.rpartition("/")[2]
        if path == here or name.startswith("."):  # an object store lists a folder's own marker too
            continue
        if info["type"] == "directory":
            yield from _walk_remote(fs, info["name"], f"{prefix}{name}/", chain)
        elif not info["name"].endswith("/"):
            yield Entry(prefix + name, fs.unstrip_protocol(path) + chain, _size(info), _mtag(info))


def _size(info: Mapping[str, Any]) -> int:
    size = info.get("size")
    return UNKNOWN_SIZE if size is None else int(size)


def _mtag(info: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "created"):
        if info.get(key):
            return re.sub(r'^"|"$', "", str(info[key]))
    return ""
