"""Who is right how often: what the label model learns at one level, and what it must be better than."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.label_model import ABSTAIN, LabelModel, LabelModelConfig, few_shot_regression, majority_vote
from pipelines.ablation.compare import rounded
from pipelines.weighing.collect import Level, Numbers

WAYS = ("majority", "label_model", "label_model_with_gold", "few_shot", "published")
"""What is compared: plain majority; the label model without gold and with; a regression from the same gold; the labels
as they are."""
Proba = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Fits:
    """blind: without gold. told: with all of it. halves: with that of the other half than 0 and 1; None without
    gold."""

    blind: LabelModel
    told: LabelModel | None = None
    halves: tuple[LabelModel, LabelModel] | None = None


def fit(level: Level, half: npt.NDArray[np.int8], config: LabelModelConfig) -> Fits:
    """half: int8 [N], of each image with gold, 0 or 1; -1 of the others."""
    if level.classes == 2:
        # Who sees a class, and who does not see it, err in two ways.
        config = replace(config, confusion="class")
    blind = LabelModel.fit(level.votes, level.classes, config=config)
    if not (half >= 0).any():
        return Fits(blind)
    known, of = level.truth != ABSTAIN, half[level.image]

    def told(items: npt.NDArray[np.bool_]) -> LabelModel:
        chosen = np.flatnonzero(items)
        return LabelModel.fit(level.votes, level.classes, (chosen, level.truth[chosen]), config=config)

    return Fits(blind, told(known & (of >= 0)), (told(known & (of == 1)), told(known & (of == 0))))


def sources(level: Level, fits: Fits) -> list[dict[str, Any]]:
    """Of each that says anything: what was learned of it, how often gold says that it is right, and how often the
    published label says the same."""
    found = []
    for number, name in enumerate(level.sources):
        said = level.votes[:, number] != ABSTAIN
        if not said.any():
            continue
        right, agrees = (
            _share(level.votes[:, number], other, said & (other != ABSTAIN)) for other in (level.truth, level.published)
        )
        found.append(
            {
                "source": name,
                "accuracy": rounded(float(fits.blind.accuracy[number])),
                "accuracy_with_gold": None if fits.told is None else rounded(float(fits.told.accuracy[number])),
                "right_on_gold": right,
                "coverage": rounded(float(fits.blind.coverage[number])),
                "agrees_with_published": agrees,
            }
        )
    return found


def _share(found: Numbers, wanted: Numbers, where: npt.NDArray[np.bool_]) -> float | None:
    return rounded(float((found == wanted)[where].mean())) if where.any() else None


def compare(level: Level, fits: Fits, half: npt.NDArray[np.int8], penalty: float) -> dict[str, Any]:
    """Accuracy and its mean over classes of each way on gold that it was not fitted on; how often each says what the
    published label says, on all images."""
    ways = {
        "majority": _best(level, majority_vote(level.votes, level.classes)),
        "label_model": _best(level, fits.blind.predict(level.votes)),
    }
    if fits.halves is not None:
        of = half[level.image]
        sides = [_best(level, model.predict(level.votes)) for model in fits.halves]
        ways["label_model_with_gold"] = np.where(of == 0, sides[0], sides[1])
        ways["few_shot"] = _few_shot(level, of, penalty)
        ways["published"] = level.published
    result: dict[str, Any] = {}
    for name, found in ways.items():
        said = (level.published != ABSTAIN) & (found != ABSTAIN)
        result[name] = {**_accuracy(level, found, half), "agrees_with_published": _share(found, level.published, said)}
    return result


def _accuracy(level: Level, found: Numbers, half: npt.NDArray[np.int8]) -> dict[str, Any]:
    judged = (level.truth != ABSTAIN) & (half[level.image] >= 0)
    truth, right = level.truth[judged], (found == level.truth)[judged]
    each = [float(right[truth == number].mean()) for number in np.unique(truth)]
    return {
        "accuracy": rounded(float(right.mean())) if len(right) else None,
        "mean_class_accuracy": rounded(float(np.mean(each))) if each else None,
    }


def _best(level: Level, proba: Proba) -> Numbers:
    """The likeliest of the classes that take part."""
    return np.asarray(np.where(level.allowed, proba, -1.0).argmax(1), np.int16)


def _few_shot(level: Level, of: npt.NDArray[np.int8], penalty: float) -> Numbers:
    """From the features of one half what is in the other, a regression for each question; -1 without gold."""
    found = np.full(len(of), ABSTAIN, np.int16)
    for question in np.unique(level.question):
        asked = (level.question == question) & (level.truth != ABSTAIN)
        for side in (0, 1):
            learn, test = np.flatnonzero(asked & (of == 1 - side)), np.flatnonzero(asked & (of == side))
            if not len(learn) or not len(test):
                continue
            both = np.concatenate([learn, test])
            gold = np.arange(len(learn)), level.truth[learn]
            proba = few_shot_regression(level.features[level.feature[both]], gold, level.classes, penalty)[len(learn) :]
            found[test] = np.where(level.allowed[test], proba, -1.0).argmax(1)
    return found
