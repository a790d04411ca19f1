"""The settings of the quality model. Free of torch, so that reading them is quick."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _option(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with its help text and, for numbers, its inclusive range."""
    return field(default=default, metadata={"help": help} | ({} if low is None else {"range": (low, high)}))


@dataclass(frozen=True)
class QualityConfig:
    """how a label's IoU is predicted without gold"""

    kind: Literal["ridge", "stumps"] = _option(
        "ridge", "ridge: a linear model; stumps: gradient-boosted trees of one split each"
    )
    penalty: float = _option(
        200.0, "ridge: weight of the squared coefficients (of standardised features), in records", 0.001, 1e6
    )
    rounds: int = _option(150, "stumps: how many of them", 1, 10_000)
    learning_rate: float = _option(0.05, "stumps: share of each one's answer that is added", 0.001, 1.0)
    bins: int = _option(16, "stumps: splits tried on each feature, at equal shares of the records", 2, 256)
    folds: int = _option(
        5, "parts that the images are cut into, each predicted by a model that learned from the others", 2, 100
    )
    coverage: float = _option(0.9, "share of new labels whose IoU lies inside the predicted interval", 0.5, 0.999)
    seed: int = _option(0, "draws the folds", 0, 2**31)
