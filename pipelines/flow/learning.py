"""Learn: what the corpus teaches about the looks of its classes, between observing and deciding.

First labels of tagged images are noisy, each in its own way; a linear head over the stored features of all of them
keeps what they agree on. It is stored in `OUTPUT/learned`, and is a part of what labels are decided from.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.corpus.head import Chunk, Head, HeadConfig, fit_head_stream
from models.corpus.targets import Patches, patches_of
from models.decide.config import DecideConfig
from models.decide.types import TextBank
from pipelines import storage
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.progress import Progress, duration, say
from pipelines.flow.run import Run, digest
from pipelines.flow.stop import RunFailed
from pipelines.learned import VERSION, Card, cards, save_head
from pipelines.stages.observe import limit_threads
from pipelines.tables.evidence import DATA, EvidenceStore

# Images in one task: some seconds of work.
IMAGES_PER_TASK = 64

Item = tuple[str, str, str]
"""Shard, evidence key and weak labels (JSON) of an image."""


def find(run: Run, rows: Sequence[Wanted], known: Known) -> tuple[Card | None, list[Wanted]]:
    """The head that is good for this run; or, where there is none, the images that one is to be fitted on: too few of
    them, and there is none.

    Raises UsageError for a --learn.use that does not fit.
    """
    config = run.config.learn
    if not config.enabled or not run.config.decide.head_weight:
        return None, []
    if config.use:
        return _used(run, config.use), []
    tagged = _tagged(rows, known, config.images, config.seed)
    if len(tagged) < config.min_tagged:
        return None, []
    fits = [card for card in cards(run.output) if card.identity == identity(run)]
    if fits and len(tagged) < (1 + config.growth) * fits[0].images:
        return fits[0], []
    return None, tagged


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
    card = Card("", identity(run), len(tagged), names, images.tolist(), run.model_digests["clip"], run.run_id)
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
    images = np.sum(ray.get(list(told)), axis=0)
    try:
        return ray.get(solve.remote(patches, config, images)), images
    except ray.exceptions.RayTaskError as error:
        raise RunFailed(f"learn: {error.cause}; --learn.enabled false decides from text alone") from error


def _settings(run: Run) -> HeadConfig:
    return HeadConfig(min_images=run.config.learn.min_images, seed=run.config.learn.seed)


def identity(run: Run) -> str:
    """Of everything that a head depends on, but for the images."""
    made_from = [run.decide_digest, run.classes.digest, run.observe_id]
    return digest([VERSION, *made_from, asdict(_settings(run)), run.config.learn.images])


def _used(run: Run, output: str) -> Card:
    """The newest head of another output, if it speaks of the same features and classes."""
    found = cards(storage.absolute(output))
    if not found:
        raise UsageError(f"--learn.use: nothing was learned in {output} (see learn.min_tagged)")
    if found[0].model != run.model_digests["clip"]:
        raise UsageError(f"--learn.use: {output} was observed with another CLIP: its head means nothing here")
    if found[0].classes != [entry.name for entry in run.classes.classes]:
        raise UsageError(f"--learn.use: {output} knows other classes: {', '.join(found[0].classes)}")
    return found[0]


def _tagged(rows: Sequence[Wanted], known: Known, count: int, seed: int) -> list[Wanted]:
    """At most `count` images of which a tag says what is in them, the same ones in whatever order the corpus comes."""

    def place(row: Wanted) -> bytes:
        return hashlib.sha256(f"{seed} {row.asset}".encode()).digest()

    return sorted((row for row in rows if row.asset in known.evidence and '"present":true' in row.weak), key=place)[
        :count
    ]


Shared = tuple[EvidenceStore, ClassSet, TextBank, DecideConfig, HeadConfig]


def _tell(shared: Shared, items: Sequence[Item]) -> tuple[npt.NDArray[np.int64], list[Patches]]:
    """In a worker: in how many of these images each class is, int64 [C], and what their patches say."""
    limit_threads(1)
    store, class_set, text, decide, config = shared
    from models import evidence as evidence_record

    weak_of = {key: weak for _, key, weak in items}
    classes = class_set.arrays()
    counts = np.zeros(len(classes.ids), np.int64)
    found = []
    for row in store.read([(shard, key) for shard, key, _ in items], DATA.names):
        evidence = evidence_record.decode(row)
        size = evidence.height, evidence.width
        valid, _ = weak_labels.validate(json.loads(weak_of[row["evidence_key"]]), class_set, size)
        weak = weak_labels.to_arrays(valid, class_set, *size)
        seed = int(row["evidence_key"][:8], 16) + config.seed
        patches = patches_of(evidence, text, classes, weak, decide, config, seed)
        if patches is not None:
            counts += patches.allowed[0, 1:]
            found.append(patches)
    return counts, found


def _fit(parts: Sequence[Any], config: HeadConfig, images: npt.NDArray[np.int64]) -> Head:
    """In a worker: the head. parts: references to lists of patches, which stay in shared memory."""
    import ray

    limit_threads(1)

    def chunks(epoch: int) -> Iterator[Chunk]:
        for index in np.random.default_rng([config.seed, epoch]).permutation(len(parts)):
            for one in ray.get(parts[index]):
                yield one.features, one.targets, one.allowed

    return fit_head_stream(chunks, config, images)
