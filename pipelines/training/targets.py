"""Reads the target of one image: channels, weights and tags on the grid of its picture.

Runs in the processes that prepare data. Nothing here imports torch unless points and boxes are drawn.
"""

import io
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from models.students.augment import IGNORE
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.corpus.read import open_parquet, read_bytes

ABSENT, PRESENT, UNKNOWN = 0, 1, 2
"""What tags say of a channel."""
COLUMNS = ("class_map", "confidence", "keep_threshold", "weak", "height", "width")
Ids = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Target:
    """channels: int16 [h, w], IGNORE where nothing is known. weight: uint8 [h, w], 255 is 1. tags: uint8 [C]."""

    channels: npt.NDArray[np.int16]
    weight: npt.NDArray[np.uint8]
    tags: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.channels.nbytes + self.weight.nbytes + self.tags.nbytes


class TargetSource(Protocol):
    """Targets by item number."""

    def read(self, item: int, size: tuple[int, int]) -> Target:
        """The target on a grid (height, width). Raises OSError or ValueError where it cannot be used."""


@dataclass(frozen=True)
class Channels:
    """The channels of a class set: the background first, if it has one, then its classes.

    table: int16, channel by class id, IGNORE for ids of no class.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    background: bool
    table: npt.NDArray[np.int16]

    @classmethod
    def of(cls, classes: ClassSet) -> "Channels":
        first = [(classes.background.id, "background")] if classes.background else []
        entries = first + [(entry.id, entry.name) for entry in classes.classes]
        table = np.full(max(i for i, _ in entries) + 1, IGNORE, np.int16)
        for channel, (class_id, _) in enumerate(entries):
            table[class_id] = channel
        return cls(tuple(n for _, n in entries), tuple(i for i, _ in entries), classes.background is not None, table)

    def __len__(self) -> int:
        return len(self.names)

    def no_tags(self) -> npt.NDArray[np.uint8]:
        return np.full(len(self), UNKNOWN, np.uint8)


def look_up(table: npt.NDArray[np.int16], ids: Ids) -> npt.NDArray[np.int16]:
    """table[ids], IGNORE for ids outside of it."""
    known = (ids >= 0) & (ids < len(table))
    return np.where(known, table[np.where(known, ids, 0)], IGNORE).astype(np.int16)


def nearest(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Nearest resize of [H, W] to [h, w], by pixel centres."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.intp)
        for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns[None]]


def nothing(channels: Channels, size: tuple[int, int]) -> Target:
    """The target of an image without one."""
    return Target(np.full(size, IGNORE, np.int16), np.zeros(size, np.uint8), channels.no_tags())


def check_aspect(found: tuple[int, int], size: tuple[int, int], what: str) -> None:
    """Raises ValueError where a map and a picture cannot be of the same photograph: they differ in shape by more than
    the rounding of a resize."""
    (height, width), (h, w) = found, size
    if abs(height * w - width * h) > max(height, width) + max(h, w):
        raise ValueError(f"{what} covers {width} x {height} pixels, which is not the shape of the picture ({w} x {h})")


def read_mask(uri: str) -> npt.NDArray[np.int32]:
    """Ids int32 [H, W] of a PNG mask. Raises ValueError for a picture that is not one id a pixel."""
    with Image.open(io.BytesIO(read_bytes(uri))) as image:
        mask = np.array(image)
    if mask.ndim != 2:
        raise ValueError(f"{uri} is not one class id a pixel: its shape is {mask.shape}")
    return mask.astype(np.int32)


@dataclass
class MaskSource:
    """Masks that people drew. uris: Arrow strings, one a mask. table: channel by gold id."""

    uris: pa.StringArray
    table: npt.NDArray[np.int16]
    channels: Channels

    def read(self, item: int, size: tuple[int, int]) -> Target:
        uri = self.uris[item].as_py()
        mask = look_up(self.table, read_mask(uri))
        check_aspect(mask.shape, size, f"the mask {uri}")
        small = nearest(mask, size)
        weight = np.where(small == IGNORE, 0, 255).astype(np.uint8)
        return Target(small, weight, self.channels.no_tags())


@dataclass(frozen=True)
class LabelOptions:
    """How a label row becomes a target; see `pipelines.training.config.DataConfig`."""

    targets: str
    keep: str
    min_confidence: float
    confidence_weight: bool
    point_radius: float
    box_fill: float


@dataclass
class LabelSource:
    """Rows of a label table. files: Parquet files. place: int32 [n, 3], file, row group and row in it of each item.
    tables: channel by class id, for each class set that rows were made with. which: int8 [n], whose table it is."""

    files: Sequence[str]
    place: npt.NDArray[np.int32]
    classes: ClassSet
    channels: Channels
    options: LabelOptions
    tables: Sequence[npt.NDArray[np.int16]]
    which: npt.NDArray[np.int8]
    groups_kept: int = 24
    _groups: "OrderedDict[tuple[int, int], Any]" = field(default_factory=OrderedDict, repr=False)
    _open: dict[int, Any] = field(default_factory=dict, repr=False)

    def read(self, item: int, size: tuple[int, int]) -> Target:
        row = self._row(item)
        check_aspect((row["height"], row["width"]), size, "the label")
        weak = json.loads(row["weak"] or "{}")
        if len(self.tables) > 1:
            weak = weak_labels.validate(weak, self.classes)[0]  # said of classes that may be others since
        if self.options.targets == "weak":
            from pipelines.training.weak_targets import draw

            return draw(weak, self.classes, self.channels, (row["height"], row["width"]), size, self.options)
        channels = look_up(self.tables[self.which[item]], nearest(_png(row["class_map"]), size))
        return Target(channels, self._weight(row, size), tags(weak, self.classes, self.channels))

    def _weight(self, row: dict[str, Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        confidence = nearest(_png(row["confidence"]), size)
        limit = {"row": row["keep_threshold"], "fixed": self.options.min_confidence, "all": 0.0}[self.options.keep]
        kept = confidence >= round(limit * 255)
        return np.where(kept, confidence if self.options.confidence_weight else 255, 0).astype(np.uint8)

    def _row(self, item: int) -> dict[str, Any]:
        file, group, row = (int(value) for value in self.place[item])
        if (file, group) not in self._groups:
            if file not in self._open:
                if len(self._open) >= 16:
                    self._open.pop(next(iter(self._open))).close()
                self._open[file] = open_parquet(self.files[file])
            while len(self._groups) >= self.groups_kept:
                self._groups.popitem(last=False)
            self._groups[file, group] = self._open[file].read_row_group(group, columns=list(COLUMNS))
        self._groups.move_to_end((file, group))
        found: dict[str, Any] = self._groups[file, group].slice(row, 1).to_pylist()[0]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is open and read stays in its process."""
        return {**self.__dict__, "_groups": OrderedDict(), "_open": {}}


def tags(weak: dict[str, Any], classes: ClassSet, channels: Channels) -> npt.NDArray[np.uint8]:
    """uint8 [C] of validated weak labels: PRESENT, ABSENT or UNKNOWN; the background is there unless maps say more."""
    found = channels.no_tags()
    first = int(channels.background)
    complete = bool(weak.get("tags_complete"))
    if complete:
        found[first:] = ABSENT
    for tag in weak.get("tags", ()):
        index = classes.index(tag["class"])
        if index is not None and index >= 0:
            found[first + index] = PRESENT if tag["present"] else ABSENT
    if channels.background and (found[1:] != UNKNOWN).any():
        found[0] = PRESENT
    return found


def _png(data: bytes) -> npt.NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(data)))
