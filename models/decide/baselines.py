"""What a labeler must beat: labels that look at no picture, and our own with its later steps switched off."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.decide.config import HEAT_ONLY, HEAT_PAR, DecideConfig
from models.decide.finish import rows_to_ids
from models.decide.types import ClassArrays, WeakArrays

CENTRE_SHARE = 0.5
"""The ellipse around the centre that covers half of the frame: about what objects cover in photographs of objects."""


def centre_prior(
    classes: ClassArrays, weak: WeakArrays, height: int, width: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Class map [height, width] from the tags alone: the present classes lie in a central ellipse, background around.

    With several present classes the ellipse is cut into upright strips of equal width, in class order. Without tags, or
    with none present, all is background. A class set without background gives strips over the whole frame.
    """
    present = np.flatnonzero(weak.present) if weak.present is not None else np.zeros(0, np.intp)
    rows = np.full((height, width), -1, np.int32)
    if len(present):
        half = np.sqrt(CENTRE_SHARE / np.pi)  # Half axes as shares of the frame: pi * half^2 = CENTRE_SHARE.
        y = ((np.arange(height) + 0.5) / height - 0.5)[:, None] / half
        x = ((np.arange(width) + 0.5) / width - 0.5)[None] / half
        inside = (y * y + x * x <= 1) | (classes.background_id is None)
        span = 1.0 if classes.background_id is not None else 0.5 / half
        strip = np.clip(((x / span + 1) / 2 * len(present)).astype(np.intp), 0, len(present) - 1)
        rows = np.where(inside, present[strip], -1).astype(np.int32)
    return rows_to_ids(rows, classes)


def heat_only(config: DecideConfig) -> DecideConfig:
    """The same settings with text heat alone: no refinement, no masks."""
    return replace(config, **HEAT_ONLY)  # type: ignore[arg-type]


def heat_par(config: DecideConfig) -> DecideConfig:
    """The same settings with text heat and its refinement, no masks."""
    return replace(config, **HEAT_PAR)  # type: ignore[arg-type]
