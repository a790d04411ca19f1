"""The export: a pinned snapshot, image by image, to a folder of another format."""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines import storage
from pipelines.config import UsageError
from pipelines.exports.config import ExportConfig
from pipelines.exports.pictures import Skipped, photograph
from pipelines.exports.snapshot import Snapshot, class_ids, open_snapshot, split_of
from pipelines.exports.writer import Item, Spool, Target, Writer, classes_yaml
from pipelines.flow.progress import Progress, say

MARK = "export.json"
"""In the folder of every export: what it is of, whether it is whole, and its files. Written first and last.

files: by folder, because a list of names is what forgetting takes an image out of. known: whether those are all, which
they are not once an export was killed."""
COLUMNS = ("class_map", "confidence", "keep_threshold", "height", "width", "label_key", "weak")
SAME = ("to", "keep", "min_confidence", "val", "images", "instances", "max_regions", "rows_per_file", "title",
        "license", "limit")  # fmt: skip
"""Settings that change the files."""
SKIPPED_SHOWN = 20


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the export; returns what the last line of stdout says. Raises UsageError for what cannot be done."""
    snapshot = open_snapshot(config.labels, config.snapshot, config.limit)
    output = config.output or storage.join(snapshot.output, "exports", config.to)
    target = Target(storage.absolute(output))
    mark = _mark(config, snapshot)
    before = _read_mark(target.url, config.to)
    if before and before["complete"] and before["key"] == mark["key"] and not before["skipped"]:
        say(f"{target.url} holds this very export already; nothing to do")
        return {**before["summary"], "written": False}
    writer = _writer(config, target, snapshot)
    earlier = _earlier(before, mark, target.url, type(writer))
    target.write(MARK, _json({**mark, "files": _by_folder(earlier), "known": False}))
    try:
        return _write(config, snapshot, target, writer, mark, earlier)
    except BaseException:
        # What was written so far may be stale in the next export.
        stopped = {**mark, "files": _by_folder(earlier | target.written), "known": True}
        with contextlib.suppress(OSError):
            target.write(MARK, _json(stopped))
        raise


def _write(
    config: ExportConfig, snapshot: Snapshot, target: Target, writer: Writer, mark: dict[str, Any], earlier: set[str]
) -> dict[str, Any]:
    skipped = _write_all(writer, snapshot, config)
    summary = {
        "format": config.to,
        "images": len(snapshot.entries) - len(skipped),
        "skipped": len(skipped),
        **writer.close(),
        "labels": snapshot.output,
        "snapshot": snapshot.version,
        "output": target.url,
    }
    target.write("classes.yaml", classes_yaml(snapshot.classes))
    # What an earlier export of other labels left in the folder; files of others stay.
    for path in earlier - target.written:
        storage.remove(storage.join(target.url, path))
    done = {"complete": True, "summary": summary, "skipped": skipped, "files": _by_folder(target.written)}
    target.write(MARK, _json({**mark, **done, "known": True}))
    return {**summary, "written": True}


def _writer(config: ExportConfig, target: Target, snapshot: Snapshot) -> Writer:
    # A format's imports are only paid where it is used.
    if config.images == "none" and not config.to.startswith(("coco", "rrle")):
        raise UsageError(f"--images none: the format {config.to} holds the images themselves; leave it out")
    if config.to == "coco":
        from pipelines.exports.coco import CocoWriter

        return CocoWriter(target, snapshot, config)
    if config.to == "coco-panoptic":
        from pipelines.exports.coco import PanopticWriter

        return PanopticWriter(target, snapshot, config)
    if config.to == "yolo":
        from pipelines.exports.yolo import YoloWriter

        return YoloWriter(target, snapshot, config)
    if config.to == "voc":
        from pipelines.exports.voc import VocWriter

        return VocWriter(target, snapshot, config)
    if config.to == "rrle":
        from pipelines.exports.rrle import RrleWriter

        return RrleWriter(target, snapshot, config)
    from pipelines.exports.huggingface import HuggingFaceWriter

    return HuggingFaceWriter(target, snapshot, config)


def _mark(config: ExportConfig, snapshot: Snapshot) -> dict[str, Any]:
    settings = {**{name: getattr(config, name) for name in SAME}, "min_area_px": config.smallest_px}
    made_of = {"labels": snapshot.output, "snapshot": snapshot.version, "run_id": snapshot.run_id, "settings": settings}
    return {**made_of, "key": hashlib.sha256(_json(made_of)).hexdigest(), "complete": False}


def _read_mark(url: str, to: str) -> dict[str, Any] | None:
    """What an earlier export left. Raises UsageError for a folder that holds something else."""
    if storage.exists(storage.join(url, MARK)):
        found: dict[str, Any] = json.loads(storage.read_bytes(storage.join(url, MARK)))
        if (held := found["settings"]["to"]) != to:
            raise UsageError(f"--output {url} holds an export to {held}: give every format a folder of its own")
        return found
    if held := storage.tree(url):
        raise UsageError(f"--output {url} holds other files ({held[0]}): give the export a folder of its own")
    return None


def _earlier(before: dict[str, Any] | None, mark: dict[str, Any], url: str, writer: type[Writer]) -> set[str]:
    """Paths of the files that earlier exports wrote, below the folder. Raises UsageError where they are not known."""
    if before is None:
        return set()
    files: dict[str, list[str]] = before.get("files", {})
    told = {f"{folder}/{name}".lstrip("/") for folder, names in files.items() for name in names}
    # The same export writes the same files again.
    if before.get("known") or before["key"] == mark["key"]:
        return told
    other = _other(before, mark)
    try:
        killed = open_snapshot(before["labels"], before["snapshot"], before["settings"]["limit"])
    except UsageError as error:
        raise UsageError(
            f"--output {url}: an export of other settings ({other}) was killed there, and its snapshot cannot be read "
            "any more, so which files are its own is not known: remove the folder, or give another --output"
        ) from error
    say(f"an export of other settings ({other}) was killed there: it begins anew")
    return told | _left(url, killed, writer)


def _left(url: str, killed: Snapshot, writer: type[Writer]) -> set[str]:
    """The files of a killed export: in its format's folders, what is called after its images, and its lists."""
    names = {entry.name for entry in killed.entries.values()}

    def own(path: str) -> bool:
        inside = any(path.startswith(f"{folder}/") for folder in writer.folders)
        return inside and (PurePosixPath(path).stem in names or any(fnmatch(path, one) for one in writer.lists))

    return {path for path in storage.tree(url) if own(path)}


