"""Confidence that means what it says: a monotone map from the confidence of *decide* to the share that is right.

Fitted on pixels that people judged, kept as counts for each of the 256 levels that a stored confidence has
(`models.metrics.TradeOff`), so that parts of a corpus can be counted apart. Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017 (temperature); Zadrozny and Elkan, KDD 2002 (isotonic).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

LEVELS = 256
KNOTS = 17
"""Points of a table: at equal steps of confidence from 0 to 1, linear in between."""
Table = tuple[float, ...]


def isotonic_table(pixels: npt.NDArray[np.number], right: npt.NDArray[np.number], knots: int = KNOTS) -> Table:
    """The rising table that fits best: [knots] numbers 0..1, for `apply_table`.

    pixels, right: [256], judged pixels at each level of confidence and how many of them are right (weights will do).
    Levels that no pixel has take what lies between their neighbours. Raises ValueError where nothing was judged.
    """
    pixels, right = _checked(pixels, right)
    at = np.linspace(0, knots - 1, LEVELS)
    # Each level counts for the two knots around it, by nearness.
    near = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(knots)))
    mass, hits = pixels @ near, right @ near
    seen = np.flatnonzero(mass > 1e-9 * mass.sum())
    fitted = pool_adjacent_violators(hits[seen] / mass[seen], mass[seen])
    return tuple(round(float(value), 4) for value in np.interp(np.arange(knots), seen, fitted))


def temperature_table(pixels: npt.NDArray[np.number], right: npt.NDArray[np.number], knots: int = KNOTS) -> Table:
    """The table of one temperature, the likeliest one: odds of a confidence to the power 1 / temperature.

    One number, so that it needs little gold; it keeps 1/2 where it is, and cannot mend a bias there.
    """
    pixels, right = _checked(pixels, right)
    odds = _log_odds(np.arange(LEVELS) / (LEVELS - 1))

    def loss(log_temperature: float) -> float:
        scaled = odds / np.exp(log_temperature)
        return float(pixels @ np.logaddexp(0, scaled) - right @ scaled)

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
    values = 1 / (1 + np.exp(-_log_odds(np.linspace(0, 1, knots)) / temperature))
    return tuple(round(float(value), 4) for value in values)


def apply_table(confidence: npt.NDArray[np.float32], table: Sequence[float]) -> npt.NDArray[np.float32]:
    """Confidences 0..1 of any shape through a table; an empty one leaves them as they are, bit by bit.

    Raises ValueError for a table of one number, or one that falls or leaves 0..1: the order of pixels must survive.
    """
    if not len(table):
        return confidence
    values = np.asarray(table, np.float64)
    if len(values) < 2 or (np.diff(values) < 0).any() or values[0] < 0 or values[-1] > 1:
        raise ValueError(f"a confidence table has two numbers or more that rise within 0..1, not {tuple(table)}")
    return np.interp(confidence, np.linspace(0, 1, len(values)), values).astype(np.float32)


def pool_adjacent_violators(
    values: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The rising sequence nearest to values [n] in weighted squares, weight [n] > 0. Ayer et al., 1955."""
    blocks: list[list[float]] = []  # Mean, weight and length of each run that shares a value.
    for value, mass in zip(values, weight, strict=True):
        blocks.append([float(value), float(mass), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, heavy, count = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + mean * heavy) / (before[1] + heavy)
            before[1], before[2] = before[1] + heavy, before[2] + count
    return np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])


def _log_odds(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    inside = np.clip(p, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _checked(
    pixels: npt.NDArray[np.number], right: npt.NDArray[np.number]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    judged, hits = np.asarray(pixels, np.float64), np.asarray(right, np.float64)
    if judged.shape != (LEVELS,) or hits.shape != (LEVELS,):
        raise ValueError(f"counts for {LEVELS} levels are needed, not {judged.shape} and {hits.shape}")
    if judged.sum() <= 0 or (hits > judged + 1e-6).any() or (hits < 0).any():
        raise ValueError("no pixel was judged, or more of a level are right than there are")
    return judged, hits
