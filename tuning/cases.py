"""The images that a search for settings of *decide* is made on, and those that are held out of it."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.config import UsageError
from pipelines.evaluation import cases
from pipelines.evaluation.gold import Gold
from pipelines.flow.run import digest
from tuning.config import TuneLabelsConfig


@dataclass(frozen=True)
class Source(cases.Source):
    """rows: in the seeded order of the search: the first `searched` of them are searched on, the rest is held out."""

    searched: int

    def identity(self) -> str:
        """Digest of what is decided: images, evidence of both kinds, weak labels, classes and gold."""
        rows = [[row["asset"], row["label_key"]] for row in self.rows]
        gold = [self.gold.address, sorted(self.gold.masks)] if self.gold else None
        return digest([rows, self.searched, self.past.classes.digest, self.past.clip_digest, gold])

    def holdout_digest(self) -> str:
        """sha256, hex, of what the hold-out's numbers are about: images, evidence, weak labels, classes and gold."""
        rows = [[row["asset"], row["evidence_key"], row["weak_digest"]] for row in self.rows[self.searched :]]
        gold = self.gold.digest_of(row["asset"] for row in self.rows[self.searched :]) if self.gold else None
        return digest([sorted(rows), self.past.classes.digest, self.past.clip_digest, gold])


def find_source(config: TuneLabelsConfig) -> Source:
    """Choose and split the images. Raises UsageError where there is nothing to search on."""
    found = cases.open_source(config.labels, config.snapshot, config.gold if _wants_gold(config) else None)
    rows = list(found.rows)
    random.Random(config.seed).shuffle(rows)
    rows = rows[: config.images or None]
    searched, held_out = _split(rows, [_contents(found.gold, row) for row in rows], config.holdout)
    if not searched or (config.holdout and not held_out):
        raise UsageError(f"--holdout {config.holdout}: {len(rows)} images are too few to be split so")
    rows_in_order = (*searched, *held_out)
    parts = (found.output, found.snapshot, found.past, found.gold, found.matching, rows_in_order)
    return Source(*parts, searched=len(searched))


def _wants_gold(config: TuneLabelsConfig) -> bool:
    free = "agreement" in config.objective
    if free and config.gold.uri:
        raise UsageError("--objective agreement uses no gold: leave out --gold.uri, or choose miou")
    if not free and not config.gold.uri:
        raise UsageError(
            f"--gold.uri is missing: {config.objective[0]} needs masks; without any: --objective agreement"
        )
    return not free


def _contents(gold: Gold | None, row: Mapping[str, Any]) -> list[int]:
    """The ids in an image's gold mask."""
    if gold is None:
        return []
    return [int(i) for i in np.unique(gold.read(str(gold.name_of(row["asset"])))) if i != gold.ignore]


def _split(
    rows: Sequence[dict[str, Any]], contents: Sequence[Sequence[int]], holdout: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(searched, held out), each in the order of rows. Stratified by the rarest class in an image: a mean over classes
    hangs on the rare ones, and by chance alone one part would often have all photographs of some of them."""
    images_of = Counter(i for ids in contents for i in ids)
    rarest = [min(ids, key=lambda i: (images_of[i], i), default=-1) for ids in contents]
    held = set()
    for place, number in enumerate(sorted(range(len(rows)), key=lambda n: rarest[n])):
        if int((place + 1) * holdout + 1e-9) > int(place * holdout + 1e-9):
            held.add(number)
    return [r for n, r in enumerate(rows) if n not in held], [r for n, r in enumerate(rows) if n in held]
