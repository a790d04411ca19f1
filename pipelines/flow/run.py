"""What all steps of one run share: where things are, what the digests are, when to stop."""

import hashlib
import json
import signal
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.execution import Layout
from pipelines.tables.evidence import EvidenceStore
from pipelines.tables.labels import LabelTable
from pipelines.tables.manifest import ManifestTable
from pipelines.tables.quarantine import QuarantineTable


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. What was written stays, and the same command goes on from there."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class RunFailed(Exception):
    """The run cannot go on; the message says why and what to do."""


@dataclass
class Run:
    """One execution of the job."""

    config: Any  # pipelines.config.LabelConfig
    classes: ClassSet
    observe_id: str
    decide_digest: str
    model_digests: dict[str, str]
    layout: Layout
    run_id: str = ""
    started: float = field(default_factory=time.monotonic)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run_id = self.run_id or f"{self.created_at:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.output: str = storage.absolute(self.config.output)
        self.store = EvidenceStore(storage.join(self.output, "evidence"), self.observe_id)
        self.labels = LabelTable(storage.join(self.output, "labels"))
        self.manifest = ManifestTable(storage.join(self.output, "manifest"))
        self.quarantine = QuarantineTable(storage.join(self.output, "quarantine"))
        self.folder = storage.join(self.output, "runs", self.run_id)

    def label_key(self, evidence_key: str, weak_digest: str) -> str:
        """Everything that the label of an asset depends on, as one sha256."""
        return digest([evidence_key, self.classes.digest, weak_digest, self.decide_digest])

    def time_left(self) -> float | None:
        """Seconds of --budget that are left, or None without one."""
        budget = self.config.budget_seconds
        return None if budget is None else budget - (time.monotonic() - self.started)


def digest(value: Any) -> str:
    """sha256, hex, of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stop_on_signals() -> None:
    """Turn SIGINT and SIGTERM into `Interrupted`, raised wherever the main thread is."""

    def handler(number: int, frame: FrameType | None) -> None:
        # A second signal while we clean up ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
