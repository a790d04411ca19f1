"""What a method is worth: the labels with and without it on the same images, and how sure that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np

from pipelines.ablation.methods import Method
from pipelines.ablation.variants import Counted, Sums, Variant
from pipelines.evaluation.bootstrap import paired_interval
from pipelines.evaluation.score import VOC7

HELPS, UNPROVEN, MISSED, OFF = "on, helps", "ON, NOT SHOWN TO HELP", "OFF, WOULD HELP", "off"
"""What is said of a default."""


@dataclass(frozen=True)
class Pair:
    """With and without a method, once for each seed; one of each where nothing is fitted."""

    on: tuple[Variant, ...]
    off: tuple[Variant, ...]


@dataclass(frozen=True)
class Comparison:
    """A method within everything that the run does, and alone."""

    method: Method
    within: Pair
    alone: Pair

    @property
    def variants(self) -> list[Variant]:
        return [*self.within.on, *self.within.off, *self.alone.on, *self.alone.off]


@dataclass(frozen=True)
class Metric:
    """A mean of IoU over classes; ids: common indices, None for all that occur in the gold."""

    name: str
    ids: tuple[int, ...] | None

    def __call__(self, sums: Sums) -> float:
        """Of the pixels of all images, int64 [3, C]; NaN where none of the classes is in the gold."""
        right, occurs, found = sums if self.ids is None else sums[:, self.ids]
        there = occurs > 0
        if not there.any():
            return float("nan")
        return float((right[there] / (occurs + found - right)[there]).mean())


def metrics_of(names: Sequence[str]) -> list[Metric]:
    """`miou`, and `miou_voc7` where there are its classes; names: what the common indices mean."""
    seven = tuple(names.index(name) for name in VOC7 if name in names)
    return [Metric("miou", None), *([Metric("miou_voc7", seven)] if seven else [])]


def compare(
    one: Comparison, counted: Callable[[Variant], Counted], metrics: Sequence[Metric], resamples: int
) -> dict[str, Any]:
    """The numbers of a method, by metric; `spread`: standard deviation over seeds."""
    row: dict[str, Any] = {"with": {}, "without": {}, "gain": {}, "alone": {}}
    for metric in metrics:
        within, alone = (_numbers(pair, counted, metric, resamples) for pair in (one.within, one.alone))
        row["with"][metric.name], row["without"][metric.name] = within["with"], within["without"]
        row["gain"][metric.name], row["alone"][metric.name] = within["gain"], alone
    sides = (("with", one.within.on), ("without", one.within.off))
    row["seconds_per_image"] = {
        side: round(mean(float(counted(variant).seconds.mean()) for variant in chosen), 5) for side, chosen in sides
    }
    return row


def _numbers(pair: Pair, counted: Callable[[Variant], Counted], metric: Metric, resamples: int) -> dict[str, Any]:
    """The interval is of the mean gain over the seeds, whose images are drawn together."""
    both = [(counted(on).sums, counted(off).sums) for on, off in zip(pair.on, pair.off, strict=True)]
    distinct = list(dict.fromkeys(zip(pair.on, pair.off, strict=True)))
    values = [(metric(on.sum(0)), metric(off.sum(0))) for on, off in both]

    def gain(chosen: Sequence[int]) -> float:
        return mean(metric(on[chosen].sum(0)) - metric(off[chosen].sum(0)) for on, off in both)

    if len(distinct) == 1:
        both = both[:1]
    interval = paired_interval(len(both[0][0]), gain, 0, resamples)
    gains = [on - off for on, off in values]
    return {
        "with": {"mean": rounded(mean(on for on, _ in values)), "spread": _spread([on for on, _ in values])},
        "without": {"mean": rounded(mean(off for _, off in values)), "spread": _spread([off for _, off in values])},
        "gain": {
            "mean": rounded(mean(gains)),
            "spread": _spread(gains),
            "interval_95": interval and [rounded(value) for value in interval],
        },
    }


def verdict(default: bool, gain: dict[str, Any]) -> str:
    """Whether the default is what the interval of the gain says that it should be."""
    helps = gain["interval_95"] is not None and gain["interval_95"][0] > 0
    return (HELPS if helps else UNPROVEN) if default else (MISSED if helps else OFF)


def _spread(values: Sequence[float]) -> float | None:
    return rounded(stdev(values)) if len(values) > 1 and not np.isnan(values).any() else None


def rounded(value: float) -> float | None:
    """As it is written; None for what the gold cannot tell."""
    return None if np.isnan(value) else round(value, 5) + 0.0
