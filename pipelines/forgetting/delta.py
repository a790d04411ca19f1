"""A Delta table without the image, in every version it has.

Time travel is kept: a data file that holds rows of the image is written anew without them, under another name, and
every entry of the log that names the old file names the new one. Statistics go from the log altogether: the smallest
and largest value of a column are names of images, cut off where no search would find them. The old files go last, so
that a reader always finds what the log names, and an interrupted run begins again without harm. Files that no entry
of the log names are candidates, which are named elsewhere: they keep their names.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from pipelines import storage
from pipelines.forgetting import parquet
from pipelines.forgetting.names import Names

LOG = "_delta_log"
_REWRITTEN = re.compile(r"-f[0-9a-f]{8}$")


@dataclass
class Rewritten:
    """A data file's new name, its size in bytes and its rows."""

    name: str
    size_bytes: int
    rows: int


@dataclass
class TableFound:
    """files: what is found in each data file (its path in the table). log: log files that mention the image.
    statistics: whether the log has smallest and largest values, of whatever rows."""

    files: dict[str, parquet.Found] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    statistics: bool = False

    @property
    def rows(self) -> int:
        return sum(found.rows for found in self.files.values())

    @property
    def places(self) -> int:
        """How many rows and other places are about the image."""
        return self.rows + len(self.log) + sum(found.cells for found in self.files.values())


def look(url: str, paths: list[str], names: Names) -> TableFound:
    """url: of the table. paths: of all files in it, below it."""
    found = TableFound()
    for path in paths:
        address = storage.join(url, path)
        if path.startswith(LOG + "/"):
            text = _log_text(address)
            found.statistics |= _has_statistics(text)
            if names.mentioned(text):
                found.log.append(path)
        elif path.endswith(".parquet") and (there := parquet.look(address, names)):
            found.files[path] = there
    return found


def clean(
    url: str, paths: list[str], found: TableFound, names: Names, confirm: Callable[[], None] = lambda: None
) -> None:
    """Take the image out of the table. Begins again wherever an earlier call was stopped. confirm: called before every
    file that changes; what it raises stops the work."""
    log = sorted(path for path in paths if path.startswith(LOG + "/"))
    checkpoints = [storage.join(url, path) for path in log if path.endswith(".parquet")]
    commits = [storage.join(url, path) for path in log if path.endswith(".json")]
    committed, own = _committed(checkpoints, commits), {renamed(path) for path in found.files}
    new = {}
    for path in sorted(found.files):
        confirm()
        name = _final(path, found.files)
        if path not in own and not {path, renamed(path), name} & committed:
            name = path  # a candidate's
        size, rows = parquet.without(storage.join(url, path), storage.join(url, name), names)
        if name != path:
            new[path] = Rewritten(name, size, rows)
    if new or found.log or found.statistics:
        for address in commits:
            confirm()
            _announce(address, new)
        for address in checkpoints:
            confirm()
            _checkpoint(address, new, names)
        for address in commits:
            confirm()
            _commit(address, new, names)
        # A hint whose sizes hold no more; readers look at the folder without it.
        storage.remove(storage.join(url, LOG, "_last_checkpoint"))
    for path in sorted(new, reverse=True):  # of a file that was written anew twice, the first one first
        confirm()
        storage.remove(storage.join(url, path))


def _committed(checkpoints: Iterable[str], commits: Iterable[str]) -> set[str]:
    """The data files that an entry of the log names."""
    entries = [row for address in checkpoints for row in storage.read_parquet(address).to_pylist()]
    entries += [json.loads(line) for address in commits for line in storage.read_bytes(address).splitlines()]
    actions = (entry.get(action) for entry in entries for action in ("add", "remove"))
    return {unquote(str(action["path"])) for action in actions if action is not None and action.get("path")}


def _final(path: str, found: Iterable[str]) -> str:
    """The new name of a file: another one than those of files that hold the image themselves, as what an interrupted
    run wrote does when another image is forgotten with it."""
    name = renamed(path)
    while name in found:
        name = renamed(name)
    return name


