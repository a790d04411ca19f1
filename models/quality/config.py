"""The settings of the quality model. Free of torch, so that reading them is quick."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class QualityConfig:
    """How a label's IoU is predicted without gold."""

    kind: Literal["ridge", "stumps"] = "ridge"
    """ridge: a linear model; stumps: gradient-boosted trees of one split each."""
    penalty: float = 200.0
    """ridge: weight of the squared coefficients (of standardised features), in records."""
    rounds: int = 150
    """stumps: how many of them."""
    learning_rate: float = 0.05
    """stumps: share of each one's answer that is added, 0..1."""
    bins: int = 16
    """stumps: splits tried on each feature, at equal shares of the records."""
    folds: int = 5
    """Parts that the images are cut into, each predicted by a model that learned from the others; at least 2."""
    coverage: float = 0.9
    """Share of new labels whose IoU lies inside the predicted interval, 0..1."""
    seed: int = 0
    """Draws the folds."""
