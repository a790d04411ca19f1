"""COCO: instances_SPLIT.json (objects as RLE), and panoptic_SPLIT.json with a PNG of segment ids for every image."""

import io
from typing import Any

import numpy as np
from PIL import Image

from pipelines.exports.regions import Region, merge_smallest, run_lengths
from pipelines.exports.snapshot import VOID, Snapshot
from pipelines.exports.writer import Item, Spool, Target, Writer, entries_of, write_json


def category_ids(snapshot: Snapshot) -> dict[int, int]:
    """Class id to category id. They are the same, unless an id is 0: COCO's ids begin with 1."""
    ids = [entry.id for entry in snapshot.classes.classes]
    shift = 1 if min(ids) == 0 else 0
    return {class_id: class_id + shift for class_id in ids}


def head(snapshot: Snapshot) -> dict[str, Any]:
    """The part of a COCO file that is not about images. `class_id` leads back where category ids are others."""
    category_of = category_ids(snapshot)
    parents = {entry.id: entry.parent for entry in snapshot.classes.classes}
    categories = [
        {"id": category_of[i], "name": name, "supercategory": parents[i] or "", "class_id": i, "color": list(color)}
        for i, name, color in entries_of(snapshot.classes)
        if i in category_of
    ]
    about = f"labels of {snapshot.run.config.corpus}, snapshot {snapshot.version}"
    return {"info": {"description": about, "version": str(snapshot.version)}, "licenses": [], "categories": categories}


class Lists:
    """The images and annotations of one split."""

    def __init__(self) -> None:
        self.images, self.annotations = Spool(), Spool()

    def write(self, target: Target, path: str, first: dict[str, Any]) -> None:
        write_json(target, path, first, {"images": self.images, "annotations": self.annotations})


class ObjectWriter(Writer):
    """What both kinds of COCO share."""

    def merged(self, item: Item) -> tuple[list[Region], int]:
        """The objects, of many the smallest of a class as one, and how many parts were too small."""
        found, left_out = self.objects(item)
        return merge_smallest(found, self.config.max_regions, item.size), left_out


class CocoWriter(ObjectWriter):
    """annotations/instances_SPLIT.json, images/."""

    lists = ("annotations/instances_train.json", "annotations/instances_val.json")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.needs_photographs = self.config.images == "copy"
        self.category_of = category_ids(self.snapshot)
        self.written: dict[str, Lists] = {}
        self.left_out = 0

    def encode(self, item: Item) -> Any:
        copy_photograph(self, item)
        found, left_out = self.merged(item)
        return [(self.category_of[part.class_id], *run_lengths(part, item.size)) for part in found], left_out

    def add(self, item: Item, encoded: Any) -> None:
        lists = self.written.setdefault(item.split, Lists())
        lists.images.add(image_entry(item))
        drawn, left_out = encoded
        self.left_out += left_out
        for category, segmentation, box, area in drawn:
            lists.annotations.add(
                {
                    "id": lists.annotations.count + 1,
                    "image_id": item.entry.number,
                    "category_id": category,
                    "segmentation": segmentation,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                }
            )

    def close(self) -> dict[str, Any]:
        for split, lists in self.written.items():
            lists.write(self.target, f"annotations/instances_{split}.json", head(self.snapshot))
        annotations = sum(lists.annotations.count for lists in self.written.values())
        return {"annotations": annotations, "specks_left_out": self.left_out}


class PanopticWriter(ObjectWriter):
    """annotations/panoptic_SPLIT.json and annotations/panoptic_SPLIT/*.png, images/. What belongs to no class is 0,
    COCO's void."""

    lists = ("annotations/panoptic_train.json", "annotations/panoptic_val.json")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.needs_photographs = self.config.images == "copy"
        self.category_of = category_ids(self.snapshot)
        self.written: dict[str, Lists] = {}
        self.segments = self.left_out = 0

    def encode(self, item: Item) -> Any:
        copy_photograph(self, item)
        segment_ids = np.zeros(item.size, np.uint32)
        segments = []
        found, left_out = self.merged(item)
        for number, part in enumerate(found, 1):
            height, width = part.mask.shape
            segment_ids[part.top : part.top + height, part.left : part.left + width][part.mask] = number
            _, box, area = run_lengths(part, item.size)
            category = self.category_of[part.class_id]
            segments.append({"id": number, "category_id": category, "bbox": box, "area": area, "iscrowd": 0})
        self.target.write(f"annotations/panoptic_{item.split}/{item.entry.name}.png", segment_png(segment_ids))
        return segments, left_out

    def add(self, item: Item, encoded: Any) -> None:
        lists = self.written.setdefault(item.split, Lists())
        lists.images.add(image_entry(item))
        segments, left_out = encoded
        self.segments += len(segments)
        self.left_out += left_out
        name = f"{item.entry.name}.png"
        lists.annotations.add({"image_id": item.entry.number, "file_name": name, "segments_info": segments})

    def close(self) -> dict[str, Any]:
        first = head(self.snapshot)
        thing = int(self.config.instances != "classes")
        first["categories"] = [{**category, "isthing": thing} for category in first["categories"]]
        for split, lists in self.written.items():
            lists.write(self.target, f"annotations/panoptic_{split}.json", first)
        return {"segments": self.segments, "specks_left_out": self.left_out}


def image_entry(item: Item) -> dict[str, Any]:
    """An entry of `images`: a copy is named by its file below images/, all others by their place in the corpus."""
    copied = item.photograph is not None
    name = f"{item.entry.name}.{item.photograph.suffix}" if item.photograph else item.entry.asset
    height, width = item.size
    entry = {"id": item.entry.number, "file_name": name, "height": height, "width": width}
    about = {"asset": item.entry.asset, "digest": item.entry.digest}
    return entry | about | ({} if copied else {"uri": item.entry.uri})


def copy_photograph(writer: Writer, item: Item) -> None:
    if item.photograph is not None:
        writer.target.write(f"images/{item.entry.name}.{item.photograph.suffix}", item.photograph.data)


def segment_png(segment_ids: Any) -> bytes:
    """Segment ids, uint32 [H, W], as the RGB PNG of COCO panoptic: id = R + 256 G + 65536 B."""
    assert VOID < 0 <= int(segment_ids.max(initial=0)) < 1 << 24
    channels = np.stack([segment_ids & 255, segment_ids >> 8 & 255, segment_ids >> 16], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(channels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
