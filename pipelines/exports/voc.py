"""PASCAL VOC: VOCdevkit/VOC2012 with JPEGImages, SegmentationClass as palette PNGs, ImageSets, labelmap.txt."""

import io
from typing import Any

import numpy as np
from PIL import Image

from pipelines.config import UsageError
from pipelines.exports.snapshot import VOID
from pipelines.exports.writer import Item, Writer, entries_of

ROOT = "VOCdevkit/VOC2012"
VOID_ID, VOID_COLOR = 255, (224, 224, 192)


class VocWriter(Writer):
    """Values of the PNGs are the class ids; 255 is void, as in VOC."""

    only_jpeg = True
    folders = (f"{ROOT}/JPEGImages", f"{ROOT}/SegmentationClass")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.entries = entries_of(self.snapshot.classes)
        if (highest := max(i for i, *_ in self.entries)) >= VOID_ID:
            raise UsageError(
                f"VOC masks hold the ids 0..254, and a class has the id {highest}: --to huggingface or coco hold it"
            )
        self.palette = np.zeros((256, 3), np.uint8)
        for class_id, _, color in self.entries:
            self.palette[class_id] = color
        self.palette[VOID_ID] = VOID_COLOR
        self.names: dict[str, list[str]] = {"train": [], "val": []}

    def encode(self, item: Item) -> Any:
        assert item.photograph is not None
        self.target.write(f"{ROOT}/JPEGImages/{item.entry.name}.jpg", item.photograph.data)
        values = np.where(item.ids == VOID, VOID_ID, item.ids).astype(np.uint8)
        self.target.write(f"{ROOT}/SegmentationClass/{item.entry.name}.png", palette_png(values, self.palette))

    def add(self, item: Item, encoded: Any) -> None:
        self.names[item.split].append(item.entry.name)

    def close(self) -> dict[str, Any]:
        self.names["trainval"] = [*self.names["train"], *self.names["val"]]
        for split, names in self.names.items():
            text = "".join(f"{name}\n" for name in sorted(names))
            self.target.write(f"{ROOT}/ImageSets/Segmentation/{split}.txt", text.encode())
        # How datumaro and CVAT learn what the colours mean.
        lines = ["# label:color_rgb:parts:actions"]
        lines += [f"{plain(name)}:{','.join(map(str, color))}::" for _, name, color in self.entries]
        if self.config.keep != "all":
            # A colour that is in the masks and not in the list is refused.
            lines.append(f"ignored:{','.join(map(str, VOID_COLOR))}::")
        self.target.write(f"{ROOT}/labelmap.txt", "".join(f"{line}\n" for line in lines).encode())
        return {"train": len(self.names["train"]), "val": len(self.names["val"])}


def plain(name: str) -> str:
    """A name for a file whose fields are parted by colons."""
    return name.replace(":", "_").replace("\n", " ")


def palette_png(values: Any, palette: Any) -> bytes:
    """A lossless PNG of uint8 [H, W] with a palette, uint8 [256, 3]."""
    image = Image.fromarray(np.ascontiguousarray(values))
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
