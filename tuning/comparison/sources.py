"""Where class maps come from: rows of a label table, or a student that looks at photographs."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.metrics import expand_quarter
from pipelines.config import UsageError
from pipelines.evaluation.photographs import read_photograph
from pipelines.nightly import causes
from pipelines.stages.decide import read_png
from pipelines.tables.lookup import Lookup
from tuning.comparison.classes import Common, Indices, translate
from tuning.comparison.config import CompareConfig
from tuning.comparison.sides import Side, Snapshot

Picture = npt.NDArray[np.uint8]
COLUMNS = ("run_id", "uri", "class_map", "confidence", "keep_threshold", "evidence_key", *causes.COLUMNS)
#: Evidence guides are of this size, px; photographs that take their place are made as small.
PHOTO_PX = 384


@dataclass(frozen=True)
class Map:
    """One side's answer for one image. found: common class indices [H, W]. confidence: uint8 [ceil(H/4), ceil(W/4)] of
    labels, float32 [H, W] in 0..1 of students. keep_threshold: of labels, 0..1. row: of the label table."""

    found: Indices
    confidence: npt.NDArray[Any]
    keep_threshold: float | None = None
    row: Mapping[str, Any] | None = None

    def levels(self) -> npt.NDArray[np.uint8]:
        """Confidence at full size, uint8 [H, W], 0..255."""
        if self.keep_threshold is None:
            return (np.clip(self.confidence, 0, 1) * 255).round().astype(np.uint8)
        return expand_quarter(self.confidence, *self.found.shape).astype(np.uint8)

    def cause(self, before: "Map") -> str | None:
        """Why the label is not the one of before, and what of its inputs differs; None where a side does not say."""
        if before.row is None or self.row is None or not before.row["label_key"] or not self.row["label_key"]:
            return None
        why, inputs = causes.cause(before.row, self.row)
        return ": ".join([why, ", ".join(inputs)]) if inputs else why

    @property
    def mean_confidence(self) -> float:
        return float(self.confidence.mean()) / (1.0 if self.keep_threshold is None else 255.0)


class Source(Protocol):
    """Gives the maps of one side."""

    def maps(self, assets: Sequence[str], pictures: Sequence[Picture]) -> list[Map]:
        """Of these images; pictures: of the same, empty where no side needs them."""
        ...


class LabelSource:
    """Labels of a snapshot; `assets`: all that will be asked for."""

    def __init__(self, snapshot: Snapshot, common: Common, assets: Collection[str]) -> None:
        self.snapshot = snapshot
        self.lookup = Lookup(snapshot.table, COLUMNS, assets, snapshot.version)
        self._tables = {run_id: common.table(snapshot.runs[run_id].classes) for run_id in snapshot.run_ids}

    def maps(self, assets: Sequence[str], pictures: Sequence[Picture]) -> list[Map]:
        return [self._map(self.lookup[asset]) for asset in assets]

    def _map(self, row: dict[str, Any]) -> Map:
        found = translate(self._tables[row["run_id"]], read_png(row.pop("class_map")))
        return Map(found, read_png(row.pop("confidence")), row["keep_threshold"], row)

    def photo(self, row: Mapping[str, Any]) -> Picture:
        """The picture that the label is of: from its evidence, else from the photograph itself, else plain grey."""
        run = self.snapshot.runs[row["run_id"]]
        for stored in run.evidence([row["evidence_key"]]):
            return np.asarray(Image.open(io.BytesIO(stored["guide"])).convert("RGB"))
        try:
            small = Image.fromarray(read_photograph(row["uri"] or ""))
        except ValueError:
            return np.full((3, 4, 3), 128, np.uint8)
        small.thumbnail((PHOTO_PX, PHOTO_PX))
        return np.asarray(small)


class StudentSource:
    """A student's predictions."""

    def __init__(self, side: Side, predictor: Any, common: Common) -> None:
        from pipelines.evaluation.model import class_set

        self._predictor = predictor
        self._table = common.table(class_set(predictor.card))

    def maps(self, assets: Sequence[str], pictures: Sequence[Picture]) -> list[Map]:
        found = self._predictor.predict(pictures)
        return [Map(translate(self._table, one.class_map), one.confidence) for one in found]


def load_student(side: Side, config: CompareConfig) -> Any:
    """Its predictor. Raises UsageError where there is none, ValueError for a damaged one."""
    from models.students.predict import Predictor
    from pipelines.references import ModelReferenceError, resolve_student

    try:
        student = resolve_student(side.student or "", tracking_uri=config.tracking.uri)
        return Predictor.load(student.path, config.device, config.predict)
    except (ModelReferenceError, FileNotFoundError) as error:
        raise UsageError(f"{side.reference}: {error}") from error
