"""References: what the images that a class's tag or name retrieves have in common, and what surrounds it is not."""

import json
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from models.corpus.clusters import unit
from models.corpus.cosegment import CosegmentConfig, Floats, References, context_of, cosines, reference
from models.corpus.index import Index
from models.decide.text_match import class_embeddings
from models.decide.types import TextBank
from pipelines.flow import indexing
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import Run
from pipelines.flow.stop import RunFailed
from pipelines.stages.observe import limit_threads
from pipelines.tables.evidence import EvidenceStore

CONFIG = CosegmentConfig()
VERSION = 2
"""Raise it when the same images give other references."""
# Of the patches of an image that holds a class, cosine with its reference: of the surroundings, and of the class.
AROUND, INSIDE = 50, 95

Place = tuple[str, str]
"""Shard and evidence key of an image."""


def fit(run: Run, images: Sequence[Wanted], known: Known, text: TextBank, root: str) -> tuple[References, list[int]]:
    """One reference for each class that enough images hold, in tasks beside each other, and of how many images each is
    made. root: below which the index lies."""
    import ray

    classes, words = class_embeddings(text, len(run.classes.classes))
    shards = {key: shard for shard, key, _ in (known.evidence[row.asset] for row in images)}
    tags = Tags(run, images, known)
    with indexing.opened(root, run.store, shards, known.keys, run.config.execution.progress_seconds) as index:
        keys = [tags.nearest(index, row, classes[row]) for row in range(len(classes))]
    places = {row: [(shards[key], key) for key in found] for row, found in enumerate(keys) if found}
    shared = ray.put((run.store, classes))
    mean, make = ray.remote(num_cpus=0.9)(_mean), ray.remote(num_cpus=0.9)(_reference)
    progress = Progress("references", 2 * len(places), run.config.execution.progress_seconds, unit="step")
    try:
        sums = _all([mean.remote(shared, found) for found in places.values()], progress)
        shared_mean = (np.sum([total for total, _ in sums], 0) / sum(count for _, count in sums)).astype(np.float32)
        contexts = {row: context_of(row, classes, words, tags.absent(keys[row], row), CONFIG.near) for row in places}
        tasks = [make.remote(shared, row, places[row], contexts[row], shared_mean) for row in places]
        made = _all(tasks, progress)
    except ray.exceptions.RayTaskError as error:
        raise RunFailed(f"references: {error.cause}; --decide.reference_weight 0 goes without") from error
    progress.close()
    embeddings, found = np.zeros_like(classes), np.zeros(len(classes), bool)
    for row, (embedding, _) in zip(places, made, strict=True):
        embeddings[row], found[row] = embedding, True
    # In the middle of what images of a class show of it and of all else, on average.
    centre = float(np.mean([middle for _, middle in made]))
    say(f"references: of {len(places)} of {len(classes)} classes")
    return References(embeddings, found, shared_mean, centre), [len(one) for one in keys]


def enough(run: Run, images: Sequence[Wanted], known: Known) -> bool:
    """Whether a class has as many images as a reference takes."""
    tags = Tags(run, images, known)
    return any(tags.among(row) is not None for row in range(len(run.classes.classes)))


def told(images: Sequence[Wanted], least: int) -> int:
    """Of how many images tags speak; 0 where they are fewer than a reference takes, `least`."""
    count = sum('"tags":' in row.weak or '"tags_complete":' in row.weak for row in images)
    return count if count >= least else 0


class Tags:
    """What is said of the classes of images, bool [C, N]; images are known by their evidence key."""

    def __init__(self, run: Run, images: Sequence[Wanted], known: Known) -> None:
        self._least, self._most = run.config.learn.min_images, run.config.learn.reference_images
        row_of = {entry.name: row for row, entry in enumerate(run.classes.classes)}
        keys = dict.fromkeys(known.evidence[row.asset][1] for row in images)
        self._place = {key: place for place, key in enumerate(keys)}
        self._present, self._absent = np.zeros((2, len(row_of), len(self._place)), bool)
        for image in images:
            weak = json.loads(image.weak) if image.weak else {}
            place = self._place[known.evidence[image.asset][1]]
            said = [(row_of[tag["class"]], tag["present"]) for tag in weak.get("tags", []) if tag["class"] in row_of]
            present = [row for row, there in said if there]
            self._present[present, place] = True
            if weak.get("tags_complete"):
                self._absent[np.delete(np.arange(len(row_of)), present), place] = True
            else:
                self._absent[[row for row, there in said if not there], place] = True

    def nearest(self, index: Index, row: int, embedding: Floats) -> list[str]:
        """The images of a class, the closest to its text first; none where they are too few."""
        among = self.among(row)
        if among is None:
            return []
        keys = list(compress(self._place, among))
        return [str(key) for key in index.query(embedding[None], self._most, among=keys)[0][0]]

    def among(self, row: int) -> npt.NDArray[np.bool_] | None:
        """Where to look for a class: what is tagged with it, or else what is not said to lack it; None: too few."""
        found = self._present[row] if self._present[row].any() else ~self._absent[row]
        return found if found.sum() >= self._least else None

    def absent(self, keys: Sequence[str], row: int) -> npt.NDArray[np.bool_]:
        """The classes that are known to be in none of these images, bool [C]; never the class itself."""
        gone = np.array(self._absent[:, [self._place[key] for key in keys]].all(1))
        gone[row] = False
        return gone


def _all(tasks: Sequence[Any], progress: Progress) -> list[Any]:
    import ray

    left = list(tasks)
    while left:
        done, left = ray.wait(left)
        progress.add(len(done))
    found: list[Any] = ray.get(list(tasks))
    return found


def _features(store: EvidenceStore, places: Sequence[Place]) -> list[Floats]:
    """Of these images, in their order."""
    from models.evidence import FEATURES, decode_features

    found = {row["evidence_key"]: decode_features(row) for row in store.read(places, FEATURES)}
    return [found[key] for _, key in places if key in found]


def _mean(shared: tuple[EvidenceStore, Floats], places: Sequence[Place]) -> tuple[npt.NDArray[np.float64], int]:
    """In a worker: sum of the unit features of all patches, and how many."""
    limit_threads(1)
    flat = [unit(image).reshape(-1, image.shape[-1]) for image in _features(shared[0], places)]
    return np.sum([image.sum(0, dtype=np.float64) for image in flat], 0), sum(map(len, flat))


def _reference(
    shared: tuple[EvidenceStore, Floats], row: int, places: Sequence[Place], context: Floats, mean: Floats
) -> tuple[Floats, float]:
    """In a worker: the reference of a class, and the cosine in the middle between it and its surroundings."""
    limit_threads(1)
    store, classes = shared
    images = _features(store, places)
    made = reference(images, [unit(image) @ classes[row] for image in images], context, CONFIG, mean)
    seen = [np.percentile(cosines(image, mean, made.embedding), [AROUND, INSIDE]) for image in images]
    return made.embedding, float(np.mean(seen))
