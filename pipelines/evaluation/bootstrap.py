"""What a difference between two labelers is worth: the interval in which it would lie for other images of the kind."""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def paired_interval(
    images: int, gain: Callable[[Sequence[int]], float], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """95 % interval of a gain over images drawn again, the same for both sides (paired percentile bootstrap); None for
    fewer than two images. gain: of the images with these numbers. Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993."""
    if images < 2:
        return None
    from scipy import stats  # not for --help

    found = stats.bootstrap(
        (np.arange(images),),
        gain,
        n_resamples=resamples,
        vectorized=False,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
