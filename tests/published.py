"""Published labels and gold masks, small enough to count by hand."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from pipelines.classes import ClassSet
from pipelines.config import LabelConfig
from pipelines.stages.decide import png
from pipelines.tables.labels import SCHEMA, LabelTable

CLASSES = ClassSet.from_dict([{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}])


def publish(
    output: Path,
    maps: Mapping[str, list[list[int]]],
    run_id: str = "r1",
    classes: ClassSet = CLASSES,
    uris: Mapping[str, str] | None = None,
) -> None:
    """Label rows as the job writes them; every left half is sure, every right half is not."""
    rows = []
    for asset, ids in maps.items():
        class_map = np.array(ids, np.uint8)
        height, width = class_map.shape
        confidence = np.full((-(-height // 4), -(-width // 4)), 50, np.uint8)
        confidence[:, : confidence.shape[1] // 2] = 250
        rows.append(
            {
                **dict.fromkeys(SCHEMA.names),
                "asset": asset,
                "uri": (uris or {}).get(asset),
                "sequence": LabelTable(str(output / "labels")).next_sequence(),
                "removed": False,
                "class_map": png(class_map),
                "confidence": png(confidence),
                "keep_threshold": 0.5,
                "evidence_key": asset,
                "run_id": run_id,
                "created_at": datetime.now(UTC),
            }
        )
    LabelTable(str(output / "labels")).append(f"{run_id}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    run = output / "runs" / run_id
    run.mkdir(parents=True)
    config = LabelConfig(corpus="photos", output=str(output)).model_dump(mode="json")
    (run / "config.yaml").write_text(
        yaml.safe_dump({**config, "digests": {"observe_id": "o", "models": {"clip": "c"}}})
    )
    (run / "classes.yaml").write_text(yaml.safe_dump(classes.to_dict()))


def write_gold(folder: Path, maps: dict[str, list[list[int]]]) -> None:
    folder.mkdir()
    for name, ids in maps.items():
        Image.fromarray(np.array(ids, np.uint8)).save(folder / f"{name}.png")


def rectangle(left: int, right: int) -> list[list[int]]:
    return [[left] * 4 + [right] * 4] * 4
