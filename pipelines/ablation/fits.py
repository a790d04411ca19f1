"""What the corpus teaches: what is stored already, or made now and stored here; heads once for each seed."""

import json
import time
from dataclasses import dataclass
from typing import Any

from pipelines import execution, storage
from pipelines.ablation.config import AblateConfig
from pipelines.ablation.methods import BY_NAME
from pipelines.evaluation.cases import Source, look_up, open_source, run_of
from pipelines.flow import learning
from pipelines.flow.progress import say
from pipelines.flow.run import Run, decide_digest
from pipelines.flow.stop import stop_on_signals
from pipelines.learned import HEAD, Artifact, by_kind, cards, load, save, with_artifacts

SEEDED = (HEAD,)
"""Kinds that come out differently with another seed."""


@dataclass(frozen=True)
class Fitted:
    """seconds: what the fit took by the clock; None where nobody wrote it down."""

    digest: str
    made: Artifact
    seconds: float | None


class Fits:
    """Of one corpus. folder: of the ablation, which keeps those that it makes."""

    def __init__(self, config: AblateConfig, source: Source, folder: str) -> None:
        self._config, self._source, self._folder = config, source, folder
        self._all: list[dict[str, Any]] | None = None

    def own(self, kind: str) -> Fitted | None:
        """The one that the labels were decided with, if they were."""
        past = self._source.past
        digest, made = by_kind(past.head_digest).get(kind), getattr(past.text, kind)
        if digest is None or made is None:
            return None
        output = past.output
        run_id = next((card.run_id for card in cards(output, kind) if card.digest == digest), "")
        return Fitted(digest, made, _seconds_of_run(output, run_id, kind))

    def of(self, kind: str) -> list[Fitted]:
        """For each seed, if that matters; none where too few images are tagged."""
        seeds = self._config.seeds if kind in SEEDED else (self._source.past.config.learn.seed,)
        return [one for one in (self._of_seed(kind, seed) for seed in seeds) if one is not None]

    def _of_seed(self, kind: str, seed: int) -> Fitted | None:
        """What came from elsewhere (learn.use) is the same for all."""
        past = self._source.past
        learn, own = past.config.learn, self.own(kind)
        if (learn.use or seed == learn.seed) and own is not None:
            return own
        run = self._run(kind, seed)
        head = self.own(HEAD) if kind != HEAD else None
        parts = {HEAD: head.digest} if head else {}
        identity = learning.identity(run, kind, parts)
        for card in cards(self._folder, kind):
            if card.identity == identity:
                return Fitted(card.digest, load(self._folder, kind, card.digest), _note(self._folder, card.digest))
        if self._all is None:
            self._all = list(open_source(self._source.output, self._source.snapshot, None).rows)
        wanted, known = look_up(run, self._all)
        found, images = learning.find(run, kind, wanted, known, parts)
        if found is not None:
            seconds = _seconds_of_run(run.output, found.run_id, kind)
            return Fitted(found.digest, load(run.output, kind, found.digest), seconds)
        if not images:
            return None
        say(f"learn: a {kind} of seed {seed}, from {len(images):,} images")
        settings = self._config.execution
        if not _started():
            execution.start_ray(settings.ray_address, settings.object_store_mb)
            stop_on_signals()  # Ray puts handlers of its own in the place of ours
        started = time.monotonic()
        text = with_artifacts(past.text, {HEAD: head.made} if head else {})
        made, card = learning.fit(run, kind, images, known, text, parts, self._folder)
        seconds = round(time.monotonic() - started, 1)
        card = save(self._folder, made, card)
        storage.write_bytes(_note_address(self._folder, card.digest), json.dumps({"seconds": seconds}).encode())
        return Fitted(card.digest, made, seconds)

    def _run(self, kind: str, seed: int) -> Run:
        """The run as it would have been with this seed, and with what is learned having its say."""
        run, past = run_of(self._source), self._source.past
        decide = BY_NAME[kind].within(past.config.decide, past.config.decide)
        use = past.config.learn.use if kind == HEAD else None
        learn = past.config.learn.model_copy(update={"enabled": True, "seed": seed, "use": use})
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


def _seconds_of_run(output: str, run_id: str, kind: str) -> float | None:
    """What a run says that learning took."""
    address = storage.join(output, "runs", run_id, "summary.json")
    if not run_id or not storage.exists(address):
        return None
    seconds = json.loads(storage.read_bytes(address)).get("seconds", {}).get(learning.STEPS[kind])
    return None if seconds is None else float(seconds)
