"""One label from the votes of many noisy sources, weighed by how often each is right.

Votes are at any level: images, segments, sampled pixels. Dawid and Skene, "Maximum Likelihood Estimation of Observer
Error-Rates Using the EM Algorithm", Applied Statistics 1979; as the label model of AutoWS-Bench-101 (NeurIPS 2022),
whose honest baselines, the majority vote and a few-shot logistic regression, stand beside it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

ABSTAIN = -1
SURE = 1e-9  # Least probability of anything: what was never seen is not impossible.
Votes = npt.NDArray[np.integer]
Proba = npt.NDArray[np.float32]
Gold = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]


def _option(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with its help text and, for numbers, its inclusive range."""
    metadata: dict[str, Any] = {"help": text}
    if low is not None:
        metadata["range"] = (low, high)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class LabelModelConfig:
    """how sources are believed to err"""

    confusion: Literal["symmetric", "class"] = _option(
        "symmetric",
        "symmetric: one accuracy for each source, its errors are spread evenly; class: a confusion matrix for each",
    )
    iterations: int = _option(100, "steps of EM at most", 1, 10_000)
    tolerance: float = _option(1e-5, "EM ends when no probability moved by more than this", 0.0, 1.0)
    smoothing: float = _option(
        1.0, "votes that each source is credited with beforehand, right as often as `expected` says", 0.0, 1e6
    )
    expected: float = _option(0.7, "accuracy of a source that nothing is known of", 0.0, 1.0)
    gold_weight: float = _option(
        1.0, "how much an item of gold counts against one without; above 1 where gold is rare beside the rest", 0.0, 1e6
    )
    learn_prior: bool = _option(True, "whether the share of each class is learned too, where no prior is given")


