"""What the sources of some images say at three levels: pixels, segments of the mask bank, and whole images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from models.decide.config import DecideConfig
from models.decide.decide import frame_of, look
from models.decide.scene import Scene
from models.decide.seeds import ids_to_rows
from models.decide.source_votes import SOURCES, Votes, bank_segments, segment_votes, source_votes
from models.decide.types import WeakArrays
from models.label_model import ABSTAIN
from models.refine.grids import resize_nearest
from pipelines.evaluation.cases import Case, Cases
from pipelines.weighing.config import WeighConfig

Numbers = npt.NDArray[np.int16]
"""Classes as votes have them: 0 background, class row + 1, -1 for unknown. Of whole images: 0 not there, 1 there."""
LEVELS = ("pixels", "segments", "images")
TAGS = "tags"
"""One more source of whole images."""


@dataclass(frozen=True)
class Level:
    """Items of one level. votes: int16 [n, S]. truth, published: int16 [n], what gold and the published label say.
    image: int32 [n]. question: int32 [n], what is asked: of pixels and segments always the same, of images which class
    it is about. features: float32 [m, F], of which item i has row feature[i]: what several items share is there once.
    allowed: bool [n, C], the classes that take part in the image."""

    votes: Votes
    truth: Numbers
    published: Numbers
    image: npt.NDArray[np.int32]
    question: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]
    feature: npt.NDArray[np.int32]
    allowed: npt.NDArray[np.bool_]

    @property
    def classes(self) -> int:
        return self.allowed.shape[1]

    @property
    def sources(self) -> tuple[str, ...]:
        return (*SOURCES, TAGS)[: self.votes.shape[1]]


def joined(levels: Sequence[Level]) -> Level:
    """All items of several levels of one kind."""
    starts = np.cumsum([0, *(len(one.features) for one in levels)])
    moved = [
        replace(one, feature=(one.feature + start).astype(np.int32)) for one, start in zip(levels, starts, strict=False)
    ]
    return Level(*(np.concatenate([getattr(one, field.name) for one in moved]) for field in fields(Level)))


def seeded(seed: int, asset: str) -> bytes:
    """Orders images the same way, in whatever order they come."""
    return hashlib.sha256(f"{seed} {asset}".encode()).digest()


class Collector:
    """Asks the sources of one image after the other. base: the settings that the labels were made with."""

    def __init__(self, cases: Cases, base: DecideConfig, config: WeighConfig) -> None:
        self._cases, self._base, self._config = cases, base, config
        classes, count = cases.classes, len(cases.names)
        # Common index of gold -> number. What several label classes became is the first one's, in the votes too.
        self._of_gold = np.full(count + 1, ABSTAIN, np.int16)
        self._same = np.arange(len(classes.ids) + 1, dtype=np.int16)
        ids = [classes.background_id, *classes.ids]
        for number, class_id in enumerate(ids):
            common = count if class_id is None else int(cases.index_of[class_id])
            if common < count:
                known = self._of_gold[common]
                self._same[number] = self._of_gold[common] = number if known == ABSTAIN else known

    def __call__(self, case: Case, published: npt.NDArray[np.integer], image: int) -> dict[str, Level]:
        """By level. published: class ids [H, W] of the published label."""
        cases, base = self._cases, self._base
        frame = frame_of(case.evidence, base)
        scene = look(frame, case.evidence, cases.text, cases.classes, case.weak, base)
        # Who knows the tags knows which classes are there: of whole images the sources are asked without.
        nothing = replace(WeakArrays.none(len(cases.classes.ids)), noisy=case.weak.noisy)
        blind = look(frame, case.evidence, cases.text, cases.classes, nothing, base)
        given = self._numbers((ids_to_rows(published.astype(np.int32), cases.classes) + 1).astype(np.int16))
        gold = np.full(given.shape, ABSTAIN, np.int16) if case.gold is None else self._of_gold[case.gold]
        votes = self._votes(scene, case)
        coarse = np.stack([resize_nearest(maps, scene.size).ravel() for maps in (gold, given)], 1)
        return {
            "pixels": self._pixels(scene, votes, coarse, case.asset, image),
            "segments": self._segments(scene, votes, coarse, image),
            "images": self._classes(case, self._votes(blind, case), gold, given, image),
        }

    def _numbers(self, found: Numbers) -> Numbers:
        return np.where(found == ABSTAIN, ABSTAIN, self._same[np.maximum(found, 0)]).astype(np.int16)

    def _votes(self, scene: Scene, case: Case) -> Votes:
        return self._numbers(source_votes(scene, self._config.votes, case.of_classes))

    def _pixels(self, scene: Scene, votes: Votes, coarse: Numbers, asset: str, image: int) -> Level:
        random = np.random.default_rng(list(seeded(self._config.sample.seed, asset)))
        chosen = random.permutation(len(votes))[: self._config.sample.pixels]
        patches, feature = np.unique(_patch_of(scene)[chosen], return_inverse=True)
        return self._level(votes[chosen], coarse[chosen], _patches(scene)[patches], feature, scene, image)

    def _segments(self, scene: Scene, votes: Votes, coarse: Numbers, image: int) -> Level:
        segments = bank_segments(scene.masks)
        patches, patch = _patches(scene), _patch_of(scene)
        count = int(segments.max()) + 1
        shares = np.bincount(segments * len(patches) + patch, minlength=count * len(patches)).reshape(count, -1)
        features = (shares / shares.sum(1, keepdims=True)).astype(np.float32) @ patches
        classes = len(self._cases.classes.ids) + 1
        both = segment_votes(coarse, segments, classes)
        return self._level(segment_votes(votes, segments, classes), both, features, np.arange(count), scene, image)

    def _level(
        self,
        votes: Votes,
        both: Numbers,
        features: npt.NDArray[np.float32],
        feature: npt.NDArray[np.integer],
        scene: Scene,
        image: int,
    ) -> Level:
        """both: what gold and the published label say, [n, 2]."""
        allowed = np.zeros(len(self._cases.classes.ids) + 1, bool)
        allowed[self._same[scene.rows + 1]] = True
        allowed[0] = scene.floor is not None
        spread = np.broadcast_to(allowed, (len(votes), len(allowed)))
        image_of = np.full(len(votes), image, np.int32)
        question = np.zeros_like(image_of)
        return Level(votes, both[:, 0], both[:, 1], image_of, question, features, feature.astype(np.int32), spread)

    def _classes(self, case: Case, votes: Votes, gold: Numbers, given: Numbers, image: int) -> Level:
        """Of every class whether it is in the image."""
        rows = len(self._cases.classes.ids)
        out = np.full((rows, votes.shape[1] + 1), ABSTAIN, np.int16)
        for source in range(votes.shape[1]):
            if (said := votes[:, source][votes[:, source] != ABSTAIN]).size:
                share = np.bincount(said, minlength=rows + 1)[1:] / len(votes)
                out[:, source] = (share > 0) & (share >= self._config.sample.least_area)
        if case.weak.present is not None:
            out[case.weak.present, -1] = 1
        out[case.weak.absent, -1] = 0
        judged = np.isin(np.arange(1, rows + 1), self._of_gold) & (gold != ABSTAIN).any()
        truth = np.where(judged, np.isin(np.arange(1, rows + 1), gold), ABSTAIN).astype(np.int16)
        published = np.isin(np.arange(1, rows + 1), given).astype(np.int16)
        seen = case.evidence.features.reshape(-1, case.evidence.features.shape[2]).mean(0)
        features = np.concatenate([seen, case.evidence.embedding])
        return Level(
            out,
            truth,
            published,
            np.full(rows, image, np.int32),
            np.arange(rows, dtype=np.int32),
            features[None],
            np.zeros(rows, np.int32),
            np.ones((rows, 2), bool),
        )


def _patches(scene: Scene) -> npt.NDArray[np.float32]:
    features = scene.evidence.features
    return features.reshape(-1, features.shape[2])


def _patch_of(scene: Scene) -> npt.NDArray[np.intp]:
    """The patch that each pixel of the coarse grid lies in, intp [h*w]."""
    height, width = scene.evidence.features.shape[:2]
    numbers = np.arange(height * width).reshape(height, width)
    return np.asarray(resize_nearest(numbers, scene.size).ravel(), np.intp)
