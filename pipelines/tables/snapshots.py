"""Snapshots of the label table: which there are, going back to one, tidying, and letting go of old ones."""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import CommitProperties

from pipelines import storage
from pipelines.config import UsageError
from pipelines.tables.delta import DataFile, NewestRowTable
from pipelines.tables.newest import NewestRows, open_files

# What a commit says of itself in its metadata, besides run_id.
ROLLBACK, COMPACTION = "rolled_back_to", "same_labels_as"
ANYWAY = "published_anyway"
# So many assets are named where more than these are meant.
NAMED = 3
# Below the table's folder: what each rollback took back, a file called after its version. So it is known for good, also
# when the labels themselves are vacuumed.
WITHDRAWN = "_withdrawn"
# A file of labels is rewritten when this share of its rows is superseded, or when so many small files have gathered.
STALE_SHARE = 0.5
SMALL_ROWS, SMALL_FILES = 256, 64
FILE_ROWS, FILE_BYTES = 1024, 64 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """One version of the table. back_to: the version whose labels it brought back; same_as: the version whose labels it
    holds in other files; reason: why it was published although the gate refused it."""

    version: int
    at: datetime
    run_id: str
    back_to: int | None
    same_as: int | None
    reason: str


def snapshots(table: NewestRowTable) -> list[Snapshot]:
    """All versions that hold labels, the newest first."""
    delta = table.open()
    if delta is None:
        return []
    found = []
    for entry in delta.history():
        if not entry["version"]:
            continue  # The empty table.
        back, same = entry.get(ROLLBACK), entry.get(COMPACTION)
        found.append(
            Snapshot(
                entry["version"],
                datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
                entry.get("run_id", ""),
                None if back is None else int(back),
                None if same is None else int(same),
                entry.get(ANYWAY, ""),
            )
        )
    return found


def readable(table: NewestRowTable, version: int) -> bool:
    """Whether all files of a version are still there."""
    there = set(storage.list_files(table.url))
    try:
        return set(table.files(version)) <= there
    except Exception:  # deltalake's errors are of no common kind
        return False


def roll_back(
    table: NewestRowTable, version: int, run_id: str, reason: str, confirm: Callable[[], None] = lambda: None
) -> int:
    """Publish the labels of an older version again, in one atomic commit that writes no row; returns the new version.

    confirm: called right before; raises if that may not be done any more. Raises UsageError for a version that is not
    there, or not readable any more.
    """
    delta = table.open()
    newest = None if delta is None else delta.version()
    if delta is None or newest is None or not 0 < version < newest:
        raise UsageError(f"{table.url} has no snapshot {version} to go back to; the newest is {newest}")
    if not readable(table, version):
        raise UsageError(f"snapshot {version} of {table.url} was vacuumed: some of its files are gone")
    taken = _taken_back(table, newest, version)
    storage.write_parquet(storage.join(table.url, WITHDRAWN, f"{newest + 1:010d}.parquet"), taken)
    metadata = {"run_id": run_id, ROLLBACK: str(version), "reason": reason}
    confirm()
    delta.restore(version, commit_properties=CommitProperties(custom_metadata=metadata))
    return newest + 1


def withdrawn(table: NewestRowTable, files: Sequence[str]) -> list[str]:
    """The assets, by name, whose labels in these data files (addresses) a person took back by a rollback.

    A label counts as the same when everything that it was decided from is the same.
    """
    parts = [_noted(table, snapshot.version) for snapshot in snapshots(table) if snapshot.back_to is not None]
    if not parts:
        return []
    offered = _columns(table, files, ["asset", "label_key"])
    taken = pc.unique(pa.concat_tables(parts)["label_key"])
    taken = taken.filter(pc.invert(pc.is_in(taken, _columns(table, table.files(), ["label_key"])["label_key"])))
    return sorted(offered.filter(pc.is_in(offered["label_key"], taken))["asset"].to_pylist())


def taken_back(assets: Sequence[str]) -> str:
    """What is to be said of labels that a rollback took back, with a few of their assets."""
    named = ", ".join(assets[:NAMED]) + (", ..." if len(assets) > NAMED else "")
    return f"{len(assets):,} of these labels {'was' if len(assets) == 1 else 'were'} taken back by a rollback ({named})"


def _taken_back(table: NewestRowTable, before: int, after: int) -> pa.Table:
    """(asset, label_key) of the labels in `before` that going back to `after` took back, as far as their files are
    still there."""
    there, kept = set(storage.list_files(table.url)), table.files(after)
    gone = (set(table.files(before)) - set(kept)) & there
    names = ["asset", "label_key"]  # by their asset, labels of forgotten images are found here too
    found = _columns(table, sorted(gone), names)
    stays = pc.is_in(found["label_key"], _columns(table, sorted(there & set(kept)), names)["label_key"])
    return found.filter(pc.invert(stays))


