"""Decide the same images in many ways and keep what came out, so that a run that was killed goes on."""

import dataclasses
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from models.corpus.head import Head
from models.decide.config import DecideConfig
from models.decide.decide import DECIDE_VERSION, decide
from models.decide.types import TextBank
from models.evidence import Evidence
from models.metrics import Confusion
from pipelines import storage
from pipelines.evaluation.cases import Case, Cases, Source, given, load
from pipelines.flow.progress import Progress
from pipelines.flow.run import digest
from pipelines.flow.stop import RunFailed

Sums = npt.NDArray[np.int64]
"""Pixels of images, int64 [N, 3, C]: right, in the gold, and found, by class, of what is judged."""

PART_IMAGES = 128
"""Images in memory at once; what was decided of them is kept together."""


@dataclass(frozen=True)
class Variant:
    """One way to decide. head: digest of what the corpus taught, "" for nothing. observed: id of the evidence, "" for
    the stored one."""

    decide: DecideConfig
    head: str = ""
    observed: str = ""

    def plain(self) -> "Variant":
        """The same without a head that has no say, so that what is equal is decided once."""
        return self if self.decide.head_weight else replace(self, head="")


@dataclass(frozen=True)
class Counted:
    """sums: of each image. seconds: float64 [N], CPU seconds that *decide* took of each."""

    sums: Sums
    seconds: npt.NDArray[np.float64]


class Part:
    """Some of the images, loaded when something is still to be decided of them."""

    def __init__(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> None:
        self.source, self.rows = source, rows

    @cached_property
    def identity(self) -> str:
        """Digest of what is decided: images, evidence of both kinds, weak labels, classes, gold."""
        past, gold = self.source.past, self.source.gold
        assert gold is not None
        for row in self.rows:
            gold.read(str(gold.name_of(row["asset"])))
        keys = [[row["asset"], row["label_key"]] for row in self.rows]
        return digest([keys, past.observe_id, past.classes.digest, past.clip_digest, gold.digest_of(_assets(self))])

    @cached_property
    def cases(self) -> Cases:
        """Raises RunFailed where evidence is gone."""
        found = load(self.source, self.rows)
        if len(found.items) < len(self.rows):
            raise RunFailed(f"the evidence of {len(self.rows) - len(found.items)} images is gone: label them again")
        return found

    def forget(self) -> None:
        """Give the memory back."""
        self.__dict__.pop("cases", None)


def _assets(part: Part) -> list[str]:
    return [row["asset"] for row in part.rows]


def parts_of(source: Source) -> list[Part]:
    rows = source.rows
    return [Part(source, rows[i : i + PART_IMAGES]) for i in range(0, len(rows), PART_IMAGES)]


class Decisions:
    """What each variant makes of the images. heads: by digest. observed: evidence of a part by id, asset by asset."""

    def __init__(
        self,
        parts: Sequence[Part],
        folder: str,
        heads: Mapping[str, Head],
        observed: Callable[[str, Part], Mapping[str, Evidence]],
        progress_seconds: float,
    ) -> None:
        self._parts, self._folder, self._observed = parts, storage.join(folder, "decided"), observed
        self._every, self._heads, self._texts = progress_seconds, heads, dict[str, TextBank]()
        self.decided = self.kept = 0

    def given(self) -> frozenset[str]:
        """What there is in the images for settings to work on: models.decide.config.Given."""
        return frozenset().union(*(self._given(part) for part in self._parts))

    def _given(self, part: Part) -> frozenset[str]:
        address = storage.join(self._folder, f"{part.identity[:32]}-given.txt")
        if storage.exists(address):
            return frozenset(storage.read_bytes(address).decode().split())
        found = given(part.cases.items, part.cases.classes, part.cases.text)
        part.forget()
        storage.write_bytes(address, " ".join(sorted(found)).encode())
        return found

    def count(self, variants: Iterable[Variant]) -> dict[Variant, Counted]:
        """Decide what was not decided before."""
        wanted = list(dict.fromkeys(one.plain() for one in variants))
        there = set(storage.list_files(self._folder))
        todo = [(part, one) for part in self._parts for one in wanted if self._address(part, one) not in there]
        total = sum(len(part.rows) for part, _ in todo)
        self.decided += total
        self.kept += sum(len(part.rows) for part in self._parts) * len(wanted) - total
        progress = Progress("ablate", total, self._every, unit="label")
        for part in self._parts:
            missing = sorted((one for other, one in todo if other is part), key=lambda one: one.observed)
            if missing:
                self._decide(part, missing, progress)
        progress.close()
        return {one: _joined([self._read(part, one) for part in self._parts]) for one in wanted}

    def _decide(self, part: Part, variants: Sequence[Variant], progress: Progress) -> None:
        cases, observed, loaded = part.cases, part.cases.items, ""
        self._one(cases, observed[0], variants[0])  # once unseen: what the first image of all waits for is no cost
        for variant in variants:
            if variant.observed != loaded:
                loaded = variant.observed
                anew = self._observed(loaded, part)
                observed = tuple(replace(case, evidence=anew[case.asset]) for case in cases.items)
            found = [self._one(cases, case, variant) for case in observed]
            content = io.BytesIO()
            np.savez_compressed(content, sums=[sums for sums, _ in found], seconds=[seconds for _, seconds in found])
            storage.write_bytes(self._address(part, variant), content.getvalue())
            progress.add(len(found))
        part.forget()

    def _one(self, cases: Cases, case: Case, variant: Variant) -> tuple[Sums, float]:
        text = self._text(cases, variant)
        started = time.process_time()
        label = decide(case.evidence, text, cases.classes, case.weak, variant.decide, case.of_classes)
        seconds = time.process_time() - started
        assert case.gold is not None
        classes = len(cases.names)
        confusion = Confusion(classes, ignore=classes)
        confusion.update(case.gold, cases.index_of[label.class_map])
        counts = confusion.counts
        return np.stack([np.diag(counts), counts.sum(1), counts[:, :classes].sum(0)]), seconds

    def _text(self, cases: Cases, variant: Variant) -> TextBank:
        if variant.head not in self._texts:
            self._texts[variant.head] = replace(cases.text, head=self._heads.get(variant.head))
        return self._texts[variant.head]

    def _address(self, part: Part, variant: Variant) -> str:
        told = [part.identity, dataclasses.asdict(variant.decide), variant.head, variant.observed, DECIDE_VERSION]
        return storage.join(self._folder, f"{digest(told)[:32]}.npz")

    def _read(self, part: Part, variant: Variant) -> Counted:
        with np.load(io.BytesIO(storage.read_bytes(self._address(part, variant)))) as stored:
            return Counted(stored["sums"], stored["seconds"])


def _joined(parts: Sequence[Counted]) -> Counted:
    return Counted(np.concatenate([one.sums for one in parts]), np.concatenate([one.seconds for one in parts]))
