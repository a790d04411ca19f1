"""`voc:PATH_OR_URL`: the PASCAL VOC layout.

    JPEGImages/NAME.jpg  ImageSets/Segmentation/SPLIT.txt  SegmentationClassAug/NAME.png (or SegmentationClass/)
    Annotations/NAME.xml

Its annotation is complete, so weak labels are made from it, of those forms only that are asked for: tags from the
classes in the mask (or the XML), boxes from the XML (or the mask), the rest from the mask with a fixed seed.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.classes import ClassSet
from pipelines.corpus.base import UNKNOWN_SIZE, Asset, Corpus, CorpusError, Entry, absolute, join, kind, walk
from pipelines.corpus.read import read_bytes
from pipelines.corpus.simulate import simulate
from pipelines.corpus.voc_xml import parse_objects

SPLITS = "ImageSets/Segmentation"
MASKS = ("SegmentationClassAug", "SegmentationClass")
IGNORED = 255


class VocCorpus(Corpus):
    """The images of a split, in its order; without a split all of JPEGImages.

    forms: the weak-label forms to make (pipelines.weak.FORMS). Raises CorpusError for a missing folder or split.
    """

    def __init__(self, address: str, split: str | None = None, forms: tuple[str, ...] = (), seed: int = 0) -> None:
        self.root = absolute(address)
        self.split, self.forms, self.seed = split, forms, seed
        if kind(join(self.root, "JPEGImages")) != "folder":
            raise CorpusError(f"{self.root} is not a VOC layout: it has no folder JPEGImages")
        self._split_names = self._read_split(split) if split is not None else None
        self._names = {entry.id: entry.name for entry in self.default_classes().classes} | {0: "background"}

    def default_classes(self) -> ClassSet:
        return ClassSet.load("voc")

    def splits(self) -> list[str]:
        """Names that `split` can take."""
        folder = join(self.root, SPLITS)
        if kind(folder) != "folder":
            return []
        return sorted(entry.path[:-4] for entry in walk(folder) if entry.path.endswith(".txt"))

    def _read_split(self, split: str) -> list[str]:
        try:
            text = read_bytes(join(self.root, f"{SPLITS}/{split}.txt")).decode("utf-8")
        except FileNotFoundError as error:
            known = ", ".join(self.splits()) or "none"
            raise CorpusError(f"{self.root} has no split {split!r}; its splits: {known}") from error
        return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))

    def list(self) -> Iterator[Asset]:
        images = {entry.path: entry for entry in walk(join(self.root, "JPEGImages"))}
        masks = self._masks() if self.forms else {}
        for entry in images.values() if self._split_names is None else self._of_split(images, self._split_names):
            stem = _stem(entry.path)
            weak = self._weak(stem, masks.get(stem)) if self.forms else {}
            yield Asset(f"JPEGImages/{entry.path}", entry.uri, entry.size_bytes, entry.mtag, weak)

    def _of_split(self, images: Mapping[str, Entry], names: Iterable[str]) -> Iterator[Entry]:
        by_stem = {_stem(path): entry for path, entry in images.items()}
        for name in names:
            # a split line may carry more than the name ("2007_000033  1")
            stem = name if name in by_stem else name.split()[0]
            yield by_stem.get(stem) or Entry(f"{stem}.jpg", join(self.root, f"JPEGImages/{stem}.jpg"), UNKNOWN_SIZE, "")

    def _masks(self) -> dict[str, str]:
        """Image name -> address of its mask; the augmented masks come first."""
        found: dict[str, str] = {}
        for folder in MASKS:
            address = join(self.root, folder)
            if kind(address) == "folder":
                found = {_stem(entry.path): entry.uri for entry in walk(address)} | found
        return found

    def _weak(self, stem: str, mask_uri: str | None) -> dict[str, Any]:
        weak: dict[str, Any] = {"unknown_classes": "ignore"}
        if mask_uri is not None:
            try:
                weak |= simulate(self._mask(mask_uri), self._names, stem, self.forms, self.seed)
            except (OSError, ValueError) as error:
                weak["problems"] = [f"the mask {mask_uri} cannot be read: {error}"]
        if "boxes" in self.forms or ("tags" in self.forms and mask_uri is None):
            weak |= self._from_xml(stem, mask_uri is None)
        return weak if len(weak) > 1 else {}

    def _mask(self, uri: str) -> npt.NDArray[np.int32]:
        with Image.open(io.BytesIO(read_bytes(uri))) as image:
            mask = np.array(image)
        if mask.ndim != 2:
            raise ValueError(f"it is not one class id a pixel: shape {mask.shape}")
        return np.where(mask == IGNORED, -1, mask).astype(np.int32)

    def _from_xml(self, stem: str, with_tags: bool) -> dict[str, Any]:
        try:
            data = read_bytes(join(self.root, f"Annotations/{stem}.xml"))
        except FileNotFoundError:
            return {}
        try:
            objects = parse_objects(data)
        except ValueError as error:
            return {"problems": [f"Annotations/{stem}.xml cannot be read: {error}"]}
        found: dict[str, Any] = {}
        if "boxes" in self.forms:
            found["boxes"] = [{"box": box, "class": name} for name, box in objects if box is not None]
        if with_tags and "tags" in self.forms:
            shown = {name for name, _ in objects}
            found["tags"] = [{"class": n, "present": n in shown} for i, n in sorted(self._names.items()) if i]
        return found


def _stem(path: str) -> str:
    """ "sub/2007_000033.jpg" -> "sub/2007_000033"."""
    return path.rpartition(".")[0] or path
