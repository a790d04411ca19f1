"""Learn: what the corpus teaches about the looks of its classes, between observing and deciding.

First labels of tagged images are noisy, each in its own way; a linear head over the stored features of all of them
keeps what they agree on. It is stored in `OUTPUT/learned`, and is a part of what labels are decided from.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.corpus.head import Chunk, Head, HeadConfig, fit_head_stream
from models.corpus.targets import Patches, patches_of
from models.decide.config import DecideConfig
from models.decide.types import TextBank
from models.observe_config import key_fields
from pipelines import storage
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.progress import Progress, duration, say
from pipelines.flow.run import Run, digest
from pipelines.flow.stop import RunFailed
from pipelines.learned import HEAD, VERSION, Card, cards, save_head
from pipelines.nightly.candidates import candidates
from pipelines.stages.observe import limit_threads
from pipelines.tables.evidence import DATA, EvidenceStore

# Forms of weak labels that say which classes an image holds.
TELLING = {"tags", "captions"}

# Images in one task: some seconds of work.
IMAGES_PER_TASK = 64

Item = tuple[str, str, str]
"""Shard, evidence key and weak labels (JSON) of an image."""


def find(run: Run, rows: Sequence[Wanted], known: Known) -> tuple[Card | None, list[Wanted]]:
    """The head that is good for this run; or, where there is none, the images that one is to be fitted on: too few of
    them, and there is none."""
    config = run.config.learn
    if not config.enabled or not run.config.decide.head_weight:
        return None, []
    if config.use:
        return _used(run, config.use), []
    if run.config.weak is not None and not set(run.config.weak) & TELLING:
        return None, []  # Who asks for labels without tags asks for none that tags have taught.
    tagged = _tagged(rows, known, config.images, config.seed)
    fits = [card for card in cards(run.output) if card.identity == identity(run)]
    if fits and len(tagged) < min(config.images, (1 + config.growth) * fits[0].images):
        return _not_refused(run, fits), []
    if fits and fits[0].images >= config.images:
        return _not_refused(run, fits), []
    frequent = _most_tagged(tagged) >= config.min_images
    return None, tagged if len(tagged) >= config.min_tagged and frequent else []


def check_use(run: Run) -> None:
    """Raises UsageError for a --learn.use that does not fit, before anything is observed."""
    if run.config.learn.enabled and run.config.learn.use:
        _used(run, run.config.learn.use)


def _not_refused(run: Run, fits: Sequence[Card]) -> Card | None:
    """The newest head, unless a gate refused the labels that it made: then that of the published ones, if it is one of
    these. So nights go on with what there was, until the corpus has grown again."""
    newest = fits[0]
    refused = {candidate.metadata.get(HEAD) for candidate in candidates(run.output)}
    if newest.digest not in refused or run.config.publish_anyway is not None:
        return newest
    batches = run.labels.newest(["asset", "head_digest"], batch_rows=4096)
    used = {digest for batch in batches for digest in batch["head_digest"].to_pylist()}
    if newest.digest in used:
        return newest
    return next((card for card in fits if card.digest in used), None)


def learn(run: Run, tagged: Sequence[Wanted], known: Known, text: TextBank) -> Card:
    """Fit a head on these images, in tasks beside each other, and store it."""
    return save_head(run.output, *fit(run, tagged, known, text))


def fit(run: Run, tagged: Sequence[Wanted], known: Known, text: TextBank) -> tuple[Head, Card]:
    """A head from these images, in tasks beside each other, and its card, whose digest is still to come."""
    started = time.monotonic()
    config = _settings(run)
    places = [(*known.evidence[row.asset][:2], row.weak) for row in tagged]
    parts = [places[i : i + IMAGES_PER_TASK] for i in range(0, len(places), IMAGES_PER_TASK)]
    progress = Progress("learn", config.rounds * len(places), run.config.execution.progress_seconds)
    for _ in range(config.rounds):
        head, images = _round(run, parts, text, config, progress)
        text = replace(text, head=head)
    progress.close()
    names = [entry.name for entry in run.classes.classes]
    background = run.classes.background is not None
    card = Card("", identity(run), len(tagged), names, images.tolist(), features_of(run), background, run.run_id)
    say(f"learn: {int(head.valid.sum())} of {len(names)} classes, in {duration(time.monotonic() - started)}")
    return head, card


def _round(
    run: Run, parts: Sequence[Sequence[Item]], text: TextBank, config: HeadConfig, progress: Progress
) -> tuple[Head, npt.NDArray[np.int64]]:
    """A head from labels as they are decided with `text`, and in how many images each class is, int64 [C]."""
    import ray

    shared = ray.put((run.store, run.classes, text, run.config.decide, config))
    tell, solve = ray.remote(num_cpus=0.9, num_returns=2)(_tell), ray.remote(num_cpus=0.9)(_fit)
    told, patches = {}, []
    for part in parts:
        counts, found = tell.remote(shared, part)
        told[counts] = len(part)
        patches.append(found)
    left = list(told)
    while left:
        done, left = ray.wait(left)
        progress.add(sum(told[counts] for counts in done))
    try:
        images = np.sum(ray.get(list(told)), axis=0)
        return ray.get(solve.remote(patches, config, images)), images
    except ray.exceptions.RayTaskError as error:
        raise RunFailed(f"learn: {error.cause}; --learn.enabled false decides from text alone") from error


def _settings(run: Run) -> HeadConfig:
    return HeadConfig(min_images=run.config.learn.min_images, seed=run.config.learn.seed)


def identity(run: Run) -> str:
    """Of everything that a head depends on, but for the images and for how labels are decided: a head stays as it is
    when a threshold moves."""
    made_from = [run.knowledge.digest, run.classes.digest, run.observe_id]
    return digest([VERSION, *made_from, asdict(_settings(run)), run.config.learn.images])


def features_of(run: Run) -> str:
    """Digest of what patch features are made by."""
    told = key_fields(run.config.observe)["clip"]
    return digest({**told, "model": run.model_digests["clip"]})


def _used(run: Run, output: str) -> Card:
    """The newest head of another output, if it speaks of the same features and classes."""
    found = cards(storage.absolute(output))
    if not found:
        raise UsageError(f"--learn.use: nothing was learned in {output} (see learn.min_tagged)")
    card = found[0]
    if card.features != features_of(run):
        raise UsageError(f"--learn.use: images of {output} were observed by another CLIP, or with other observe.clip")
    if card.classes != [entry.name for entry in run.classes.classes]:
        raise UsageError(f"--learn.use: {output} knows other classes: {', '.join(card.classes)}")
    if card.background != (run.classes.background is not None):
        raise UsageError(f"--learn.use: one of the class sets has a background, that of {output} or this one")
    return replace(card, identity=f"used: {card.identity}")


def _tagged(rows: Sequence[Wanted], known: Known, count: int, seed: int) -> list[Wanted]:
    """At most `count` images of which a tag says what is in them, the same ones in whatever order the corpus comes."""

    def place(row: Wanted) -> bytes:
        return hashlib.sha256(f"{seed} {row.asset}".encode()).digest()

    found = (row for row in rows if row.asset in known.evidence and '"present":true' in row.weak)
    return sorted(found, key=place)[:count]


def _most_tagged(rows: Sequence[Wanted]) -> int:
    """In how many images the most frequent class is tagged."""
    tags = (tag for row in rows for tag in json.loads(row.weak)["tags"])
    return max(Counter(tag["class"] for tag in tags if tag["present"]).values(), default=0)


Shared = tuple[EvidenceStore, ClassSet, TextBank, DecideConfig, HeadConfig]


def _tell(shared: Shared, items: Sequence[Item]) -> tuple[npt.NDArray[np.int64], list[Patches]]:
    """In a worker: in how many of these images each class is, int64 [C], and what their patches say."""
    limit_threads(1)
    store, class_set, *_ = shared
    weak_of: dict[str, list[str]] = {}
    for _, key, weak in items:
        weak_of.setdefault(key, []).append(weak)
    counts = np.zeros(len(class_set.classes), np.int64)
    found = []
    for row in store.read([(shard, key) for shard, key, _ in items], DATA.names):
        for weak in weak_of.pop(row["evidence_key"], []):
            try:
                patches = _patches(shared, row, weak)
            except Exception:
                continue  # *decide* comes upon it too, and tells it by name.
            if patches is not None:
                counts += patches.allowed[0, 1:]
                found.append(patches)
    return counts, found


def _patches(shared: Shared, row: Mapping[str, Any], told: str) -> Patches | None:
    """What an image's evidence row and weak labels (JSON) say."""
    from models import evidence as evidence_record

    _, class_set, text, decide, config = shared
    evidence = evidence_record.decode(row)
    size = evidence.height, evidence.width
    valid, _ = weak_labels.validate(json.loads(told), class_set, size)
    weak = weak_labels.to_arrays(valid, class_set, *size)
    seed = int(row["evidence_key"][:8], 16) + config.seed
    return patches_of(evidence, text, class_set.arrays(), weak, decide, config, seed)


def _fit(parts: Sequence[Any], config: HeadConfig, images: npt.NDArray[np.int64]) -> Head:
    """In a worker: the head. parts: references to lists of patches, which stay in shared memory."""
    import ray

    limit_threads(1)

    def chunks(epoch: int) -> Iterator[Chunk]:
        for index in np.random.default_rng([config.seed, epoch]).permutation(len(parts)):
            for one in ray.get(parts[index]):
                yield one.features, one.targets, one.allowed

    return fit_head_stream(chunks, config, images)
