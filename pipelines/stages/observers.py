"""The model stages that observe: all models in one actor, or CLIP and SAM in pools of their own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from models import evidence
from models.evidence import Hints
from models.observe_config import ObserveConfig
from pipelines.references import resolve
from pipelines.stages.base import Record, StageSpec
from pipelines.stages.observe import ARRAY, ModelStage, PoolConfig, pool_columns
from pipelines.stages.read import ReadConfig
from pipelines.tables.evidence import DATA

EVIDENCE = tuple(n for n in DATA.names if n not in ("evidence_key", "digest", "mask_class", "schema_version"))

ALL_SPEC = StageSpec(
    name="observe",
    needs=("picture", "height", "width", "hints", "evidence_key"),
    adds=EVIDENCE,
    drops=("picture",),
    pool="observe",
)
CLIP_SPEC = StageSpec(
    name="clip", needs=("picture", "height", "width"), adds=("clip_features", "clip_embeddings"), pool="observe"
)
SAM_SPEC = StageSpec(
    name="sam",
    needs=("picture", "height", "width", "hints", "clip_features", "clip_embeddings", "evidence_key"),
    adds=EVIDENCE,
    drops=("picture", "clip_features", "clip_embeddings"),
    pool="sam",
)

# What the CLIP pool hands to the SAM pool: the picture, and what CLIP saw in each view of it.
BETWEEN = (
    pa.field("picture", ARRAY),
    pa.field("clip_features", pa.list_(ARRAY)),
    pa.field("clip_embeddings", pa.list_(ARRAY)),
    pa.field("hints", pa.string()),
)


@dataclass(frozen=True)
class Models:
    """Model references, and the content digests that they must have wherever an actor resolves them."""

    clip: str
    sam: str
    digests: dict[str, str]

    def path(self, reference: str) -> str:
        """Local path of a model on this machine.

        Raises:
            ValueError: the model here is not the one that the run was planned with.
        """
        found = resolve(reference)
        if found.digest != self.digests[reference]:
            raise ValueError(f"{reference} is another model on this machine ({found.digest[:12]}) than on the driver's")
        return str(found.path)


class ObserveAll(ModelStage):
    """CLIP and SAM on one device: picture to evidence."""

    def __init__(self, config: ObserveConfig, models: Models, device: str) -> None:
        from models.observe import Observer

        self.observer = Observer(config, models.path(models.clip), models.path(models.sam), device)

    def prepare(self, record: Record) -> Any:
        return self.observer.prepare(record["picture"], (record["height"], record["width"]), read_hints(record))

    def forward(self, prepared: list[Any]) -> Any:
        return self.observer.forward(prepared)

    def finish(self, raw: Any, records: list[Record]) -> None:
        # All are encoded before any record is changed: if one fails, the others can be done again alone.
        encoded = [evidence.encode(found) for found in self.observer.finish(raw)]
        for record, columns in zip(records, encoded, strict=True):
            record.update(columns)
            record.pop("picture", None)


class ClipStage(ModelStage):
    """CLIP alone: the picture stays for the next pool."""

    def __init__(self, config: ObserveConfig, models: Models, device: str) -> None:
        from models.observe import Observer

        self.observer = Observer(config, models.path(models.clip), None, device)

    def prepare(self, record: Record) -> Any:
        return self.observer.prepare(record["picture"], (record["height"], record["width"]), Hints.none())

    def forward(self, prepared: list[Any]) -> Any:
        return self.observer.forward_clip(prepared)

    def finish(self, raw: Any, records: list[Record]) -> None:
        for record, views in zip(records, raw, strict=True):
            record["clip_features"] = [view.features for view in views]
            record["clip_embeddings"] = [view.embedding for view in views]


class SamStage(ModelStage):
    """SAM alone, on what the CLIP pool saw."""

    def __init__(self, config: ObserveConfig, models: Models, device: str) -> None:
        from models.observe import Observer

        self.observer = Observer(config, None, models.path(models.sam), device)

    def prepare(self, record: Record) -> Any:
        from models.clip.observer import ClipSeen

        size = (record["height"], record["width"])
        prepared = self.observer.prepare(record["picture"], size, read_hints(record))
        views = zip(record["clip_features"], record["clip_embeddings"], strict=True)
        return prepared, tuple(ClipSeen(features, embedding) for features, embedding in views)

    def forward(self, prepared: list[Any]) -> Any:
        return self.observer.forward_sam([one for one, _ in prepared], [seen for _, seen in prepared])

    def finish(self, raw: Any, records: list[Record]) -> None:
        encoded = [evidence.encode(found) for found in self.observer.finish(raw)]
        for record, columns in zip(records, encoded, strict=True):
            record.update(columns)
            for name in ("picture", "clip_features", "clip_embeddings"):
                record.pop(name, None)


def read_hints(record: Record) -> Hints:
    """The class-free prompts of a record: JSON [points, boxes], or nothing."""
    if not record.get("hints"):
        return Hints.none()
    points, boxes = json.loads(record["hints"])
    return Hints(np.array(points, np.float32).reshape(-1, 2), np.array(boxes, np.float32).reshape(-1, 4))


def pools(
    kind: str, config: ObserveConfig, models: Models, device: str, read: ReadConfig, chunk_images: int, threads: int
) -> list[PoolConfig]:
    """The pools of a run. kind: joint (one pool holds all models) or split (one for each model)."""

    def pool(stage: Callable[..., ModelStage], read: ReadConfig | None, columns: pa.Schema) -> PoolConfig:
        return PoolConfig(partial(stage, config, models, device), read, columns, chunk_images, threads)

    if kind == "split":
        return [pool(ClipStage, read, pool_columns(*BETWEEN)), pool(SamStage, None, pool_columns())]
    return [pool(ObserveAll, read, pool_columns())]