def _noted(table: NewestRowTable, version: int) -> pa.Table:
    """What the rollback that made a version noted; for one that noted nothing, what is still there."""
    folder = storage.join(table.url, WITHDRAWN)
    # Forgetting an image renames the files that held it; what stands before the suffix stays.
    found = [url for url in storage.list_files(folder) if url.rsplit("/", 1)[-1].startswith(f"{version:010d}")]
    return _large(storage.read_parquet(found[0])) if found else _taken_back(table, version - 1, version)


def _columns(table: NewestRowTable, files: Sequence[str], names: list[str]) -> pa.Table:
    """Columns of all rows that have a label key."""
    dataset = open_files(table.schema, files)
    if dataset is None:
        return _large(table.schema.empty_table().select(names))
    return _large(dataset.to_table(columns=names, filter=pads.field("label_key").is_valid()))


def _large(found: pa.Table) -> pa.Table:
    """Texts that may be more than 2 GiB together."""
    return found.cast(pa.schema([(name, pa.large_string()) for name in found.column_names]))


def compact(
    table: NewestRowTable, run_id: str, confirm: Callable[[], None] = lambda: None, before: int | None = None
) -> int | None:
    """Rewrite files most of whose rows are superseded, and many small ones into few, without touching a label.

    confirm: called right before the commit; raises if that may not be done any more. before: the version that must be
    the newest one; default: whichever is. Returns the new version, None where nothing was to be done. Old snapshots
    keep their files until `vacuum`. Raises CommitConflict where another commit came meanwhile.
    """
    before = table.version() if before is None else before
    files = table.files(before)
    rows = NewestRows.of(table.schema, files)
    chosen = _worth_rewriting(rows)
    if before is None or not chosen.any():
        return None
    kept = rows.where(chosen[rows.keys["file"].to_numpy()])
    written = list(_rewrite(table, kept))
    gone = [file.rsplit("/", 1)[-1] for file, out in zip(rows.files, chosen, strict=True) if out]
    confirm()
    return table.replace(gone, written, before, {"run_id": run_id, COMPACTION: str(before)})


def _worth_rewriting(rows: NewestRows) -> npt.NDArray[np.bool_]:
    """Bool [files]."""
    live = np.bincount(rows.keys["file"].to_numpy(), minlength=len(rows.files))
    small = live < SMALL_ROWS
    return (live < (1 - STALE_SHARE) * rows.sizes) | (small & (small.sum() > SMALL_FILES))


def _rewrite(table: NewestRowTable, rows: NewestRows) -> Iterator[DataFile]:
    """Files of bounded size that hold these rows; a few rows are in memory at once, and one file, compressed."""
    number, writer, buffer, count = 0, None, io.BytesIO(), 0
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"

    def finish() -> DataFile:
        assert writer is not None
        writer.close()
        name = f"compact-{stamp}-{number:05d}.parquet"
        storage.write_bytes(storage.join(table.url, name), buffer.getvalue())
        return DataFile(name, len(buffer.getvalue()), count)

    for batch in rows.read(table.schema.names, 64):
        if writer is None:
            buffer, count = io.BytesIO(), 0
            writer = pq.ParquetWriter(buffer, table.schema, compression="zstd")
        writer.write_batch(batch, row_group_size=64)
        count += batch.num_rows
        if count >= FILE_ROWS or buffer.tell() >= FILE_BYTES:
            yield finish()
            number, writer = number + 1, None
    if writer is not None:
        yield finish()


def vacuum(table: NewestRowTable, before: datetime, hold: Collection[str] = ()) -> tuple[list[int], int]:
    """Delete the files of snapshots that were replaced before this moment, and files as old that no snapshot holds.

    The published snapshot stays whatever its age, and so does every one that was published at or after `before`, and
    the files (names) to `hold`. Returns the versions that cannot be read any more, and the bytes freed.
    """
    delta = table.open()
    if delta is None:
        return [], 0
    known = snapshots(table)
    # A snapshot's time ends when the next one is published.
    ends = [datetime.max.replace(tzinfo=UTC), *(snapshot.at for snapshot in known)]
    keep = [snapshot.version for snapshot, end in zip(known, ends, strict=False) if end >= before]
    held = {file.rsplit("/", 1)[-1] for version in keep for file in _files(table, version)} | set(hold)
    fs, path = storage.filesystem(table.url)
    freed = 0
    for entry in fs.ls(path, detail=True):
        name = str(entry["name"]).rsplit("/", 1)[-1]
        if entry["type"] != "file" or not name.endswith(".parquet") or name in held:
            continue
        if _modified(fs, entry) < before:
            freed += int(entry["size"])
            storage.remove(storage.join(table.url, name))
    return [snapshot.version for snapshot in known if snapshot.version not in keep], freed


def _files(table: NewestRowTable, version: int) -> list[str]:
    try:
        return table.files(version)
    except Exception:  # its log is gone: nobody can read it
        return []


def _modified(fs: object, entry: dict[str, object]) -> datetime:
    value = entry.get("LastModified") or entry.get("mtime") or fs.modified(entry["name"])  # type: ignore[attr-defined]
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    assert isinstance(value, datetime)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
