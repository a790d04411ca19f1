"""CVAT: annotations.xml in the format "CVAT for images 1.1", masks out, masks and polygons back."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipelines.config import UsageError
from pipelines.exports.regions import Region, regions
from pipelines.exports.snapshot import Ids
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


class CvatReviewWriter(ReviewWriter):
    """annotations.xml; boxes labeled POINTER say where to look."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.root = ElementTree.Element("annotations")
        ElementTree.SubElement(self.root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(self.root, "meta"), "task")
        labels = ElementTree.SubElement(task, "labels")
        for name, color in [*label_names(self.review.classes), (POINTER, "#ff00ff")]:
            label = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "color").text = color
            ElementTree.SubElement(label, "type").text = "rectangle" if name == POINTER else "any"
            ElementTree.SubElement(label, "attributes")
        self.names = {entry.id: entry.name for entry in self.review.classes.classes}
        self.count = 0

    def encode(self, image: ReviewImage, ids: Ids) -> Any:
        background = self.review.classes.background
        found = regions(ids, {background.id} if background else (), whole=False)
        common = {"source": "auto", "occluded": "0", "z_order": "0"}
        shapes = [("mask", {"label": self.names[part.class_id], **common, **mask_of(part)}) for part in found]
        for look in image.regions:
            corners = {"xtl": look.x, "ytl": look.y, "xbr": look.x + look.width, "ybr": look.y + look.height}
            shapes.append(("box", {"label": POINTER, **common, **{key: str(value) for key, value in corners.items()}}))
        return shapes

    def add(self, image: ReviewImage, encoded: Any) -> None:
        about = {"id": str(self.count), "name": image.file, "width": str(image.width), "height": str(image.height)}
        entry = ElementTree.SubElement(self.root, "image", about)
        for kind, attributes in encoded:
            ElementTree.SubElement(entry, kind, attributes)
        self.count += 1

    def close(self) -> None:
        ElementTree.indent(self.root)
        buffer = io.BytesIO()
        ElementTree.ElementTree(self.root).write(buffer, "utf-8", xml_declaration=True)
        self.target.write("annotations.xml", buffer.getvalue())


def mask_of(part: Region) -> dict[str, str]:
    """CVAT's mask: run lengths of its box, row by row, the first one of what is outside."""
    flat = np.concatenate([[False], part.mask.reshape(-1), [not part.mask.reshape(-1)[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges]))
    height, width = part.mask.shape
    place = {"left": part.left, "top": part.top, "width": width, "height": height}
    return {"rle": ", ".join(map(str, runs.tolist())), **{key: str(value) for key, value in place.items()}}


def read(data: bytes, review: Review, annotator: str, when: datetime, empty: str) -> Iterator[Drawn]:
    """What annotations.xml says of each image; later shapes and higher z_order lie on top. when, empty: as in COCO.

    Raises UsageError for another file.
    """
    try:
        if b"<!ENTITY" in data:
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(data)
        if root.tag != "annotations":
            raise ValueError(f"its root is {root.tag}")
    except (ElementTree.ParseError, ValueError) as error:
        raise UsageError(f"--file is no annotations.xml of CVAT for images 1.1: {error}") from error
    who = annotator or root.findtext(".//assignee/username") or root.findtext(".//owner/username") or ""
    time = _time(root.findtext("./meta/dumped") or "", when)
    for entry in root.iter("image"):
        name = name_of(entry.get("name", ""))
        image = review.images.get(name)
        shapes = [shape for shape in entry if shape.get("label") != POINTER]
        if not shapes and empty == "skip":
            continue
        refused = image.refuses(entry.get("width"), entry.get("height")) if image else ""
        yield Drawn(name, who, time, _shapes(shapes, image) if image else (), refused)


def _shapes(shapes: list[ElementTree.Element], image: ReviewImage) -> tuple[Shape, ...]:
    def read(shape: ElementTree.Element) -> tuple[str, Mask]:
        return shape.attrib["label"], _mask(shape, image.size)

    lowest_first = sorted(shapes, key=lambda one: int(one.get("z_order", 0)))
    return tuple(Shape(f"a {shape.tag}", partial(read, shape)) for shape in lowest_first)


def _mask(shape: ElementTree.Element, size: tuple[int, int]) -> Mask:
    given = shape.attrib
    if shape.tag == "polygon":
        return fill([[float(v) for v in point.split(",")] for point in given["points"].split(";")], size)
    if shape.tag != "mask":
        raise ValueError("only masks and polygons are understood")
    left, top, width, height = (int(given[key]) for key in ("left", "top", "width", "height"))
    runs = [int(value) for value in given["rle"].split(",")]
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if len(flat) != width * height or left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"{len(flat)} pixels in a box of {width} x {height} at {left}, {top}")
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = flat.reshape(height, width)
    return whole


def _time(text: str, when: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return when
    return found if found.tzinfo else found.replace(tzinfo=UTC)
