"""What predicted quality is worth on images and labelers that it did not learn from, against mean entropy alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from models.quality.config import QualityConfig
from models.quality.features import ENTROPY_MEAN
from models.quality.model import QualityModel
from pipelines.evaluation.bootstrap import paired_interval
from pipelines.quality.records import NO_CLASS, Records

Numbers = npt.NDArray[np.float64]
MIN_IMAGES = 4
"""Of a main class, before its rank correlation means anything."""


@dataclass(frozen=True)
class Unseen:
    """Predictions [L, n] by models that saw neither the labeler nor the image, and what there is to compare them with.
    covered: bool [L, n], whether the interval holds the truth."""

    predicted: Numbers
    entropy: Numbers
    truth: Numbers
    covered: npt.NDArray[np.bool_]


def fitted(records: Records, labelers: Sequence[int], images: Sequence[int], config: QualityConfig) -> QualityModel:
    """A model of these labelers' labels of these images. Raises ValueError for fewer images than folds."""
    features = records.features[np.ix_(labelers, images)].reshape(-1, records.features.shape[2])
    of, together = (np.tile(numbers, len(labelers)) for numbers in (np.asarray(images), records.groups[list(images)]))
    return QualityModel.fit(features, records.truth[np.ix_(labelers, images)].ravel(), of, config, together=together)


def others(records: Records, labeler: int) -> list[int]:
    """Who teaches what is judged on one labeler: all others, or, where there are none, itself."""
    rest = [number for number in range(len(records.labelers)) if number != labeler]
    return rest or [labeler]


def unseen(records: Records, config: QualityConfig) -> Unseen:
    """Every labeler's label of every image, predicted from other labelers and other images."""
    predicted, covered = np.zeros_like(records.truth), np.zeros(records.truth.shape, bool)
    groups, group_of = np.unique(records.groups, return_inverse=True)
    fold = (np.random.default_rng(config.seed + 1).permutation(len(groups)) % config.folds)[group_of]
    for number in range(config.folds):
        out = np.flatnonzero(fold == number)
        seen = np.flatnonzero(fold != number)
        for labeler in range(len(records.labelers)):
            model = fitted(records, others(records, labeler), seen.tolist(), config)
            told = model.predict(records.features[labeler, out]).astype(np.float64)
            predicted[labeler, out] = told[:, 0]
            truth = records.truth[labeler, out]
            covered[labeler, out] = (told[:, 1] <= truth) & (truth <= told[:, 2])
    # Less entropy, better label.
    return Unseen(predicted, -records.features[..., ENTROPY_MEAN].astype(np.float64), records.truth, covered)


def spearman(a: Numbers, b: Numbers) -> float:
    """Rank correlation; NaN where one of the two never changes."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def within(scores: Numbers, truth: Numbers, groups: Sequence[npt.NDArray[np.intp]]) -> float:
    """Mean rank correlation [L, n] within groups of images, each as often as it has images; NaN where none tells."""
    found = [(spearman(scores[:, g].ravel(), truth[:, g].ravel()), len(g)) for g in groups]
    told = [(value, size) for value, size in found if not np.isnan(value)]
    return sum(v * s for v, s in told) / sum(s for _, s in told) if told else float("nan")


def groups_of(main: npt.NDArray[np.int64], chosen: Sequence[int]) -> list[npt.NDArray[np.intp]]:
    """Numbers of the chosen images by main class, of classes that have enough of them."""
    images = np.asarray(chosen)
    found = [images[main[images] == index] for index in np.unique(main[images]) if index != NO_CLASS]
    return [group for group in found if len(np.unique(group)) >= MIN_IMAGES]


def kept_mean(scores: Numbers, truth: Numbers, refuse: float) -> float:
    """Mean IoU of each labeler's labels without the share of them that scores worst, over labelers."""
    keep = max(1, round((1 - refuse) * scores.shape[1]))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :keep]
    return float(np.take_along_axis(truth, best, 1).mean())


