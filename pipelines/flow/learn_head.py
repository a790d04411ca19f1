"""The head: first labels of tagged images are noisy, each in its own way; a linear map over the stored features of all
of them keeps what they agree on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.corpus.head import Chunk, Head, HeadConfig, fit_head_stream
from models.corpus.targets import Patches, patches_of
from models.decide.config import DecideConfig
from models.decide.types import TextBank, WeakArrays
from models.evidence import Evidence
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import Run
from pipelines.flow.stop import RunFailed
from pipelines.stages.observe import limit_threads
from pipelines.tables.evidence import DATA, EvidenceStore

# Images in one task: some seconds of work.
IMAGES_PER_TASK = 64

Item = tuple[str, str, str]
"""Shard, evidence key and weak labels (JSON) of an image."""


def fit(run: Run, tagged: Sequence[Wanted], known: Known, text: TextBank) -> tuple[Head, list[int]]:
    """A head from these images, in tasks beside each other, and in how many of them each class is."""
    config = settings(run)
    parts = parts_of(tagged, known)
    progress = Progress("learn", config.rounds * len(tagged), run.config.execution.progress_seconds)
    for _ in range(config.rounds):
        head, images = _round(run, parts, text, config, progress)
        text = replace(text, head=head)
    progress.close()
    say(f"learn: a head of {int(head.valid.sum())} of {len(images)} classes")
    return head, images.tolist()


def settings(run: Run) -> HeadConfig:
    return HeadConfig(min_images=run.config.learn.min_images, seed=run.config.learn.seed)


def parts_of(images: Sequence[Wanted], known: Known) -> list[list[Item]]:
    """Images as tasks take them."""
    places = [(*known.evidence[row.asset][:2], row.weak) for row in images]
    return [places[i : i + IMAGES_PER_TASK] for i in range(0, len(places), IMAGES_PER_TASK)]


def read(
    store: EvidenceStore, class_set: ClassSet, items: Sequence[Item]
) -> Iterator[tuple[str, Evidence, WeakArrays]]:
    """In a worker: evidence key, evidence and weak labels of images. What cannot be read is left out."""
    from models import evidence as evidence_record

    weak_of: dict[str, list[str]] = {}
    for _, key, weak in items:
        weak_of.setdefault(key, []).append(weak)
    for row in store.read([(shard, key) for shard, key, _ in items], DATA.names):
        for told in weak_of.pop(row["evidence_key"], []):
            try:
                evidence = evidence_record.decode(row)
                size = evidence.height, evidence.width
                valid, _ = weak_labels.validate(json.loads(told), class_set, size)
                arrays = weak_labels.to_arrays(valid, class_set, *size)
            except Exception:
                continue  # *decide* comes upon it too, and tells it by name.
            yield row["evidence_key"], evidence, arrays


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


Shared = tuple[EvidenceStore, ClassSet, TextBank, DecideConfig, HeadConfig]


def _tell(shared: Shared, items: Sequence[Item]) -> tuple[npt.NDArray[np.int64], list[Patches]]:
    """In a worker: in how many of these images each class is, int64 [C], and what their patches say."""
    limit_threads(1)
    store, class_set, text, decide, config = shared
    classes = class_set.arrays()
    counts = np.zeros(len(class_set.classes), np.int64)
    found = []
    for key, evidence, weak in read(store, class_set, items):
        seed = int(key[:8], 16) + config.seed
        try:
            patches = patches_of(evidence, text, classes, weak, decide, config, seed)
        except Exception:
            continue  # *decide* comes upon it too, and tells it by name.
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
