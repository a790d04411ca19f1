"""A small corpus with published labels, as label_corpus.py leaves them, without running it."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from corpora import photographs
from PIL import Image

from pipelines.classes import ClassSet
from pipelines.config import LabelConfig
from pipelines.tables.labels import SCHEMA, LabelTable
from pipelines.tables.pictures import png

RUN_ID = "20261101-000000-abcdef"
NAMES = ("plain.jpg", "sub/with space & ü.jpg", "on its side.jpg", "grey.png", "odd.gif", "plain.png")


@dataclass
class Scene:
    """output: of the labels. corpus: folder of the images. maps: class ids [H, W] by asset."""

    output: Path
    corpus: Path
    classes: ClassSet
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def labels(self) -> LabelTable:
        return LabelTable(str(self.output / "labels"))


def class_map(height: int, width: int, ids: list[int], seed: int) -> np.ndarray:
    """Blobs of the ids, with holes, single pixels, lines one pixel wide, and parts that touch at a corner."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width), ids[0], np.uint8 if max(ids) < 256 else np.uint16)
    for class_id in ids[1:]:
        top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
        out[top : top + height // 3, left : left + width // 3] = class_id
        out[top + 4 : top + 9, left + 5 : left + 12] = ids[0]
        out[top + 6, left + 7] = class_id
    out[height - 1, :10] = ids[1]
    out[np.arange(5), width - 6 + np.arange(5)] = ids[-1]
    out[rng.random((height, width)) < 0.005] = ids[-1]
    return out


def make_scene(folder: Path, classes: object = "cat, dog", names: tuple[str, ...] = NAMES) -> Scene:
    scene = Scene(folder / "out", folder / "photos", ClassSet.load(classes))  # type: ignore[arg-type]
    ids = ([scene.classes.background.id] if scene.classes.background else []) + [e.id for e in scene.classes.classes]
    rows = []
    for number, (name, data) in enumerate(zip(names, photographs(len(names)).values(), strict=True)):
        path = scene.corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_as(name, data))
        with Image.open(path) as image:
            width, height = image.size[::-1] if name.startswith("on its side") else image.size
        scene.maps[name] = class_map(height, width, ids, number)
        rows.append(label_row(scene, name, number))
    scene.labels.append("part-1.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    config = LabelConfig(corpus=str(scene.corpus), output=str(scene.output), classes="cat, dog")
    digests = {"observe_id": "o" * 64, "decide_digest": "d", "class_set_digest": "c", "models": {"clip": "m"}}
    run = scene.output / "runs" / RUN_ID
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({**config.model_dump(mode="json"), "digests": digests}))
    (run / "classes.yaml").write_text(yaml.safe_dump(scene.classes.to_dict()))
    return scene


def _as(name: str, data: bytes) -> bytes:
    """The photograph in the format of its name; one of them is stored on its side."""
    image, buffer = Image.open(io.BytesIO(data)), io.BytesIO()
    if name.startswith("on its side"):
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(buffer, "JPEG", exif=exif)
    elif name.endswith(".jpg"):
        return data
    else:
        image.convert("L" if "grey" in name else "P" if "odd" in name else "RGB").save(buffer, name[-3:].upper())
    return buffer.getvalue()


def label_row(scene: Scene, asset: str, number: int, **given: object) -> dict[str, Any]:
    """A row of the label table; confidence is high on the left."""
    ids = scene.maps[asset]
    height, width = ids.shape
    quarter = (-(-height // 4), -(-width // 4))
    confidence = np.linspace(250, 20, quarter[1]).astype(np.uint8) * np.ones((quarter[0], 1), np.uint8)
    path = scene.corpus / asset
    row: dict[str, Any] = {
        **dict.fromkeys(SCHEMA.names),
        "asset": asset, "uri": str(path), "digest": hashlib.sha256(path.read_bytes()).hexdigest(), "sequence": 1,
        "removed": False, "height": height, "width": width, "class_map": png(ids), "confidence": png(confidence),
        "provenance": png(np.ones(quarter, np.uint8)), "keep_threshold": 0.5, "coverage": 0.6,
        "mean_confidence": float(confidence.mean()) / 255, "disagreement": 0.1 * number, "evidence_key": f"e{number}",
        "class_set_digest": scene.classes.digest, "label_key": f"k{number}", "run_id": RUN_ID,
        "areas": [
            {"class_id": int(i), "name": str(i), "area": float((ids == i).mean()), "kept": 0.0} for i in np.unique(ids)
        ],
    }  # fmt: skip
    return row | given
