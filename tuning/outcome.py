"""What came out of a search: the winner, what it is worth on images that the search never saw, and what a trial was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from pipelines.evaluation.bootstrap import paired_interval
from tuning.objectives import Counts, Objective, iou, numbers, rounded

#: Tells a better score from one that differs in the last bits.
LEAST = 1e-9


@dataclass(frozen=True)
class Half:
    """What the default and the winner make of the same images. default, winner: int64 [N, 2, C, C + 1]."""

    default: Counts
    winner: Counts

    def gain(self, objective: Objective, chosen: Sequence[int] | slice = slice(None)) -> float:
        """How much better the winner is on these images."""
        return objective.value(self.winner[chosen].sum(0)) - objective.value(self.default[chosen].sum(0))

    def interval(self, objective: Objective, seed: int) -> tuple[float, float] | None:
        """95 % interval of the gain over images drawn again; see `paired_interval`."""
        return paired_interval(len(self.default), lambda chosen: self.gain(objective, chosen), seed)


def front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of the trials that saw all images, those that no other beats in every objective (one: the best), by number."""
    whole = [one for one in trials if one.state == TrialState.COMPLETE]

    def beaten(one: FrozenTrial, other: FrozenTrial) -> bool:
        pairs = list(zip(other.values, one.values, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [one for one in whole if not any(beaten(one, other) for other in whole)]


def choose(trials: Sequence[FrozenTrial], default: Sequence[float]) -> FrozenTrial | None:
    """The winner: of the front, the trial whose smallest gain over the default's values is the largest; None where it
    gains nothing, so that the default stays."""
    best = front(trials)
    gains = [min(a - b for a, b in zip(one.values, default, strict=True)) for one in best]
    return best[int(np.argmax(gains))] if gains and max(gains) > LEAST else None


def compare(half: Half, objectives: tuple[Objective, ...], seed: int) -> dict[str, Any]:
    """The numbers of default and winner on the same images, the gains and their intervals."""
    compared: dict[str, Any] = {
        "images": len(half.default),
        "default": rounded(numbers(half.default.sum(0), objectives)),
        "winner": rounded(numbers(half.winner.sum(0), objectives)),
        "gain": rounded({one.name: half.gain(one) for one in objectives}),
        "gain_interval_95": {},
    }
    for one in objectives:
        interval = half.interval(one, seed)
        compared["gain_interval_95"][one.name] = interval and [round(value, 5) for value in interval]
    return compared


def per_class(half: Half, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """IoU over all judged pixels by class name, of the default and of the winner; None without gold of a class."""
    return {
        part: {
            name: None if np.isnan(value) else round(float(value), 5)
            for name, value in zip(names, iou(counts.sum(0)[0]), strict=True)
        }
        for part, counts in (("default", half.default), ("winner", half.winner))
    }


def verdict(same: bool, holdout: Mapping[str, Any] | None, objectives: tuple[Objective, ...]) -> tuple[str, str]:
    """(yes, no or unclear: is the winner better than the default; the same as a sentence). same: they are equal."""
    if same:
        return "no", "no trial was better than the default, which stays"
    if holdout is None:
        return "unclear", "no image was held out, so what the gain is worth on other images is not known"
    if objectives[0].metric == "agreement" and holdout["gain"][objectives[0].name] > LEAST:
        return "unclear", "the winner's labels agree more than the default's; whether they are better is not known"
    lows = [(holdout["gain_interval_95"][one.name] or [-1.0])[0] for one in objectives]
    gains = [holdout["gain"][one.name] for one in objectives]
    if min(gains) <= LEAST:
        return "no", "the default is NOT beaten on the images that the search never saw: keep the default"
    if min(lows) <= 0:
        return "unclear", (
            "the winner is ahead on the images that the search never saw, but by no more than chance could give: "
            "the default is not clearly beaten"
        )
    return "yes", "the winner beats the default on the images that the search never saw"


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """A trial for the results file and MLflow. part: it was stopped, and its numbers are of some of the images."""
    last = trial.user_attrs["reports"][-1]
    return {
        "number": trial.number,
        "part": trial.state == TrialState.PRUNED,
        "numbers": rounded(dict(last)),
        "values": trial.params,
        "seconds": trial.user_attrs["seconds"],
    }
