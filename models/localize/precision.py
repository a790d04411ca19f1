"""How well image scores tell who has a tag: average precision, of each class over images."""

import numpy as np
import numpy.typing as npt


def average_precision(scores: npt.NDArray[np.floating], tags: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Mean precision at the ranks of the images that have the tag; ties count as the images with the tag last.

    Args:
        scores: float [N, C]. tags: int [N, C]: 1 has it, 0 has not, -1 unknown and left out.

    Returns:
        float64 [C], 0..1; NaN for a class of which no image, or every one, is known to have the tag.
    """
    found = np.full(tags.shape[1], np.nan)
    for column in range(tags.shape[1]):
        known = tags[:, column] >= 0
        has, given = tags[known, column] == 1, scores[known, column]
        if not has.any() or has.all():
            continue
        ranked = has[np.lexsort((has, -given))]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        found[column] = precision[ranked].mean()
    return found
