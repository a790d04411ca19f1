"""What all steps of one run share: where things are, what the digests are, when to stop."""

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from models.decide.config import DecideConfig
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import config_digest
from pipelines.execution import Layout
from pipelines.forgetting.memory import Forgotten
from pipelines.tables.evidence import EvidenceStore
from pipelines.tables.human import HumanTable
from pipelines.tables.labels import LabelTable
from pipelines.tables.manifest import ManifestTable
from pipelines.tables.quarantine import QuarantineTable
from pipelines.text import NOTHING, Knowledge


@dataclass
class Run:
    """One execution of the job."""

    config: Any  # pipelines.config.LabelConfig
    classes: ClassSet
    observe_id: str
    decide_digest: str
    model_digests: dict[str, str]
    layout: Layout
    knowledge: Knowledge = NOTHING
    run_id: str = ""
    head_digest: str = ""  # of all that the corpus taught (pipelines/learned.py); see `learned`
    quality_digest: str = ""  # of what predicts how good the labels are; see `judging`
    corpus: str = ""  # address of the whole corpus, once it is open
    started: float = field(default_factory=time.monotonic)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # images of the corpus by state, as metrics have it

    def __post_init__(self) -> None:
        self.run_id = self.run_id or f"{self.created_at:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.output: str = storage.absolute(self.config.output)
        self.store = EvidenceStore(storage.join(self.output, "evidence"), self.observe_id)
        self.labels = LabelTable(storage.join(self.output, "labels"))
        self.manifest = ManifestTable(storage.join(self.output, "manifest"))
        self.human = HumanTable(storage.join(self.output, "human"))
        self.quarantine = QuarantineTable(storage.join(self.output, "quarantine"))
        self.folder = storage.join(self.output, "runs", self.run_id)

    @cached_property
    def forgotten(self) -> Forgotten:
        """The images that are to be left out."""
        return Forgotten.load(self.output)

    def learned(self, head_digest: str) -> None:
        """From here on labels are decided with this too."""
        self.head_digest = head_digest

    def label_key(
        self, evidence_key: str, weak_digest: str, second_keys: Sequence[str] = (), human: Sequence[str] = ()
    ) -> str:
        """Everything that the label of an asset depends on, as one sha256. human: ids of the corrections, in order."""
        parts: list[object] = [evidence_key, self.classes.digest, weak_digest, self.decide_digest, *second_keys]
        checks = self.config.checks
        rules = "" if checks == type(checks)() else config_digest(checks)
        told = (
            ("human", list(human)), ("head", self.head_digest), ("quality", self.quality_digest), ("checks", rules),
        )  # fmt: skip
        more = {name: value for name, value in told if value}
        return digest([*parts, more] if more else parts)

    def time_left(self) -> float | None:
        """Seconds of --budget that are left, or None without one."""
        budget = self.config.budget_seconds
        return None if budget is None else budget - (time.monotonic() - self.started)


def decide_digest(config: DecideConfig, clip_digest: str, knowledge: Knowledge) -> str:
    """sha256, hex, of how labels are decided, but for what a corpus taught. clip_digest: of the model of the texts."""
    from models.decide.decide import DECIDE_VERSION

    # Labels that were decided without more knowledge than the class set keep their digest.
    said = [knowledge.digest] if knowledge.digest else []
    return digest([config_digest(config), DECIDE_VERSION, clip_digest, *said])


def digest(value: Any) -> str:
    """sha256, hex, of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
