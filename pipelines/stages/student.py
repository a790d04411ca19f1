"""The stages that ask trained networks: pictures to one soft mask for each class that they know. Here, a student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models import class_masks
from models.class_masks import ClassMasks, MadeBy
from models.evidence import MASK_SOURCES, MaskBank
from pipelines.references import resolve_student
from pipelines.stages.base import Record, StageSpec
from pipelines.stages.observe import ModelStage
from pipelines.tables.evidence import MASKS

MASK_PX = 96  # longer side of the stored masks, as of the class-free bank's

SPEC = StageSpec(name="student", needs=("picture", "evidence_key"), adds=MASKS, drops=("picture",), pool="observe")
Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NetworkStageConfig:
    """reference: of the network; digest: the content that it must have wherever an actor resolves it."""

    reference: str
    digest: str
    tracking_uri: str

    def check(self, digest: str, kind: str) -> None:
        if digest != self.digest:
            raise ValueError(f"{self.reference} is another {kind} on this machine than on the driver's")


class NetworkStage(ModelStage):
    """What a network sees, kept small. made_by: its kind. ids: the classes that it knows, as its own card has them."""

    made_by: MadeBy
    ids: npt.NDArray[np.int32]

    def prepare(self, record: Record) -> Any:
        return record["picture"]

    def forward(self, prepared: list[Any]) -> Any:
        return [self.look(picture) for picture in prepared]

    def look(self, picture: npt.NDArray[np.uint8]) -> tuple[Maps, Maps]:
        """A map [h, w], 0..1, of each of `ids`, and float32 [C], 0..1, how much each is to be believed."""
        raise NotImplementedError

    def finish(self, raw: Sequence[tuple[Maps, Maps]], records: list[Record]) -> None:
        for record, (maps, quality) in zip(records, raw, strict=True):
            probs = np.stack([_reduced(one) for one in maps])
            source = np.full(len(probs), MASK_SOURCES.index(self.made_by), np.uint8)
            bank = MaskBank(probs, quality, np.ones(len(probs), np.float32), source)
            record.update(class_masks.encode(ClassMasks(bank, self.ids)))
            record.pop("picture", None)


class StudentStage(NetworkStage):
    """A student's probabilities."""

    made_by = "student"

    def __init__(self, config: NetworkStageConfig, device: str) -> None:
        from models.students.predict import Predictor

        found = resolve_student(config.reference, tracking_uri=config.tracking_uri)
        config.check(found.digest, "student")
        self.predictor = Predictor.load(found.path, device)
        card = self.predictor.card
        self.channels = range(1 if card.background else 0, len(card.classes))
        self.ids = np.array(card.ids, np.int32)[list(self.channels)]

    def forward(self, prepared: list[Any]) -> Any:
        ones = np.ones(len(self.channels), np.float32)
        return [(found[self.channels.start :], ones) for found in self.predictor.probabilities(prepared)]


def _reduced(grid: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A map [h, w] of 0..1 as uint8, its longer side at most MASK_PX."""
    image = Image.fromarray(np.ascontiguousarray(grid, np.float32))
    scale = min(1.0, MASK_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.resize(size, Image.Resampling.BOX))
    return np.asarray(np.rint(small.clip(0, 1) * 255), np.uint8)
