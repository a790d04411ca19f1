"""The tagged images of a label snapshot: where they are, what their tags say, and which of them are held out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.cases import Source, open_source
from pipelines.flow.run import digest
from pipelines.localising.config import LocaliserTraining
from pipelines.training import targets
from pipelines.training.groups import groups, split
from pipelines.training.targets import Channels

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""As models.localize.localiser.tag_loss reads them."""
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaggedImages:
    """N images in the order of their names. assets, uris, digests: of each. tags: int8 [N, C]. train, held: rows."""

    assets: tuple[str, ...]
    uris: tuple[str, ...]
    digests: tuple[str, ...]
    tags: npt.NDArray[np.int8]
    train: Indices
    held: Indices

    @property
    def digest(self) -> str:
        """sha256, hex, of the images, their tags and their roles."""
        roles = [self.train.tolist(), self.held.tolist()]
        return digest([self.assets, self.digests, self.tags.tolist(), roles])

    def only(self, digests: Mapping[str, object]) -> "TaggedImages":
        """Without images of other bytes than these in either role."""
        there = np.array([one in digests for one in self.digests], bool)
        train, held = (rows[there[rows]] for rows in (self.train, self.held))
        return TaggedImages(self.assets, self.uris, self.digests, self.tags, train, held)


def open_images(config: LocaliserTraining, snapshot: int | None) -> tuple[TaggedImages, Source]:
    """The tagged images of the labels, and where those come from. Raises UsageError where nothing can be learned."""
    source = open_source(config.labels, config.snapshot if snapshot is None else snapshot, None)
    classes = source.past.classes
    rows = [row for row in source.rows if row["digest"]]
    told = _tags(rows, classes)
    rows = [row for row, tags in zip(rows, told, strict=True) if (tags == PRESENT).any()]
    told = told[(told == PRESENT).any(1)]
    if config.unsaid == "absent":
        told[told == UNKNOWN] = ABSENT
    chosen = _draw(rows, config.images, config.seed)
    rows, told = [rows[index] for index in chosen], told[chosen]
    if not len(rows):
        raise UsageError(f"--labels: no image of {source.output} has a tag that says what it shows")
    if not (told == ABSENT).any():
        raise UsageError(
            f"--labels: the tags of {source.output} say what images show, and never what they do not, so nothing can "
            "be told apart; if they name all that is there, say so: --unsaid absent"
        )
    assets = tuple(str(row["asset"]) for row in rows)
    digests = tuple(str(row["digest"]) for row in rows)
    train, held = np.arange(len(rows)), np.arange(0)
    if config.validation_share:
        group_of = groups(assets, digests, config.group_by, config.validation_share)
        train, held = split(group_of, config.validation_share, config.validation_images, config.seed)
    if not len(train):
        raise UsageError(f"--validation_share {config.validation_share} of {len(rows)} tagged images leaves none")
    return TaggedImages(assets, tuple(str(row["uri"]) for row in rows), digests, told, train, held), source


def _tags(rows: Sequence[Mapping[str, Any]], classes: ClassSet) -> npt.NDArray[np.int8]:
    """int8 [N, C] of the classes without the background."""
    channels = Channels.of(classes)
    meaning = np.full(3, UNKNOWN, np.int8)
    meaning[targets.PRESENT], meaning[targets.ABSENT] = PRESENT, ABSENT
    found = np.full((len(rows), len(classes.classes)), UNKNOWN, np.int8)
    for number, row in enumerate(rows):
        record, _ = weak_labels.validate(json.loads(row["weak"] or "{}"), classes)
        found[number] = meaning[targets.tags(record, classes, channels)][int(channels.background) :]
    return found


def _draw(rows: Sequence[Mapping[str, Any]], most: int, seed: int) -> Indices:
    """At most so many rows, the same ones however many others there are."""
    marks = [hashlib.sha256(f"{seed} {row['asset']}".encode()).digest() for row in rows]
    return np.sort(np.array(sorted(range(len(rows)), key=marks.__getitem__)[:most], np.int64))
