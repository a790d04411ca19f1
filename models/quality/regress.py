"""Two small regressors on standardised features, in plain NumPy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.quality.config import QualityConfig

Matrix = npt.NDArray[np.float64]
MIN_SCALE = 1e-6


@dataclass(frozen=True)
class Regressor:
    """intercept + linear part + stumps, of features standardised by center and scale, float64 [F] each.

    weights: float64 [F]. stumps: feature int64 [R], threshold, below and above float64 [R]; a stump adds `below` where
    its feature is at most its threshold, and `above` elsewhere. One of the two parts is empty or zero.
    """

    center: Matrix
    scale: Matrix
    intercept: float
    weights: Matrix
    feature: npt.NDArray[np.int64]
    threshold: Matrix
    below: Matrix
    above: Matrix

    def __call__(self, features: npt.NDArray[np.floating]) -> Matrix:
        """features [n, F] to float64 [n]."""
        x = (np.asarray(features, np.float64) - self.center) / self.scale
        out = self.intercept + x @ self.weights
        if len(self.feature):
            low = x[:, self.feature] <= self.threshold
            out = out + np.where(low, self.below, self.above).sum(1)
        return np.asarray(out, np.float64)


def fit_regressor(
    features: npt.NDArray[np.floating], target: npt.NDArray[np.floating], weight: Matrix, config: QualityConfig
) -> Regressor:
    """Fit to target float [n] by weighted least squares. weight: float64 [n], of each record, not negative.

    A feature that never changes has no influence. Raises ValueError for no records, or for numbers that are not finite.
    """
    x, y = np.asarray(features, np.float64), np.asarray(target, np.float64)
    if not len(x) or x.shape[0] != len(y):
        raise ValueError(f"{x.shape[0]} rows of features for {len(y)} targets")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features and targets are finite numbers")
    weight = weight / weight.mean()
    center = np.asarray(np.average(x, axis=0, weights=weight), np.float64)
    scale = np.sqrt(np.average((x - center) ** 2, axis=0, weights=weight))
    still = scale < MIN_SCALE
    scale = np.where(still, 1.0, scale)
    x = np.where(still, 0.0, (x - center) / scale)
    mean = float(np.average(y, weights=weight))
    none = np.zeros(0)
    if config.kind == "ridge":
        gram = (x * weight[:, None]).T @ x + config.penalty * np.eye(x.shape[1])
        weights = np.asarray(np.linalg.solve(gram, x.T @ (weight * (y - mean))), np.float64)
        return Regressor(center, scale, mean, weights, np.zeros(0, np.int64), none, none, none)
    stumps = _boost(x, y - mean, weight, config)
    return Regressor(center, scale, mean, np.zeros(x.shape[1]), *stumps)


def _boost(
    x: Matrix, residual: Matrix, weight: Matrix, config: QualityConfig
) -> tuple[npt.NDArray[np.int64], Matrix, Matrix, Matrix]:
    """Gradient boosting for squared error: each stump is the split that explains most of what is left.

    Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics 2001.
    """
    edges = np.quantile(x, np.linspace(0, 1, config.bins + 1)[1:-1], axis=0)  # [bins - 1, F]
    number = (x[None] > edges[:, None]).sum(0)  # Bin of every record in every feature, 0..bins-1.
    slots = (number + np.arange(x.shape[1]) * config.bins).ravel()
    size = x.shape[1] * config.bins

    def below(values: Matrix) -> Matrix:
        """Sum of values at or below each edge, [F, bins - 1]."""
        spread = np.repeat(values, x.shape[1])
        return np.bincount(slots, spread, size).reshape(-1, config.bins).cumsum(1)[:, :-1]

    mass, total = below(weight), weight.sum()
    splits = []
    for _ in range(config.rounds):
        part, whole = below(weight * residual), float((weight * residual).sum())
        low, high = part / np.maximum(mass, 1e-9), (whole - part) / np.maximum(total - mass, 1e-9)
        gain = np.where((mass > 0) & (mass < total), low * part + high * (whole - part), -np.inf)
        f, b = np.unravel_index(int(gain.argmax()), gain.shape)
        if not np.isfinite(gain[f, b]):
            break  # No feature differs between any two records.
        steps = config.learning_rate * low[f, b], config.learning_rate * high[f, b]
        residual = residual - np.where(number[:, f] <= b, *steps)
        splits.append((int(f), edges[b, f], *steps))
    columns = list(zip(*splits, strict=True)) or [(), (), (), ()]
    return np.array(columns[0], np.int64), *(np.array(c, np.float64) for c in columns[1:])  # type: ignore[return-value]
