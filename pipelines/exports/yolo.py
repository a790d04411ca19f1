"""YOLO-seg: images/SPLIT/, labels/SPLIT/ with a polygon a line, data.yaml."""

from typing import Any

import yaml

from pipelines.config import UsageError
from pipelines.exports.regions import outline
from pipelines.exports.writer import Item, Writer


class YoloWriter(Writer):
    """A line is `class x y x y ...`, shares of width and height. Classes count from 0 without gaps."""

    folders = ("images", "labels")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        try:
            import cv2  # noqa: F401
        except ImportError as error:
            raise UsageError("--to yolo needs OpenCV: pip install -c constraints.txt -e '.[formats]'") from error
        if self.config.instances == "classes":
            raise UsageError("--instances classes: a polygon is one connected part; leave it out for --to yolo")
        self.number_of = {entry.id: number for number, entry in enumerate(self.snapshot.classes.classes)}
        self.lines = self.left_out = self.specks = 0
        self.splits: set[str] = set()

    def encode(self, item: Item) -> Any:
        found, count = self.objects(item)
        drawn = sorted(found, key=lambda part: -part.area)[: self.config.max_regions]
        height, width = item.size
        lines = []
        for part in drawn:
            shares = outline(part) / (width, height)
            lines.append(" ".join([str(self.number_of[part.class_id]), *(f"{v:.7f}" for v in shares.reshape(-1))]))
        name, split = item.entry.name, item.split
        assert item.photograph is not None
        self.target.write(f"images/{split}/{name}.{item.photograph.suffix}", item.photograph.data)
        self.target.write(f"labels/{split}/{name}.txt", "".join(line + "\n" for line in lines).encode())
        return len(lines), len(found) - len(lines), count

    def add(self, item: Item, encoded: Any) -> None:
        self.lines += encoded[0]
        self.left_out += encoded[1]
        self.specks += encoded[2]
        self.splits.add(item.split)

    def close(self) -> dict[str, Any]:
        train = "train" if "train" in self.splits else "val"
        data = {
            # Without a `path`, which would be below the working directory, they lie beside this file.
            "train": f"images/{train}",
            # Trainers insist on a validation split.
            "val": "images/val" if "val" in self.splits else f"images/{train}",
            "names": {number: entry.name for number, entry in enumerate(self.snapshot.classes.classes)},
            "class_ids": {number: class_id for class_id, number in self.number_of.items()},
        }
        self.target.write("data.yaml", yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode())
        return {"objects": self.lines, "objects_left_out": self.left_out, "specks_left_out": self.specks}
