"""Decide the same images in many ways and keep what came out, so that a run that was killed goes on."""

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
from pipelines.config import told_values
from pipelines.evaluation.cases import Case, Cases, Source, given, load
from pipelines.flow.progress import Progress
from pipelines.flow.run import digest
from pipelines.flow.stop import RunFailed

Sums = npt.NDArray[np.int64]
"""Pixels of images, int64 [N, 3, C]: right, in the gold, and found, by class, of what is judged."""

PART_IMAGES = 128
"""Images in memory at once."""
GROUP_IMAGES = 16
"""Images of which what was decided is written together: what a killed run does again, at most."""


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
    """What each variant makes of the images. heads: by digest. observed: evidence by id and assets."""

    def __init__(
        self,
        parts: Sequence[Part],
        folder: str,
        heads: Mapping[str, Head],
        observed: Callable[[str, Sequence[str]], Mapping[str, Evidence]],
        progress_seconds: float,
    ) -> None:
        self._parts, self._folder, self._observed = parts, storage.join(folder, "decided"), observed
        self._every, self._heads, self._texts = progress_seconds, heads, dict[str, TextBank]()
        self.decided = self.kept = 0
        self._warm = False

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
        """Decide what was not decided before, image by image in all ways, so that what they cost can be compared."""
        wanted = {self._key(one): one for one in dict.fromkeys(one.plain() for one in variants)}
        groups = [(part, start) for part in self._parts for start in range(0, len(part.rows), GROUP_IMAGES)]
        stored = [self._read(part, start) for part, start in groups]
        todo = [[one for key, one in wanted.items() if key not in there] for there in stored]
        sizes = [len(part.rows[start : start + GROUP_IMAGES]) for part, start in groups]
        total = sum(size * len(missing) for size, missing in zip(sizes, todo, strict=True))
        self.decided += total
        self.kept += sum(sizes) * len(wanted) - total
        progress = Progress("ablate", total, self._every, unit="label")
        for number, (part, start) in enumerate(groups):
            if todo[number]:
                stored[number] |= self._decide(part, start, todo[number], progress)
                self._write(part, start, stored[number])
            if start + GROUP_IMAGES >= len(part.rows):
                part.forget()
        progress.close()
        return {one: _joined([there[key] for there in stored]) for key, one in wanted.items()}

    def _decide(self, part: Part, start: int, variants: Sequence[Variant], progress: Progress) -> dict[str, Counted]:
        cases = part.cases
        group = cases.items[start : start + GROUP_IMAGES]
        assets = [case.asset for case in group]
        seen = {one.observed: self._observed(one.observed, assets) for one in variants if one.observed}
        if not self._warm:
            self._one(cases, group[0], replace(variants[0], observed=""))  # the first of all waits for what is no cost
            self._warm = True
        found: dict[str, list[tuple[Sums, float]]] = {self._key(one): [] for one in variants}
        for case in group:
            for one in variants:
                anew = replace(case, evidence=seen[one.observed][case.asset]) if one.observed else case
                found[self._key(one)].append(self._one(cases, anew, one))
            progress.add(len(variants))
        return {
            key: Counted(np.stack([sums for sums, _ in counted]), np.array([seconds for _, seconds in counted]))
            for key, counted in found.items()
        }

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

    def _key(self, variant: Variant) -> str:
        told = [told_values(variant.decide), variant.head, variant.observed, DECIDE_VERSION]
        return digest(told)[:32]

    def _address(self, part: Part, start: int) -> str:
        return storage.join(self._folder, f"{part.identity[:32]}-{start}.npz")

    def _write(self, part: Part, start: int, counted: Mapping[str, Counted]) -> None:
        arrays = {f"{key}-{name}": getattr(one, name) for key, one in counted.items() for name in ("sums", "seconds")}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        storage.write_bytes(self._address(part, start), content.getvalue())

    def _read(self, part: Part, start: int) -> dict[str, Counted]:
        """By the variants' keys."""
        address = self._address(part, start)
        if not storage.exists(address):
            return {}
        with np.load(io.BytesIO(storage.read_bytes(address))) as stored:
            keys = {name.partition("-")[0] for name in stored.files}
            return {key: Counted(stored[f"{key}-sums"], stored[f"{key}-seconds"]) for key in keys}


def _joined(parts: Sequence[Counted]) -> Counted:
    return Counted(np.concatenate([one.sums for one in parts]), np.concatenate([one.seconds for one in parts]))