def _other(before: dict[str, Any], mark: dict[str, Any]) -> str:
    """What one export is of and another is not, for people: "val 0.1, now 0.2"."""
    then, now = ({**one, **one["settings"]} for one in (before, mark))
    names = ("labels", "snapshot", *mark["settings"])
    found = [f"{name} {then.get(name)}, now {now[name]}" for name in names if then.get(name) != now[name]]
    return "; ".join(found) or "the labels were published by another run"


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        found.setdefault(folder, []).append(name)
    return found


def _write_all(writer: Writer, snapshot: Snapshot, config: ExportConfig) -> list[dict[str, str]]:
    """Every image through the writer: read and encoded in threads, added in order. Returns those left out, and why."""
    skipped: list[dict[str, str]] = []
    index = Spool()
    progress = Progress("export", len(snapshot.entries), config.progress_seconds)
    for row, item, encoded in _encoded(writer, snapshot, config):
        asset = row["asset"]
        if isinstance(encoded, Skipped):
            skipped.append({"asset": asset, "reason": str(encoded)})
            if len(skipped) <= SKIPPED_SHOWN:
                say(f"left out: {asset}: {encoded}")
        else:
            writer.add(item, encoded)
            entry = snapshot.entries[asset]
            index.add({"name": entry.name, "asset": asset, "uri": entry.uri, "digest": entry.digest})
        progress.add(1, int(isinstance(encoded, Skipped)))
    progress.close()
    _write_index(writer.target, index)
    return skipped


def _encoded(writer: Writer, snapshot: Snapshot, config: ExportConfig) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """(label row, item, what the writer made of it or Skipped), in the order of the table."""

    def work(row: dict[str, Any]) -> tuple[Any, Any]:
        try:
            item = _item(writer, snapshot, config, row)
            return item, writer.encode(item)
        except Skipped as reason:
            return None, reason

    ahead: deque[tuple[dict[str, Any], Future[tuple[Any, Any]]]] = deque()
    with ThreadPoolExecutor(config.threads, thread_name_prefix="export") as threads:
        for row in snapshot.rows([*COLUMNS, *writer.columns]):
            ahead.append((row, threads.submit(work, row)))
            if len(ahead) > 2 * config.threads:
                done, future = ahead.popleft()
                yield done, *future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, *future.result()


def _item(writer: Writer, snapshot: Snapshot, config: ExportConfig, row: dict[str, Any]) -> Item:
    entry = snapshot.entries[row["asset"]]
    picture = None
    if writer.needs_photographs:
        size = (row["height"], row["width"])
        picture = photograph(entry.uri, entry.digest, size, config.max_pixels, writer.only_jpeg)
    ids = class_ids(row, config.keep, config.min_confidence)
    return Item(entry, split_of(entry.digest, config.val), ids, row, picture)


def _write_index(target: Target, index: Spool) -> None:
    """Names of the export's files to assets of the corpus."""
    import tempfile

    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"[\n")
        index.copy_to(file)  # type: ignore[arg-type]
        file.write(b"\n]\n")
    target.upload("assets.json", Path(file.name))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
