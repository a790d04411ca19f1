"""What a published label row came from: the config and class set of its run, its evidence, and text embeddings."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from models.decide.types import TextBank
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError
from pipelines.learned import taught
from pipelines.references import resolve
from pipelines.tables.evidence import EvidenceStore
from pipelines.text import KNOWLEDGE, NOTHING, Knowledge, text_bank


@dataclass
class PastRun:
    """One run that wrote labels, as its folder describes it."""

    output: str
    config: LabelConfig
    classes: ClassSet
    observe_id: str
    clip_digest: str
    head_digest: str = ""
    knowledge: Knowledge = NOTHING

    @classmethod
    def load(cls, output: str, run_id: str) -> "PastRun":
        """Raises UsageError where the run's folder is gone."""
        folder = storage.join(output, "runs", run_id)
        try:
            config = yaml.safe_load(storage.read_bytes(storage.join(folder, "config.yaml")))
            classes = yaml.safe_load(storage.read_bytes(storage.join(folder, "classes.yaml")))
        except FileNotFoundError as error:
            raise UsageError(f"labels of run {run_id} are there, but not what it was told: {error}") from error
        known = storage.join(folder, KNOWLEDGE)
        digests = config.pop("digests")
        return cls(
            output,
            LabelConfig.model_validate(config),
            ClassSet.from_dict(classes),
            digests["observe_id"],
            digests["models"]["clip"],
            digests.get("head", ""),
            Knowledge(**yaml.safe_load(storage.read_bytes(known))) if storage.exists(known) else NOTHING,
        )

    @cached_property
    def text(self) -> TextBank:
        """The class set's prompts embedded, with all that the run knew of the classes, and what the corpus taught."""
        clip = resolve(self.config.observe.clip.model)
        if clip.digest != self.clip_digest:
            raise UsageError(
                f"{self.config.observe.clip.model} is not the model any more that made the evidence; "
                "--baselines false leaves out what needs it"
            )
        bank = text_bank(str(clip.path), self.classes, self.knowledge)
        return taught(bank, self.output, self.head_digest)

    @cached_property
    def store(self) -> EvidenceStore:
        return EvidenceStore(storage.join(self.output, "evidence"), self.observe_id)

    @cached_property
    def shards(self) -> Mapping[str, str]:
        """Evidence key -> data file."""
        index = self.store.index().select(["evidence_key", "shard"])
        pairs = zip(index["evidence_key"].to_pylist(), index["shard"].to_pylist(), strict=True)
        return {key: shard for key, shard in pairs if key and shard}

    def evidence(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Stored evidence rows; keys whose evidence is gone are left out."""
        return self.store.read(sorted({(self.shards[key], key) for key in keys if key in self.shards}))
