"""What a difference between two labelers is worth: the interval in which it would lie for other images of the kind."""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def paired_interval(
    images: int, gain: Callable[[Sequence[int]], float], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """95 % interval of a gain over images drawn again, the same for both sides (paired percentile bootstrap); None for
    fewer than two images. gain: of the images with these numbers, NaN where they cannot tell: such a draw is left out,
    and where all are, the interval is None. Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993."""
    if images < 2:
        return None
    draws = np.random.default_rng(seed).integers(0, images, (resamples, images))
    gains = np.array([gain(chosen) for chosen in draws])
    told = gains[~np.isnan(gains)]
    if not len(told):
        return None
    low, high = np.quantile(told, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
