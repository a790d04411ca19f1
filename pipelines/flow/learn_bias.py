"""Bias: what backgrounds look like where a class is not, mapped image by image and reduced in any order."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from models.corpus.bias import BiasConfig, BiasStats, reduce
from models.corpus.targets import background_of
from models.decide.config import DecideConfig
from models.decide.types import TextBank
from pipelines.classes import ClassSet
from pipelines.flow.learn_head import Item, parts_of, read
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import Run
from pipelines.flow.stop import RunFailed
from pipelines.stages.observe import limit_threads
from pipelines.tables.evidence import EvidenceStore

CONFIG = BiasConfig()
VERSION = 1
"""Raise it when the same images give other statistics."""


def fit(run: Run, tagged: Sequence[Wanted], known: Known, text: TextBank) -> tuple[BiasStats, list[int]]:
    """The statistics of these images, in tasks beside each other, and in how many of them each class may be."""
    import ray

    parts = parts_of(tagged, known)
    # As the labels are without what is still to be learned.
    decide = replace(run.config.decide, bias_removal=0.0)
    shared = ray.put((run.store, run.classes, text, decide))
    mapped, reduced = ray.remote(num_cpus=0.9)(_map), ray.remote(num_cpus=0.9)(_reduce)
    told = {mapped.remote(shared, part): len(part) for part in parts}
    progress = Progress("bias", len(tagged), run.config.execution.progress_seconds)
    left = list(told)
    while left:
        done, left = ray.wait(left)
        progress.add(sum(told[one] for one in done))
    progress.close()
    try:
        stats = ray.get(reduced.remote(list(told)))
    except ray.exceptions.RayTaskError as error:
        raise RunFailed(f"bias: {error.cause}; --decide.bias_removal 0 goes without") from error
    enough = int(((stats.images >= CONFIG.min_images) & (stats.without >= CONFIG.min_images)).sum())
    say(
        f"bias: backgrounds of images without each of {enough} of {len(stats.images)} classes"
        + ("" if enough else "; tags have to say what images lack, too")
    )
    return stats, stats.images.tolist()


def _map(shared: tuple[EvidenceStore, ClassSet, TextBank, DecideConfig], items: Sequence[Item]) -> BiasStats | None:
    """In a worker: what some images know together; None where they know nothing."""
    limit_threads(1)
    store, class_set, text, decide = shared
    classes = class_set.arrays()
    found = []
    for _, evidence, weak in read(store, class_set, items):
        try:
            stats = background_of(evidence, text, classes, weak, decide, CONFIG)
        except Exception:
            continue  # *decide* comes upon it too, and tells it by name.
        if stats is not None:
            found.append(stats)
    return reduce(found, CONFIG) if found else None


def _reduce(parts: Sequence[Any]) -> BiasStats:
    """In a worker: all of them as one. parts: references, which are read one after the other, in their order: sums of
    floats are the same to the last digit then, and so is the digest."""
    import ray

    limit_threads(1)
    total: BiasStats | None = None
    for part in parts:
        stats = ray.get(part)
        if stats is not None:
            total = stats if total is None else reduce([total, stats], CONFIG)
    if total is None:
        raise ValueError("no image says what its background is")
    return total