@dataclass(frozen=True)
class LabelModel:
    """confusion: float64 [S, C, C], probability of each vote (columns) for each true class (rows), given that the
    source votes. prior: float64 [C], share of each class. coverage: float64 [S], share of items it votes on."""

    confusion: npt.NDArray[np.float64]
    prior: npt.NDArray[np.float64]
    coverage: npt.NDArray[np.float64]

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Probability that a vote of each source is right, float64 [S], over classes as frequent as the prior says."""
        return np.asarray(np.einsum("scc,c->s", self.confusion, self.prior))

    @classmethod
    def fit(
        cls,
        votes: Votes,
        num_classes: int,
        gold: Gold | None = None,
        prior: npt.NDArray[np.floating] | None = None,
        config: LabelModelConfig | None = None,
    ) -> "LabelModel":
        """Learn from votes int [n, S], -1 where a source abstains (taken to say nothing about the class).

        gold: (items int [m], classes int [m]) whose class is known. prior: [C], share of each class, kept as given.
        Begins at the majority vote, so that sources that are right more often than any other answer are needed, or
        gold. Sources that copy each other are believed too much; only gold can tell. Raises ValueError for votes or
        gold outside 0..C-1.
        """
        config = config or LabelModelConfig()
        votes = _checked(votes, num_classes)
        shares = np.full(num_classes, 1 / num_classes) if prior is None else np.asarray(prior, np.float64)
        if shares.shape != (num_classes,) or (shares < 0).any() or shares.sum() <= 0:
            raise ValueError(f"a prior is {num_classes} shares that are not negative, not {prior!r}")
        shares = shares / shares.sum()
        weight = np.ones(len(votes))
        known, truth = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if gold is not None:
            known, truth = (np.asarray(part, np.int64) for part in gold)
            if len(known) != len(truth) or (truth < 0).any() or (truth >= num_classes).any():
                raise ValueError(f"gold is one class of 0..{num_classes - 1} for each item")
            weight[known] = config.gold_weight
        proba = majority_vote(votes, num_classes, shares.astype(np.float32)).astype(np.float64)
        coverage = (votes != ABSTAIN).mean(0) if len(votes) else np.zeros(votes.shape[1])
        model = None
        for _ in range(config.iterations):
            proba[known] = np.eye(num_classes)[truth]
            counts = _counts(votes, proba * weight[:, None])
            if prior is None and config.learn_prior and len(votes):
                shares = (proba * weight[:, None]).sum(0) + 1
                shares /= shares.sum()
            model = cls(_confusion(counts, config), shares, coverage)
            before, proba = proba, model._posterior(votes)
            proba[known] = before[known]
            if not len(proba) or np.abs(proba - before).max() < config.tolerance:
                break
        assert model is not None
        return model

    def predict(self, votes: Votes) -> Proba:
        """Probability of each class, float32 [n, C]; the prior where every source abstains."""
        return self._posterior(_checked(votes, len(self.prior))).astype(np.float32)

    def _posterior(self, votes: Votes) -> npt.NDArray[np.float64]:
        log = np.tile(np.log(np.maximum(self.prior, SURE)), (len(votes), 1))
        for source, matrix in enumerate(self.confusion):
            said = votes[:, source] != ABSTAIN
            log[said] += np.log(np.maximum(matrix, SURE)).T[votes[said, source]]
        log -= log.max(1, keepdims=True)
        odds = np.exp(log)
        return np.asarray(odds / odds.sum(1, keepdims=True))


def majority_vote(votes: Votes, num_classes: int, prior: npt.NDArray[np.floating] | None = None) -> Proba:
    """Share of the votes that each class got, float32 [n, C]; the prior (default: all alike) where all abstain."""
    votes = _checked(votes, num_classes)
    counts = np.zeros((len(votes), num_classes))
    for source in range(votes.shape[1]):
        said = np.flatnonzero(votes[:, source] != ABSTAIN)
        counts[said, votes[said, source]] += 1
    none = np.full(num_classes, 1 / num_classes) if prior is None else np.asarray(prior, np.float64)
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), none / none.sum()).astype(np.float32)


def few_shot_regression(
    features: npt.NDArray[np.floating], gold: Gold, num_classes: int, penalty: float = 1.0
) -> Proba:
    """What the gold alone can do: a multinomial logistic regression from features [n, F], float32 [n, C].

    Learned on the items of gold, answered for all of them. penalty: of the squared coefficients (of features scaled to
    unit variance), against the sum of the losses.
    """
    features = np.asarray(features, np.float64)
    items, truth = gold
    scaled = (features - features[items].mean(0)) / np.maximum(features[items].std(0), 1e-3 + features.std(0) * 0.1)
    scaled = np.concatenate([scaled, np.ones((len(scaled), 1))], 1)
    x, y = scaled[items], np.eye(num_classes)[truth]
    shape = (x.shape[1], num_classes)

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        w = flat.reshape(shape)
        log = _log_softmax(x @ w)
        free = w.copy()
        free[-1] = 0  # The intercept costs nothing.
        value = -float((y * log).sum()) + 0.5 * penalty * float((free**2).sum())
        return value, (x.T @ (np.exp(log) - y) + penalty * free).ravel()

    best = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.exp(_log_softmax(scaled @ best.x.reshape(shape))).astype(np.float32)


def _log_softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = values - values.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _counts(votes: Votes, proba: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Expected number of items of each true class that each source gave each vote, [S, C, C]."""
    classes = proba.shape[1]
    counts = np.zeros((votes.shape[1], classes, classes))
    for source in range(votes.shape[1]):
        said = votes[:, source] != ABSTAIN
        for row in range(classes):
            counts[source, row] = np.bincount(votes[said, source], proba[said, row], classes)
    return counts


def _confusion(counts: npt.NDArray[np.float64], config: LabelModelConfig) -> npt.NDArray[np.float64]:
    """Counts [S, C, C] to probabilities, with the credit that every source has beforehand."""
    classes = counts.shape[1]
    if classes == 1:
        return np.ones_like(counts)
    believed = np.full((classes, classes), (1 - config.expected) / (classes - 1))
    np.fill_diagonal(believed, config.expected)
    if config.confusion == "class":
        credited = counts + config.smoothing * believed
        return np.asarray(credited / np.maximum(credited.sum(2, keepdims=True), SURE))
    right, total = np.trace(counts, axis1=1, axis2=2), counts.sum((1, 2))
    accuracy = (right + config.smoothing * config.expected) / np.maximum(total + config.smoothing, SURE)
    out = np.repeat(((1 - accuracy) / (classes - 1))[:, None, None], classes, 1).repeat(classes, 2)
    diagonal = np.arange(classes)
    out[:, diagonal, diagonal] = accuracy[:, None]
    return np.asarray(out)


def _checked(votes: Votes, num_classes: int) -> Votes:
    votes = np.asarray(votes)
    if votes.ndim != 2 or (votes.size and (votes.min() < ABSTAIN or votes.max() >= num_classes)):
        raise ValueError(f"votes are [n, S] of 0..{num_classes - 1}, or {ABSTAIN} for none")
    return votes
