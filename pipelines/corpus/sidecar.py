"""Weak labels in a JSONL file beside the corpus, one line an image, in any order:

    {"path": "cats/1.jpg", "tags": ["cat"], "points": [{"x": 10, "y": 20, "class": "cat"}]}

`path` is the asset's address below the corpus root, or its full address, or the path that a Parquet row carries. What
a line says of a form replaces what the layout says of it.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.corpus.base import Asset, Corpus, CorpusError, absolute, facts, join
from pipelines.corpus.read import filesystem, local_path
from pipelines.weak import select_forms

if TYPE_CHECKING:
    from pipelines.classes import ClassSet

PATH_KEYS = ("path", "asset", "uri", "image", "file_name", "file")
Record = tuple[int, str, dict[str, Any]]


def read_records(address: str) -> Iterator[Record]:
    """(line number, address of the image, the rest of the line), streamed. Raises CorpusError naming the line."""
    try:
        path = local_path(address)
        if path is not None:
            stream: Any = Path(path).open("rb")  # noqa: SIM115 - closed below
        else:
            fs, inner = filesystem(address)
            stream = fs.open(inner, "rb")
    except OSError as error:
        raise CorpusError(f"{address} cannot be read: {error}") from error
    with stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, *_record(line, f"{address}, line {number}")


def _record(line: bytes, where: str) -> tuple[str, dict[str, Any]]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise CorpusError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorpusError(f"{where} is not a JSON object")
    key = next((key for key in PATH_KEYS if key in record), None)
    if key is None:
        raise CorpusError(f"{where} names no image: it needs the key `path`")
    path = record.pop(key)
    if not isinstance(path, str) or not path:
        raise CorpusError(f"{where}: {key} is not an address: {path!r}")
    weak = record.pop("weak", None)
    if weak is not None and not isinstance(weak, dict):
        raise CorpusError(f"{where}: weak is not a JSON object")
    return path, {**record, **(weak or {})}


def resolve_maps(weak: dict[str, Any], base: str) -> dict[str, Any]:
    """Addresses of maps made absolute, with the size and mtag of each file, so that a changed map counts as changed."""
    maps = weak.get("maps")
    if not isinstance(maps, list):
        return weak
    return weak | {"maps": [_resolve(item, base) for item in maps]}


def _resolve(item: Any, base: str) -> Any:
    if not isinstance(item, Mapping) or not isinstance(item.get("uri"), str) or item["uri"].startswith("data:"):
        return item
    uri = join(base, item["uri"])
    size_bytes, mtag = facts(uri)
    return {**item, "uri": uri, "size_bytes": size_bytes, "mtag": mtag}


class Sidecar:
    """The records of one file, on disk while the corpus is listed, so that memory does not grow with it."""

    def __init__(self, address: str) -> None:
        self.address = absolute(address)
        # SQLite drops an unnamed database with its connection
        self._table = sqlite3.connect("", check_same_thread=False)
        self._table.execute("CREATE TABLE weak (path TEXT PRIMARY KEY, line INTEGER, weak TEXT, used INTEGER)")
        for number, path, weak in read_records(self.address):
            try:
                self._table.execute("INSERT INTO weak VALUES (?, ?, ?, 0)", (path, number, json.dumps(weak)))
            except sqlite3.IntegrityError:
                (first,) = self._table.execute("SELECT line FROM weak WHERE path = ?", (path,)).fetchone()
                raise CorpusError(f"{self.address} names {path!r} twice, in lines {first} and {number}") from None

    def get(self, asset: Asset) -> dict[str, Any]:
        for path in (asset.asset, asset.uri, asset.tags.get("path", "")):
            found = self._table.execute("SELECT weak FROM weak WHERE path = ?", (path,)).fetchone()
            if found:
                self._table.execute("UPDATE weak SET used = 1 WHERE path = ?", (path,))
                return resolve_maps(json.loads(found[0]), self.address.rpartition("/")[0])
        return {}

    def unused(self, limit: int = 5) -> tuple[int, list[str]]:
        """(number of records that no listed asset asked for, some of their paths)."""
        (count,) = self._table.execute("SELECT count(*) FROM weak WHERE used = 0").fetchone()
        rows = self._table.execute("SELECT path FROM weak WHERE used = 0 ORDER BY line LIMIT ?", (limit,))
        return count, [path for (path,) in rows]


class WithSidecar(Corpus):
    """A corpus whose weak labels are those of its layout and of a sidecar file, of the wanted forms."""

    def __init__(self, corpus: Corpus, weak_file: str | None, forms: tuple[str, ...] | None) -> None:
        self.corpus, self.root, self.forms = corpus, corpus.root, forms
        self.sidecar = Sidecar(weak_file) if weak_file else None

    def default_classes(self) -> "ClassSet | None":
        return self.corpus.default_classes()

    def remarks(self) -> tuple[str, ...]:
        count, paths = self.sidecar.unused() if self.sidecar else (0, [])
        if not count or self.sidecar is None:
            return tuple(self.corpus.remarks())
        shown = ", ".join(map(repr, paths))
        return (
            *self.corpus.remarks(),
            f"{count} lines of {self.sidecar.address} name no image of the corpus ({shown}{', ...' * (count > 5)})",
        )

    def list(self) -> Iterator[Asset]:
        for asset in self.corpus.list():
            weak = asset.weak
            if self.sidecar is not None:
                said = self.sidecar.get(asset)
                weak = {**weak, **said}
                if said and "unknown_classes" not in said:
                    weak.pop("unknown_classes", None)
            weak = select_forms(weak, self.forms)
            yield asset if weak == asset.weak else replace(asset, weak=weak)