def against_entropy(
    found: Unseen, rows: Sequence[int], value: Callable[[Numbers, Numbers, Sequence[int]], float], resamples: int
) -> dict[str, Any]:
    """A number by predicted quality and by entropy, of the labels of labelers `rows`. value: of scores and truth [L, n]
    and the numbers of images, some of them several times."""
    predicted, entropy, truth = (part[list(rows)] for part in (found.predicted, found.entropy, found.truth))
    everything = range(truth.shape[1])

    def gain(images: Sequence[int]) -> float:
        return value(predicted, truth, images) - value(entropy, truth, images)

    interval = paired_interval(truth.shape[1], gain, 0, resamples)
    return {
        "predicted": _rounded(value(predicted, truth, everything)),
        "entropy": _rounded(value(entropy, truth, everything)),
        "difference": _rounded(gain(everything)),
        "interval_95": None if interval is None else [_rounded(end) for end in interval],
    }


def promise(records: Records, config: QualityConfig, bad_below: float, risk: float, splits: int) -> dict[str, Any]:
    """What the promised share of bad labels was on halves, and labelers, that the threshold was not chosen on; also by
    labeler (`bad_and_accepted_of`)."""
    groups = np.unique(records.groups)
    bad, accepted = (np.zeros((splits, len(records.labelers))) for _ in range(2))
    kept = []
    for split in range(splits):
        chosen = np.random.default_rng([config.seed, split]).permutation(groups)[: len(groups) // 2]
        aside = np.isin(records.groups, chosen)
        half, other = np.flatnonzero(aside).tolist(), np.flatnonzero(~aside)
        for labeler in range(len(records.labelers)):
            model = fitted(records, others(records, labeler), half, config)
            scores = model.predict(records.features[labeler, other])[:, 0]
            taken = scores >= model.accept_threshold(bad_below, risk)
            truth = records.truth[labeler, other]
            bad[split, labeler] = (taken & (truth < bad_below)).mean()
            accepted[split, labeler] = taken.mean()
            kept += truth[taken].tolist()
    return {
        "promised": risk,
        "bad_and_accepted": _rounded(bad.mean()),
        "bad_and_accepted_of": dict(zip(records.labelers, map(_rounded, bad.mean(0)), strict=True)),
        "bad": _rounded((records.truth < bad_below).mean()),
        "accepted": _rounded(accepted.mean()),
        "miou_of_accepted": _rounded(np.mean(kept)) if kept else None,
    }


def report(
    records: Records, config: QualityConfig, bad_below: float, risk: float, refuse: float, splits: int, resamples: int
) -> dict[str, Any]:
    """All numbers. `own`: of the first labeler, which is the run's where it is among them."""
    found = unseen(records, config)
    everyone = range(len(records.labelers))

    def rank(scores: Numbers, truth: Numbers, images: Sequence[int]) -> float:
        return within(scores, truth, groups_of(records.main, images))

    def kept(scores: Numbers, truth: Numbers, images: Sequence[int]) -> float:
        chosen = list(images)
        return kept_mean(scores[:, chosen], truth[:, chosen], refuse)

    classes = [
        {
            "class": records.names[int(records.main[group[0]])],
            "images": len(group),
            "predicted": _rounded(within(found.predicted, found.truth, [group])),
            "entropy": _rounded(within(found.entropy, found.truth, [group])),
        }
        for group in groups_of(records.main, range(records.truth.shape[1]))
    ]
    return {
        "rank_within_class": against_entropy(found, everyone, rank, resamples),
        "rank_within_class_own": against_entropy(found, [0], rank, resamples),
        "classes": sorted(classes, key=lambda row: (-int(str(row["images"])), str(row["class"]))),
        "rank": {
            name: _rounded(np.mean([spearman(scores[labeler], found.truth[labeler]) for labeler in everyone]))
            for name, scores in (("predicted", found.predicted), ("entropy", found.entropy))
        },
        "coverage": {"promised": config.coverage, "held": _rounded(found.covered.mean())}
        | {name: _rounded(found.covered[number].mean()) for number, name in enumerate(records.labelers)},
        "promise": promise(records, config, bad_below, risk, splits),
        "miou": _rounded(records.truth.mean()),
        "miou_own": _rounded(records.truth[0].mean()),
        "miou_of_labelers": {
            name: _rounded(row.mean()) for name, row in zip(records.labelers, records.truth, strict=True)
        },
        "kept": against_entropy(found, everyone, kept, resamples),
        "kept_own": against_entropy(found, [0], kept, resamples),
    }


def _rounded(value: Any) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 5)
