"""What a challenger has to show before it becomes the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from pipelines.gates import QualityGate, below, gain_reasons, quality_reasons


class PromotionGate(QualityGate):
    """what a challenger has to show against the champion"""

    seeds_at_least: int = Field(default=1, ge=1, le=1000, description="trainings or searches that differ by their seed")
    numbers: Literal["evaluation", "validation"] = Field(
        default="evaluation",
        description="students: what evaluate.py --model measured on gold masks, or the trainings' own validation",
    )
    gold: str = Field(
        default="",
        description="evaluation: the --gold.uri that counts (and its split after a space); default: the only one that "
        "both were judged by",
    )


@dataclass(frozen=True)
class Judged:
    """One model's numbers. metric: the gate's. classes: IoU by class. who: the run, for people."""

    who: str
    metric: float | None
    classes: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """What is promoted, or was, on the images that count; and all of its seeds, itself first."""

    seeds: Sequence[Judged]

    @property
    def itself(self) -> Judged:
        return self.seeds[0]

    @property
    def mean(self) -> float | None:
        """Of the metric over the seeds; None where one of them lacks it."""
        values = [one.metric for one in self.seeds if one.metric is not None]
        return fmean(values) if len(values) == len(self.seeds) else None

    def told(self) -> dict[str, Any]:
        """For tags and results."""
        return {"mean": self.mean, "seeds": {one.who: one.metric for one in self.seeds}}


def verdict(gate: PromotionGate, new: Side, old: Side | None) -> list[str]:
    """Why the gate stays shut; empty where it opens. old: None where there is nothing to compare with.

    Both must hold: the version itself is better than what it replaces, and so are its seeds in the mean, so that
    neither a lucky seed nor the unlucky one of a good recipe is promoted.
    """
    reasons = below("number of seeds", len(new.seeds), gate.seeds_at_least)
    if old is None:
        return reasons + ([] if new.itself.metric is not None else [f"{gate.metric} was not measured"])
    itself = (new.itself.metric, old.itself.metric, new.itself.classes, old.itself.classes)
    reasons += quality_reasons(gate, *itself)
    if max(len(new.seeds), len(old.seeds)) > 1:
        means = f"mean {gate.metric} of {len(new.seeds)} seeds against {len(old.seeds)}"
        reasons += gain_reasons(means, new.mean, old.mean, gate.minimum_gain)
    return reasons
