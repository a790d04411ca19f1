"""What the corpus teaches, once for each seed: heads that are stored already, or fitted now and stored here."""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from models.corpus.head import Head
from pipelines import execution, storage
from pipelines.ablation.config import AblateConfig
from pipelines.ablation.methods import BY_NAME
from pipelines.evaluation.cases import Source, look_up, open_source, run_of
from pipelines.flow import learning
from pipelines.flow.progress import say
from pipelines.flow.run import Run, decide_digest
from pipelines.flow.stop import stop_on_signals
from pipelines.learned import cards, head_of, load_head, save_head


@dataclass(frozen=True)
class Fitted:
    """seconds: what the fit took by the clock; None where nobody wrote it down."""

    digest: str
    head: Head
    seconds: float | None


class Heads:
    """Heads of one corpus. folder: of the ablation, which keeps those that it fits."""

    def __init__(self, config: AblateConfig, source: Source, folder: str) -> None:
        self._config, self._source, self._folder = config, source, folder
        self._all: list[dict[str, Any]] | None = None

    def own(self) -> Fitted | None:
        """The one that the labels were decided with, if they were."""
        past = self._source.past
        if not past.head_digest or past.text.head is None:
            return None
        output = past.output
        run_id = next((card.run_id for card in cards(output) if card.digest == past.head_digest), "")
        return Fitted(past.head_digest, past.text.head, _seconds_of_run(output, run_id))

    def of_seed(self, seed: int) -> Fitted | None:
        """None where too few images are tagged. A head that came from elsewhere (learn.use) is the same for all."""
        learn = self._source.past.config.learn
        if (learn.use or seed == learn.seed) and (own := self.own()) is not None:
            return own
        run = self._run(seed)
        identity = learning.identity(run)
        for card in cards(self._folder):
            if card.identity == identity:
                return Fitted(card.digest, load_head(self._folder, card.digest), _note(self._folder, card.digest))
        if self._all is None:
            self._all = list(open_source(self._source.output, self._source.snapshot, None).rows)
        wanted, known = look_up(run, self._all)
        found, tagged = learning.find(run, wanted, known)
        if found is not None:
            head = head_of(run.output, found.digest)
            assert head is not None
            return Fitted(found.digest, head, _seconds_of_run(run.output, found.run_id))
        if not tagged:
            return None
        say(f"learn: a head of seed {seed}, from {len(tagged):,} tagged images")
        settings = self._config.execution
        if not _started():
            execution.start_ray(settings.ray_address, settings.object_store_mb)
            stop_on_signals()  # Ray puts handlers of its own in the place of ours
        started = time.monotonic()
        head, card = learning.fit(run, tagged, known, replace(self._source.past.text, head=None))
        seconds = round(time.monotonic() - started, 1)
        card = save_head(self._folder, head, card)
        storage.write_bytes(_note_address(self._folder, card.digest), json.dumps({"seconds": seconds}).encode())
        return Fitted(card.digest, head, seconds)

    def _run(self, seed: int) -> Run:
        """The run as it would have been with this seed, and with what is learned having its say."""
        run, past = run_of(self._source), self._source.past
        decide = BY_NAME["head"].within(past.config.decide, past.config.decide)
        learn = past.config.learn.model_copy(update={"enabled": True, "seed": seed})
        shown = self._config.execution.progress_seconds
        told = run.config.execution.model_copy(update={"progress_seconds": shown})
        run.config = run.config.model_copy(update={"learn": learn, "decide": decide, "execution": told})
        run.decide_digest = decide_digest(decide, past.clip_digest, past.knowledge)
        return run


def _started() -> bool:
    import ray

    return bool(ray.is_initialized())


def _note_address(folder: str, digest: str) -> str:
    return storage.join(folder, "fits", f"{digest[:32]}.json")


def _note(folder: str, digest: str) -> float | None:
    address = _note_address(folder, digest)
    return float(json.loads(storage.read_bytes(address))["seconds"]) if storage.exists(address) else None


def _seconds_of_run(output: str, run_id: str) -> float | None:
    """What a run says that learning took."""
    address = storage.join(output, "runs", run_id, "summary.json")
    if not run_id or not storage.exists(address):
        return None
    seconds = json.loads(storage.read_bytes(address)).get("seconds", {}).get("learn")
    return None if seconds is None else float(seconds)
