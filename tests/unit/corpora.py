"""Photographs in every layout, for the tests of the corpus readers."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.corpus.base import Asset, Corpus
from pipelines.corpus.open import open_corpus
from pipelines.corpus.read import read_bytes
from pipelines.corpus.sample import SampleCorpus


def options(corpus: str | Path, **given: Any) -> Any:
    """What `open_corpus` takes, everything else left at its default."""
    images = SimpleNamespace(column=given.pop("column", None), root=given.pop("root", None))
    return SimpleNamespace(
        **{"split": None, "weak": None, "weak_file": None, **given}, corpus=str(corpus), images=images
    )


def opened(corpus: str | Path, **given: Any) -> Corpus:
    return open_corpus(options(corpus, **given))


def assets(corpus: str | Path, **given: Any) -> list[Asset]:
    return list(opened(corpus, **given).list())


def photographs(count: int = 20) -> dict[str, bytes]:
    """Crops of the sample photographs as JPEG, by name."""
    whole = [Image.open(io.BytesIO(read_bytes(asset.uri))).convert("RGB") for asset in SampleCorpus().list()]
    rng = np.random.default_rng(0)
    found = {}
    for number in range(count):
        image = whole[number % len(whole)]
        x, y = (int(rng.integers(0, side - 100)) for side in image.size)
        buffer = io.BytesIO()
        image.crop((x, y, x + 96, y + 64 + number)).save(buffer, "JPEG")
        found[f"photo {number:02}.jpg"] = buffer.getvalue()
    return found


def write(root: str | Path, files: dict[str, bytes]) -> str:
    """Files below a folder or memory:// URL."""
    for name, data in files.items():
        if "://" in str(root):
            fsspec.filesystem("memory").pipe_file(f"{root}/{name}", data)
        else:
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return str(root)


def png(values: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mask(height: int = 64, width: int = 96) -> Any:
    """uint8 [H, W]: a cat (8) and a dog (12) on background, a void border (255) around the cat."""
    values = np.zeros((height, width), np.uint8)
    values[8:42, 8:42] = 255
    values[10:40, 10:40] = 8
    values[20:60, 60:90] = 12
    return values


def voc(
    root: str | Path, photos: dict[str, bytes], masks: dict[str, bytes], xml: dict[str, bytes] | None = None
) -> str:
    stems = [name.rpartition(".")[0] for name in photos]
    files = {f"JPEGImages/{name}": data for name, data in photos.items()}
    files |= {f"SegmentationClassAug/{name}": data for name, data in masks.items()}
    files |= {f"Annotations/{name}": data for name, data in (xml or {}).items()}
    files["ImageSets/Segmentation/all.txt"] = "\n".join(stems).encode()
    files["ImageSets/Segmentation/two.txt"] = "\n".join(reversed(stems[:2])).encode()
    return write(root, files)


def coco(path: Path, photos: dict[str, bytes], annotations: list[dict[str, Any]] | None = None) -> str:
    images = []
    for number, (name, data) in enumerate(photos.items()):
        width, height = Image.open(io.BytesIO(data)).size
        images.append({"id": number, "file_name": name, "width": width, "height": height, "license": 1})
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations or [], "categories": categories}))
    return str(path)


def parquet(path: Path, photos: dict[str, bytes], structs: bool = True, **columns: list[Any]) -> str:
    images = [{"bytes": data, "path": name} for name, data in photos.items()] if structs else list(photos.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=3)
    return str(path)
