"""COCO as a tool's language: instances with RLE out, any COCO segmentation back; FiftyOne's has a layout of its own."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from pipelines.config import UsageError
from pipelines.exports.regions import regions, run_lengths
from pipelines.exports.snapshot import Ids
from pipelines.exports.writer import Spool, write_json
from pipelines.reviewing.review import Drawn, Mask, Review, ReviewImage, ReviewWriter, Shape, label_names, name_of


class CocoReviewWriter(ReviewWriter):
    """annotations/instances_default.json; image entries carry `regions` ([x, y, width, height]) and `value`."""

    path = "annotations/instances_default.json"
    crowd = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.entries, self.annotations = Spool(), Spool()
        names = label_names(self.review.classes)
        # Ids from 1; a background, which a person may want to paint, comes last.
        self.categories = [
            {"id": number, "name": name, "supercategory": "", "color": color}
            for number, (name, color) in enumerate(names, 1)
        ]
        self.number_of = {entry.id: number for number, entry in enumerate(self.review.classes.classes, 1)}

    def encode(self, image: ReviewImage, ids: Ids) -> Any:
        background = self.review.classes.background
        found = regions(ids, {background.id} if background else (), whole=False)
        return [(self.number_of[part.class_id], *run_lengths(part, image.size)) for part in found]

    def add(self, image: ReviewImage, encoded: Any) -> None:
        number = self.entries.count + 1
        about = {"asset": image.asset, "digest": image.digest, "value": image.value}
        look = [[region.x, region.y, region.width, region.height] for region in image.regions]
        size = {"height": image.height, "width": image.width}
        self.entries.add({"id": number, "file_name": image.file, **size, **about, "regions": look})
        for category, segmentation, box, area in encoded:
            self.annotations.add(
                {
                    "id": self.annotations.count + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": segmentation,
                    "bbox": box,
                    "area": area,
                    "iscrowd": self.crowd,
                }
            )

    def close(self) -> None:
        about = {"description": f"review of {self.review.labels}, snapshot {self.review.snapshot}"}
        lists = {"images": self.entries, "annotations": self.annotations}
        write_json(self.target, self.path, {"info": about, "licenses": [], "categories": self.categories}, lists)


class FiftyOneReviewWriter(CocoReviewWriter):
    """data/ and labels.json: `fiftyone.types.COCODetectionDataset` as `Dataset.from_dir` expects it."""

    path = "labels.json"
    images = "data"
    # It writes masks of crowds as they are, and all others as polygons, up to 2 pixels beside their edges.
    crowd = 1


def read(data: bytes, review: Review, annotator: str, when: datetime, empty: str) -> Iterator[Drawn]:
    """What the objects of a COCO file say of each image; larger ones lie below smaller ones.

    when: the time of the work, where the file does not say it. empty: "background" takes an image without objects as
    one that shows none, "skip" as one that nobody looked at.
    Raises UsageError for another file.
    """
    try:
        found = json.loads(data)
        categories = {entry["id"]: str(entry["name"]) for entry in found["categories"]}
        images = {entry["id"]: entry for entry in found["images"]}
        annotations: dict[Any, list[dict[str, Any]]] = {}
        for annotation in found["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--file is no COCO file with images, annotations and categories: {error!r}") from error
    info = found.get("info") or {}
    for number, entry in images.items():
        own = annotations.get(number, [])
        name = name_of(str(entry.get("file_name", "")))
        image = review.images.get(name)
        if not own and empty == "skip":
            continue
        refused = image.refuses(entry.get("width"), entry.get("height")) if image else ""
        who = annotator or str(info.get("contributor") or "")
        time = _time(str(info.get("date_created") or ""), when)
        yield Drawn(name, who, time, _shapes(own, categories, image) if image else (), refused)


def _shapes(annotations: list[dict[str, Any]], categories: dict[Any, str], image: ReviewImage) -> tuple[Shape, ...]:
    def read(annotation: dict[str, Any]) -> tuple[str, Mask]:
        return categories[annotation["category_id"]], _mask(annotation["segmentation"], image.size)

    largest_first = sorted(annotations, key=lambda one: -float(one.get("area") or 0))
    return tuple(Shape(f"annotation {one.get('id')}", partial(read, one)) for one in largest_first)


def _mask(segmentation: Any, size: tuple[int, int]) -> Mask:
    """bool [H, W] of polygons, or of compressed or uncompressed RLE. Raises ValueError for another size, or none."""
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        parts = [part for part in segmentation if len(part) >= 6]
        if not parts:
            raise ValueError("it has a box and no segmentation")
        whole = coco.merge(coco.frPyObjects(parts, *size))
    else:
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"its size is {segmentation['size']}, the image's {list(size)}")
        whole = coco.frPyObjects(segmentation, *size) if isinstance(segmentation["counts"], list) else segmentation
    return np.asarray(coco.decode(whole), bool)


def _time(text: str, when: datetime) -> datetime:
    for parse in (datetime.fromisoformat, lambda t: datetime.strptime(t, "%Y/%m/%d")):
        try:
            found = parse(text)
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return when
