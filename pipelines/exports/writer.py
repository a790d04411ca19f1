"""What the formats share: an image on its way, where its files go, and the steps of a writer."""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from pipelines import storage, weak
from pipelines.classes import BackgroundEntry, ClassEntry, ClassSet
from pipelines.exports.config import ExportConfig
from pipelines.exports.pictures import Photograph
from pipelines.exports.regions import Points, Region, regions, specks
from pipelines.exports.snapshot import VOID, Entry, Ids, Snapshot


@dataclass(frozen=True)
class Item:
    """One image: its label as int32 [H, W] of class ids (VOID: without one), its row, and the photograph, if copied."""

    entry: Entry
    split: str
    ids: Ids
    row: dict[str, Any]
    photograph: Photograph | None

    @property
    def size(self) -> tuple[int, int]:
        return int(self.ids.shape[0]), int(self.ids.shape[1])

    def points(self, classes: ClassSet) -> Points:
        """Those of the image's weak labels that name a class."""
        told = json.loads(self.row["weak"] or "{}")
        valid, _ = weak.validate({"points": told.get("points", [])}, classes, self.size)
        arrays = weak.to_arrays(valid, classes, *self.size)
        named = arrays.point_classes >= 0
        return Points(arrays.points[named], classes.arrays().ids[arrays.point_classes[named]])


@dataclass
class Target:
    """The folder of an export. written: the paths below it that this export put there."""

    url: str
    written: set[str] = field(default_factory=set)

    def write(self, path: str, data: bytes) -> None:
        storage.write_bytes(storage.join(self.url, path), data)
        self.written.add(path)

    def upload(self, path: str, local: Path) -> None:
        storage.upload(local, storage.join(self.url, path))
        self.written.add(path)


class Writer(ABC):
    """One format. columns: of the label row that it needs beside the class map. folders: that it writes in. lists: the
    patterns of those of its files there that are not called after an image, and that another export may not have."""

    columns: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("images", "annotations")
    lists: tuple[str, ...] = ()
    only_jpeg = False
    needs_photographs = True

    def __init__(self, target: Target, snapshot: Snapshot, config: ExportConfig) -> None:
        self.target, self.snapshot, self.config = target, snapshot, config

    def objects(self, item: Item) -> tuple[list[Region], int]:
        """The objects of an image, as the settings say, and how many parts were too small for one; the background is
        none."""
        config, classes = self.config, self.snapshot.classes
        none = {classes.background.id} if classes.background else set()
        small, count = specks(item.ids, none, config.smallest_px)
        points = item.points(classes) if config.instances == "points" else None
        found = regions(np.where(small, VOID, item.ids), none, config.instances == "classes", points)
        large = [part for part in found if part.area >= config.smallest_px]
        return large, count + len(found) - len(large)

    @abstractmethod
    def encode(self, item: Item) -> Any:
        """The work on one image, its own files included; runs in several threads. What it returns goes to `add`."""

    @abstractmethod
    def add(self, item: Item, encoded: Any) -> None:
        """Take an image in; one at a time, in the order of the table."""

    @abstractmethod
    def close(self) -> dict[str, Any]:
        """Write what is about all images; returns numbers for the summary."""


class Spool:
    """A JSON list that grows on disk, and not in memory."""

    def __init__(self) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the export
        self.count = 0

    def add(self, entry: dict[str, Any]) -> None:
        text = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
        self.file.write((",\n" if self.count else "").encode() + text.encode("utf-8", "backslashreplace"))
        self.count += 1

    def copy_to(self, file: BinaryIO) -> None:
        self.file.seek(0)
        while part := self.file.read(1 << 20):
            file.write(part)


def write_json(target: Target, path: str, head: dict[str, Any], lists: dict[str, Spool]) -> None:
    """A JSON object of `head` and of lists that may be larger than memory."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(json.dumps(head, ensure_ascii=False, indent=1).removesuffix("}").rstrip().encode())
        for name, spool in lists.items():
            file.write(f",\n{json.dumps(name)}: [\n".encode())
            spool.copy_to(file)  # type: ignore[arg-type]
            file.write(b"\n]")
        file.write(b"\n}\n")
    target.upload(path, Path(file.name))


def entries_of(classes: ClassSet) -> list[tuple[int, str, tuple[int, int, int]]]:
    """(id, name, colour) of every class, the background (if there is one) first."""
    background: list[ClassEntry | BackgroundEntry] = [classes.background] if classes.background else []
    named: Iterable[ClassEntry | BackgroundEntry] = [*background, *classes.classes]
    return [(one.id, getattr(one, "name", "background"), one.color) for one in named]


def classes_yaml(classes: ClassSet) -> bytes:
    return yaml.safe_dump(classes.to_dict(), sort_keys=False, allow_unicode=True).encode()
