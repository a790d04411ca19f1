"""The stage that asks a student: pictures to one soft mask for each class that it knows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models import class_masks
from models.class_masks import ClassMasks
from models.evidence import MASK_SOURCES, MaskBank
from pipelines.references import resolve_student
from pipelines.stages.base import Record, StageSpec
from pipelines.stages.observe import ModelStage
from pipelines.tables.evidence import MASKS

MASK_PX = 96  # longer side of the stored masks, as of the class-free bank's

SPEC = StageSpec(name="student", needs=("picture", "evidence_key"), adds=MASKS, drops=("picture",), pool="observe")


@dataclass(frozen=True)
class StudentStageConfig:
    """reference: of the student; digest: the content that it must have wherever an actor resolves it."""

    reference: str
    digest: str
    tracking_uri: str


class StudentStage(ModelStage):
    """A student's probabilities, kept small; classes have the ids of the student's own card."""

    def __init__(self, config: StudentStageConfig, device: str) -> None:
        from models.students.predict import Predictor

        found = resolve_student(config.reference, tracking_uri=config.tracking_uri)
        if found.digest != config.digest:
            raise ValueError(f"{config.reference} is another student on this machine than on the driver's")
        self.predictor = Predictor.load(found.path, device)
        card = self.predictor.card
        self.channels = range(1 if card.background else 0, len(card.classes))
        self.ids = np.array(card.ids, np.int32)[list(self.channels)]

    def prepare(self, record: Record) -> Any:
        return record["picture"]

    def forward(self, prepared: list[Any]) -> Any:
        return self.predictor.probabilities(prepared)

    def finish(self, raw: Any, records: list[Record]) -> None:
        for record, probabilities in zip(records, raw, strict=True):
            probs = np.stack([_reduced(probabilities[channel]) for channel in self.channels])
            ones = np.ones(len(probs), np.float32)
            source = np.full(len(probs), MASK_SOURCES.index("student"), np.uint8)
            record.update(class_masks.encode(ClassMasks(MaskBank(probs, ones, ones, source), self.ids)))
            record.pop("picture", None)


def _reduced(grid: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A map [h, w] of 0..1 as uint8, its longer side at most MASK_PX."""
    image = Image.fromarray(np.ascontiguousarray(grid, np.float32))
    scale = min(1.0, MASK_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.resize(size, Image.Resampling.BOX))
    return np.asarray(np.rint(small.clip(0, 1) * 255), np.uint8)
