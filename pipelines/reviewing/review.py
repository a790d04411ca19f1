"""A review: the folder that a person's tool reads, and what we need to understand what comes back."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.exports.snapshot import Ids
from pipelines.exports.writer import Target
from pipelines.reviewing.rank import Region

FILE = "review.json"
POINTER = "look here"
"""Name of the boxes that point out the regions; they are no objects."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ReviewImage:
    """One image of a review. file: its name without folders."""

    file: str
    asset: str
    uri: str
    digest: str
    height: int
    width: int
    value: float
    regions: tuple[Region, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def name(self) -> str:
        return name_of(self.file)

    def refuses(self, width: Any, height: Any) -> str:
        """Why work on an image of another size cannot be used; "" where it can, or where no size is told."""
        told = [None if value is None else int(float(value)) for value in (width, height)]
        if None in told or told == [self.width, self.height]:
            return ""
        return f"it was drawn on {told[0]} x {told[1]} pixels, the image has {self.width} x {self.height}"


@dataclass(frozen=True)
class Review:
    """What was sent out. images: by file name without suffix, which tools keep."""

    tool: str
    labels: str
    snapshot: int
    classes: ClassSet
    images: Mapping[str, ReviewImage]

    def to_json(self) -> bytes:
        images = [asdict(image) for image in self.images.values()]
        head = {"tool": self.tool, "labels": self.labels, "snapshot": self.snapshot, "classes": self.classes.to_dict()}
        return json.dumps({**head, "images": images}, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")

    @classmethod
    def read(cls, url: str) -> "Review":
        """Raises UsageError where there is none."""
        try:
            data = json.loads(storage.read_bytes(storage.join(url, FILE)))
        except FileNotFoundError as error:
            raise UsageError(
                f"--review: {url} holds no {FILE}; it is the folder that `review.py export` wrote"
            ) from error
        images = [
            ReviewImage(**{**image, "regions": tuple(Region(**region) for region in image["regions"])})
            for image in data["images"]
        ]
        by_name = {name_of(image.file): image for image in images}
        return cls(data["tool"], data["labels"], data["snapshot"], ClassSet.from_dict(data["classes"]), by_name)


def name_of(path: str) -> str:
    """The file name of an address without folders and suffix: what stays the same when a tool moves images around."""
    last = path.replace("\\", "/").rpartition("/")[2].partition("?")[0]
    return last.rpartition(".")[0] or last


def sent_path(name: str) -> str:
    """Where, in the folder of a review, the class map of an image lies as the person was shown it. It is called after
    the image's file, so that it is found when the image is forgotten."""
    return f"sent/{name}.png"


@dataclass(frozen=True)
class Shape:
    """One object that a person drew. what: how a person finds it.

    read: the name of its class and bool [H, W], made anew every time, as an image has many. Raises one of UNREADABLE.
    """

    what: str
    read: Callable[[], tuple[str, Mask]]


UNREADABLE = (KeyError, ValueError, IndexError, TypeError)


@dataclass(frozen=True)
class Drawn:
    """One person's work on one image. shapes: later ones on top. refused: why none of it can be used, or ""."""

    name: str
    annotator: str
    time: datetime
    shapes: tuple[Shape, ...]
    refused: str = ""


class ReviewWriter(ABC):
    """Writes what one tool reads."""

    images = "images"
    """The folder that the tool looks for images in."""

    def __init__(self, target: Target, review: Review) -> None:
        self.target, self.review = target, review

    @abstractmethod
    def encode(self, image: ReviewImage, ids: Ids) -> Any:
        """The work on one image and its label, int32 [H, W] of class ids; runs in several threads."""

    @abstractmethod
    def add(self, image: ReviewImage, encoded: Any) -> None:
        """Take an image in; one at a time, the most wanted first."""

    @abstractmethod
    def close(self) -> None:
        """Write what is about all images."""


def label_names(classes: ClassSet) -> list[tuple[str, str]]:
    """(name, "#rrggbb") of everything that a person can paint: the classes, and the background if there is one."""
    entries = [(entry.name, entry.color) for entry in classes.classes]
    if classes.background is not None:
        entries.append(("background", classes.background.color))
    return [(name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in entries]


def fill(points: Any, size: tuple[int, int]) -> Mask:
    """bool [H, W]: a polygon, [[x, y], ...] in pixels; a pixel is inside when its centre is."""
    from pycocotools import mask as coco

    flat = np.asarray(points, float).reshape(-1).tolist()
    if len(flat) < 6:
        return np.zeros(size, bool)
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects([flat], *size))), bool)
