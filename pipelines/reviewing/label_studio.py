"""Label Studio: tasks.json with brush masks as predictions, label_config.xml; and its JSON export back.

Run-length code of brushes is label-studio-sdk's own.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipelines.config import UsageError
from pipelines.exports.snapshot import Ids
from pipelines.exports.writer import Spool, Target
from pipelines.reviewing.review import (
    POINTER,
    Drawn,
    Mask,
    Review,
    ReviewImage,
    ReviewWriter,
    Shape,
    fill,
    label_names,
    name_of,
)

BRUSH, LOOK, IMAGE = "label", "look", "image"
HALF = 128
"""Brush strokes have soft edges; a pixel belongs to one that covers half of it."""


def brush() -> Any:
    """label-studio-sdk's module for brush masks. Raises UsageError where it is not installed."""
    try:
        from label_studio_sdk.converter import brush as module
    except ImportError as error:
        raise UsageError(
            "label-studio needs label-studio-sdk: pip install -c constraints.txt -e '.[formats]'"
        ) from error
    return module


class LabelStudioWriter(ReviewWriter):
    """tasks.json and label_config.xml."""

    def __init__(self, target: Target, review: Review, image_url: str) -> None:
        super().__init__(target, review)
        self.image_url = image_url
        self.brush = brush()
        self.tasks = Spool()

    def encode(self, image: ReviewImage, ids: Ids) -> Any:
        """The task of one image."""
        classes = self.review.classes.classes
        results = [self._painted(image, entry.name, ids == entry.id) for entry in classes if (ids == entry.id).any()]
        results += [_pointer(image, number) for number in range(len(image.regions))]
        prediction = {
            "model_version": f"snapshot {self.review.snapshot}",
            "score": round(1 / (1 + image.value), 6),  # the least sure come first where tasks are sorted by score
            "result": results,
        }
        folder = self.target.url.rstrip("/").rpartition("/")[2]
        data = {
            "image": self.image_url.replace("{folder}", folder) + image.file,
            "name": name_of(image.file),
            "asset": image.asset,
            "digest": image.digest,
            "snapshot": self.review.snapshot,
        }
        return {"data": data, "predictions": [prediction]}

    def _painted(self, image: ReviewImage, name: str, mask: Mask) -> dict[str, Any]:
        rle = self.brush.mask2rle(mask.astype(np.uint8) * 255)
        return _result(image, name, BRUSH, "brushlabels", {"format": "rle", "rle": rle, "brushlabels": [name]})

    def add(self, image: ReviewImage, encoded: Any) -> None:
        self.tasks.add(encoded)

    def close(self) -> None:
        data = bytearray(b"[\n")
        self.tasks.file.seek(0)
        data += self.tasks.file.read() + b"\n]\n"
        self.target.write("tasks.json", bytes(data))
        self.target.write("label_config.xml", label_config(self.review).encode())


def _result(image: ReviewImage, name: str, control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    # The same region has the same id in every export of it.
    place = json.dumps([image.digest, control, name, value.get("x"), value.get("y")])
    return {
        "id": uuid.uuid5(uuid.NAMESPACE_OID, place).hex[:10],
        "type": kind,
        "from_name": control,
        "to_name": IMAGE,
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": value,
    }


def _pointer(image: ReviewImage, number: int) -> dict[str, Any]:
    region = image.regions[number]
    across, down = 100 / image.width, 100 / image.height
    value = {
        "x": region.x * across, "y": region.y * down, "width": region.width * across, "height": region.height * down,
        "rotation": 0, "rectanglelabels": [POINTER],
    }  # fmt: skip
    return _result(image, f"{POINTER} {number}", LOOK, "rectanglelabels", value)


def label_config(review: Review) -> str:
    """The labeling interface: a brush for every class, and boxes that point out where to look."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true", zoomControl="true")
    painted = ElementTree.SubElement(view, "BrushLabels", name=BRUSH, toName=IMAGE)
    for name, color in label_names(review.classes):
        ElementTree.SubElement(painted, "Label", value=name, background=color)
    look = ElementTree.SubElement(view, "RectangleLabels", name=LOOK, toName=IMAGE)
    ElementTree.SubElement(look, "Label", value=POINTER, background="#ff00ff")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def read(data: bytes, review: Review, annotator: str, when: datetime) -> Iterator[Drawn]:
    """What people drew, from Label Studio's JSON export (not JSON-MIN). when: the time of what has none of its own.

    Raises UsageError for another file.
    """
    try:
        tasks = json.loads(data)
        entries = [(task["data"], task.get("annotations", task.get("completions"))) for task in tasks]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--file is no JSON export of Label Studio (choose JSON, not JSON-MIN): {error!r}") from error
    for about, annotations in entries:
        name = str(about.get("name") or name_of(str(about.get("image", ""))))
        for annotation in annotations or ():
            if not annotation.get("was_cancelled"):
                yield _drawn(name, about, annotation, review, annotator, when)


def _drawn(
    name: str, about: Mapping[str, Any], annotation: Mapping[str, Any], review: Review, annotator: str, when: datetime
) -> Drawn:
    image = review.images.get(name)
    who = annotation.get("completed_by")
    who = who.get("email") or who.get("id") if isinstance(who, Mapping) else who
    shapes, refused = [], ""
    if image is not None:
        # One project may hold the tasks of several reviews, with the same names.
        if (about.get("snapshot"), about.get("digest")) != (review.snapshot, image.digest):
            refused = "this task is of another review: its snapshot or image is not the one that was sent out here"
        # What points out a region, or joins two of them, is no object.
        drawn = [one for one in annotation.get("result", ()) if one.get("from_name") != LOOK and "value" in one]
        shapes = [Shape(f"a {one.get('type')}", partial(_read, one, image)) for one in drawn]
    return Drawn(name, annotator or str(who or ""), _time(annotation, when), tuple(shapes), refused)


def _read(result: Mapping[str, Any], image: ReviewImage) -> tuple[str, Mask]:
    """(label, mask) of a region."""
    value, kind = result["value"], result["type"]
    labels = value.get(kind) or value.get("labels")
    if not labels:
        raise ValueError("it has no label")
    height, width = int(result["original_height"]), int(result["original_width"])
    if reason := image.refuses(width, height):
        raise ValueError(reason)
    if kind == "brushlabels":
        return labels[0], brush().decode_rle(value["rle"]).reshape(height, width, 4)[..., 3] >= HALF
    if kind == "polygonlabels":
        return labels[0], fill(np.asarray(value["points"], float) / 100 * (width, height), image.size)
    raise ValueError("only brushes and polygons are understood")


def _time(annotation: Mapping[str, Any], when: datetime) -> datetime:
    text = annotation.get("updated_at") or annotation.get("created_at")
    if not text:
        return when
    found = datetime.fromisoformat(str(text))
    return found if found.tzinfo else found.replace(tzinfo=UTC)
