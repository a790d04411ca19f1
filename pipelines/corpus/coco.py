"""`coco:PATH_OR_URL/instances.json`: the COCO layout, one JSON file and images beside it.

`--images.root` says where the images are; without it they are looked for beside the file. Categories are the default
class set, with their ids. Its annotation is complete, so weak labels are made from it, of those forms only that are
asked for: tags, boxes, and (partial) the maps of its segmentations, where unannotated pixels say nothing; points,
scribbles and noisy maps from these maps with a fixed seed; `captions`, where annotations have one.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.classes import ClassSet, ClassSetError
from pipelines.corpus.base import Asset, Corpus, CorpusError, absolute, facts, join, kind, walk
from pipelines.corpus.read import read_bytes
from pipelines.corpus.simulate import map_entry, simulate


class CocoCorpus(Corpus):
    """The images of a COCO file, in its order. Raises CorpusError for a file or images that are not there.

    forms: the weak-label forms to make (pipelines.weak.FORMS).
    """

    def __init__(
        self, address: str, images_root: str | None = None, forms: tuple[str, ...] = (), seed: int = 0
    ) -> None:
        self.file = absolute(address)
        self.forms, self.seed = forms, seed
        self._images, self._categories, annotations = self._load()
        self._annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in annotations if forms else ():
            self._annotations[annotation.get("image_id")].append(annotation)
        self.root = absolute(images_root) if images_root else self._find_images()

    def _load(self) -> tuple[list[dict[str, Any]], dict[int, str], list[dict[str, Any]]]:
        try:
            data = json.loads(read_bytes(self.file))
            images, annotations = data["images"], data.get("annotations", [])
            categories = {int(entry["id"]): str(entry["name"]) for entry in data.get("categories", [])}
            for image in images:
                _ = image["id"], image["file_name"]
        except FileNotFoundError as error:
            raise CorpusError(f"there is no COCO file at {self.file}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(f"{self.file} is not a COCO file with `images`: {error!r}") from error
        return images, categories, annotations

    def _find_images(self) -> str:
        """The folder, of the usual ones, that holds the first image."""
        here = self.file.rpartition("/")[0]
        up = here.rpartition("/")[0]
        if not self._images:
            return here
        name = self._images[0]["file_name"]
        split = self.file.rpartition("/")[2].removesuffix(".json").rpartition("_")[2]
        places = [here, join(here, "images"), join(here, split), up, join(up, "images"), join(up, split)]
        places.append(join(up, f"images/{split}"))
        for place in places:
            if kind(join(place, name)) == "file":
                return place
        raise CorpusError(f"{name} is in none of {', '.join(places)}: say where the images are with --images.root")

    def default_classes(self) -> ClassSet | None:
        if not self._categories:
            return None
        try:
            return ClassSet.from_dict({"classes": [{"id": i, "name": n} for i, n in self._categories.items()]})
        except ClassSetError as error:
            raise CorpusError(f"the categories of {self.file} are no class set: {error}; give --classes") from error

    @cached_property
    def _files(self) -> dict[str, tuple[int, str]]:
        """Size and mtag of every image, from one listing rather than one request each."""
        return {entry.path: (entry.size_bytes, entry.mtag) for entry in walk(self.root)}

    def list(self) -> Iterator[Asset]:
        seen = set()
        for image in self._images:
            name = image["file_name"]
            if name in seen:
                raise CorpusError(f"{self.file} lists the image {name!r} twice")
            seen.add(name)
            uri = join(self.root, name)
            size_bytes, mtag = self._files.get(name) or facts(uri)
            tags = {"license": str(image["license"])} if "license" in image else {}
            yield Asset(name, uri, size_bytes, mtag, self._weak(image) if self.forms else {}, tags)

    def _weak(self, image: dict[str, Any]) -> dict[str, Any]:
        annotations = [a for a in self._annotations[image["id"]] if a.get("category_id") in self._categories]
        weak: dict[str, Any] = {"unknown_classes": "ignore"}
        if "captions" in self.forms:
            weak["captions"] = [a["caption"] for a in self._annotations[image["id"]] if a.get("caption")]
        if "tags" in self.forms:
            shown = {a["category_id"] for a in annotations}
            weak["tags"] = [{"class": name, "present": i in shown} for i, name in sorted(self._categories.items())]
        if "boxes" in self.forms:
            weak["boxes"] = [
                {"box": [x, y, x + w, y + h], "class": self._categories[a["category_id"]]}
                for a in annotations
                if not a.get("iscrowd")
                for x, y, w, h in [a.get("bbox") or (0, 0, 0, 0)]
            ]
        if drawn := [form for form in self.forms if form not in ("tags", "boxes", "captions")]:
            try:
                mask = self._mask(image, annotations)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                return weak | {"problems": [f"the segmentation cannot be read: {error!r}"]}
            weak |= simulate(
                mask, self._categories, image["file_name"], [f for f in drawn if f != "partial"], self.seed
            )
            if "partial" in drawn and (mask >= 0).any():
                weak["maps"] = [map_entry("partial", mask, self._categories), *weak.get("maps", [])]
        return weak

    def _mask(self, image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> npt.NDArray[np.int32]:
        """int32 [H, W] of category ids, -1 where no annotation is; smaller objects lie on top of larger ones."""
        from pycocotools import mask as rle

        height, width = int(image["height"]), int(image["width"])
        mask = np.full((height, width), -1, np.int32)
        for annotation in sorted(annotations, key=lambda a: -float(a.get("area", 0))):
            shape = annotation.get("segmentation")
            if not shape:
                continue
            if isinstance(shape, list):
                shape = rle.merge(rle.frPyObjects(shape, height, width))
            elif isinstance(shape["counts"], list):
                shape = rle.frPyObjects(shape, height, width)
            mask[rle.decode(shape).astype(bool)] = annotation["category_id"]
        return mask
