"""The stage that asks SAM about classes: pictures and their class-free evidence to masks that belong to classes."""

import json
from dataclasses import dataclass
from typing import Any

from models import class_masks, evidence
from models.class_masks import ClassMasks
from models.decide.config import DecideConfig
from models.decide.decide import heat_to_ask
from models.decide.types import TextBank
from models.observe_config import HeatPromptConfig, ObserveConfig
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.stages.base import Record, StageSpec
from pipelines.stages.observe import ModelStage
from pipelines.stages.observers import Models
from pipelines.tables.evidence import MASKS, EvidenceStore

SPEC = StageSpec(
    name="heat",
    needs=("picture", "height", "width", "hints", "evidence_key"),
    adds=MASKS,
    drops=("picture",),
    pool="observe",
)

# The heat that asks is made with these settings whatever *decide* is told, so that tuning *decide* asks for nothing.
TEXT_MATCH = DecideConfig()


@dataclass(frozen=True)
class HeatStageConfig:
    """store: the class-free evidence. text: the class set's prompts, embedded."""

    store: EvidenceStore
    classes: ClassSet
    text: TextBank
    observe: ObserveConfig
    heat: HeatPromptConfig


class HeatStage(ModelStage):
    """Class heat from stored evidence prompts SAM on the picture; an image that is tiled is asked about as a whole."""

    def __init__(self, config: HeatStageConfig, models: Models, device: str) -> None:
        from models.sam.observer import SamObserver

        self.config = config
        self.classes = config.classes.arrays()
        self.sam = SamObserver(config.observe, models.path(models.sam), device)

    @staticmethod
    def hints(shard: str, evidence_key: str, weak: str) -> str:
        """What a record says of an image: where its class-free evidence is, and its weak labels (JSON, or "")."""
        return f"[{json.dumps(shard)},{json.dumps(evidence_key)},{weak or '{}'}]"

    def prepare(self, record: Record) -> Any:
        shard, key, said = json.loads(record["hints"])
        [stored] = self.config.store.read([(shard, key)])
        seen = evidence.decode(stored)
        weak, _ = weak_labels.validate(said, self.config.classes, (seen.height, seen.width))
        arrays = weak_labels.to_arrays(weak, self.config.classes, seen.height, seen.width)
        rows, heat = heat_to_ask(seen, self.config.text, self.classes, arrays, TEXT_MATCH)
        return self.sam.prepare(record["picture"]), heat, self.classes.ids[rows]

    def forward(self, prepared: list[Any]) -> Any:
        from models.sam.progressive import ask_by_heat

        answers = ask_by_heat(
            self.sam, [one for one, _, _ in prepared], [heat for _, heat, _ in prepared], self.config.heat
        )
        ids = [ids for _, _, ids in prepared]
        return [ClassMasks(bank, own[of]) for (bank, of), own in zip(answers, ids, strict=True)]

    def finish(self, raw: Any, records: list[Record]) -> None:
        for record, masks in zip(records, [class_masks.encode(found) for found in raw], strict=True):
            record.update(masks)
            record.pop("picture", None)