def renamed(path: str) -> str:
    """The name of a file without the image: another one, and always the same one."""
    folder, slash, name = path.rpartition("/")
    plain = _REWRITTEN.sub("", name.removesuffix(".parquet"))
    return f"{folder}{slash}{plain}-f{hashlib.sha256(name.encode()).hexdigest()[:8]}.parquet"


def _log_text(address: str) -> str:
    if address.endswith(".parquet"):
        rows = storage.read_parquet(address).to_pylist()
        return "\n".join(json.dumps(row, default=str, ensure_ascii=False) for row in rows)
    return storage.read_bytes(address).decode("utf-8", "surrogateescape")


def _has_statistics(text: str) -> bool:
    return "minValues" in text or "stats_parsed" in text


def _announce(address: str, new: Mapping[str, Rewritten]) -> None:
    """Write beside every removal of an old file that of its new one. Without it, a reader would find the new file in
    versions that had removed the old one, as long as some commits name the one and some the other. To remove a file
    that is not there does no harm."""
    before = storage.read_bytes(address).splitlines()
    lines = []
    for line in before:
        entry = json.loads(line)
        lines.append(line)
        if entry.get("remove") is not None and unquote(str(entry["remove"]["path"])) in new:
            lines.append(_line({**entry, "remove": _action(entry["remove"], new)}))
    after = list(dict.fromkeys(lines))
    if after != before:
        storage.write_bytes(address, b"\n".join(after))


def _commit(address: str, new: Mapping[str, Rewritten], names: Names) -> None:
    before = storage.read_bytes(address)
    lines = []
    for line in before.splitlines():
        entry = json.loads(line)
        for action in ("add", "remove"):
            if entry.get(action) is not None:
                entry[action] = _action(entry[action], new)
        lines.append(names.replaced(_line(entry)))
    after = b"\n".join(dict.fromkeys(lines))  # `_announce` has written some already
    if after != before.rstrip(b"\n"):
        storage.write_bytes(address, after)


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()


def _action(action: dict[str, Any], new: Mapping[str, Rewritten]) -> dict[str, Any]:
    path = unquote(str(action["path"]))
    changed = dict(action)
    rows = _rows(action.get("stats"))
    if path in new:
        rows = new[path].rows
        changed["path"] = quote(new[path].name)
        changed["size"] = new[path].size_bytes
    if changed.get("stats") is not None:
        changed["stats"] = json.dumps({"numRecords": rows} if rows is not None else {})
    changed.pop("stats_parsed", None)
    return changed


def _rows(stats: str | None) -> int | None:
    count = json.loads(stats).get("numRecords") if stats else None
    return int(count) if count is not None else None


def _checkpoint(address: str, new: Mapping[str, Rewritten], names: Names) -> None:
    table = storage.read_parquet(address)
    rows = table.to_pylist(maps_as_pydicts="lossy")
    for row in rows:
        for action in ("add", "remove"):
            if row.get(action) is not None and row[action].get("path") is not None:
                row[action] = _action(row[action], new)
    schema = pa.schema([_without_parsed(f) for f in table.schema], table.schema.metadata)
    after = pa.Table.from_pylist([_as_maps(row, schema) for row in rows], schema=schema)
    if not after.equals(table) or _has_statistics(str(table.schema)):
        storage.write_parquet(address, after)
    if parquet.look(address, names):
        raise ValueError(f"{address}: a checkpoint of the table's log names the image where no row should")


def _without_parsed(field_: pa.Field) -> pa.Field:
    if field_.name not in ("add", "remove") or not pa.types.is_struct(field_.type):
        return field_
    kept = [field_.type.field(i) for i in range(field_.type.num_fields)]
    return field_.with_type(pa.struct([f for f in kept if f.name != "stats_parsed"]))


def _as_maps(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Mappings as the lists of pairs that Arrow wants."""
    return {field_.name: _value(row.get(field_.name), field_.type) for field_ in schema}


def _value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_map(kind):
        return list(value.items())
    if pa.types.is_struct(kind):
        return {
            kind.field(i).name: _value(value.get(kind.field(i).name), kind.field(i).type)
            for i in range(kind.num_fields)
        }
    return value
