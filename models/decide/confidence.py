"""From strengths to probabilities, and which pixels a reader should trust."""

import numpy as np
import numpy.typing as npt

from models.decide.config import DecideConfig

Maps = npt.NDArray[np.float32]


def winners(strength: Maps, floor: float | None) -> npt.NDArray[np.int32]:
    """Row of the strongest class, int32 [h, w]; -1 (background) where none reaches floor. floor None: no background."""
    if not len(strength):
        return np.full(strength.shape[1:], -1, np.int32)
    best = strength.argmax(0).astype(np.int32)
    if floor is None:
        return best
    best[strength.max(0) < floor] = -1
    return best


def probability_of_winner(strength: Maps, won: npt.NDArray[np.int32], middle: float | None, temperature: float) -> Maps:
    """Softmax of strength / temperature over classes and background, at the winner: float32 [h, w], 0..1.

    strength: float32 [K, h, w]; won: int32 [h, w] from winners(). middle: background's strength here; None: there is no
    background. It differs from the floor that decides who wins: the best map by IoU calls pixels a class that are less
    likely than not to be it, and their confidence should say so.
    """
    if middle is not None:
        strength, won = np.concatenate([np.full((1, *won.shape), middle, np.float32), strength]), won + 1
    odds = np.exp((strength - strength.max(0)) / np.float32(temperature))
    return np.asarray(np.take_along_axis(odds, won[None], 0)[0] / odds.sum(0), np.float32)


def dynamic_threshold(mean_confidence: float, base: float, slope: float, low: float, high: float) -> float:
    """Confidence that a pixel needs in an image of this mean confidence (all 0..1): strict where the model is sure.

    CW-BASS (2025): base / (1 + exp(-slope * (mean - 0.5))), clipped to low..high. Its own defaults (base 0.6,
    slope 0.5) only span 0.300-0.337 over all images, which is a fixed threshold; ours span 0.3 to 0.79.
    """
    raw = base / (1.0 + float(np.exp(-slope * (mean_confidence - 0.5))))
    return float(np.clip(raw, low, high))


def keep_threshold(mean_confidence: float, config: DecideConfig) -> float:
    """The threshold of the configured policy, on the 1/255 steps that a stored confidence has."""
    if config.keep_policy in ("fixed", "per-class"):
        raw = config.keep_threshold
    else:
        raw = dynamic_threshold(
            mean_confidence, config.dynamic_base, config.dynamic_slope, config.dynamic_low, config.dynamic_high
        )
    return float(np.ceil(raw * 255 - 1e-6) / 255)


def bend_by_class(
    levels: npt.NDArray[np.uint8], classes: npt.NDArray[np.integer], share: float, limit: int
) -> npt.NDArray[np.uint8]:
    """Stored confidence 0..255 in which the surest `share` of each class's pixels (0..1), and no others, reach `limit`.

    levels, classes: any shape, the same. Readers know one threshold for a label; so it is not the threshold that each
    class gets but the confidence: the order within a class stays, up to ties that rounding makes, and equal pixels are
    kept together. As in CW-BASS (2025) and CromSS (2024), so that classes the model is never sure of are not lost.
    """
    limit = max(limit, 1)  # Something has to lie below it.
    out = levels.astype(np.float64)
    for value in np.unique(classes):
        where = classes == value
        own = np.sort(levels[where])[::-1]
        needed = int(own[max(1, round(share * own.size)) - 1])
        x = out[where]
        above = limit + (x - needed) * (255 - limit) / max(255 - needed, 1) if needed < 255 else np.full_like(x, 255)
        out[where] = np.where(x >= needed, np.rint(above), np.floor(x * limit / max(needed, 1)))
    return np.clip(out, 0, 255).astype(np.uint8)
