"""Which pixels a person should look at: regions that are both mixed and doubtful."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Scores = npt.NDArray[np.float32]


def region_scores(rows: npt.NDArray[np.integer], confidence: npt.NDArray[np.floating], radius: int) -> Scores:
    """Impurity times uncertainty of the square of 2 radius + 1 around every pixel, float32 [h, w], 0..1.

    rows: [h, w], the predicted class of each pixel, any numbers. confidence: [h, w], probability of that class, 0..1.
    Impurity is the entropy of the classes in the square, as a share of the largest that the image's classes allow, so
    classes that are not in the image change nothing; uncertainty the mean entropy of "this class or not". At the border
    only what lies inside counts. RIPU, Xie et al. (2021), https://arxiv.org/abs/2111.12940.
    """
    side = 2 * radius + 1
    inside = _sums(np.ones(rows.shape, np.float32), side)
    classes = np.unique(rows)
    impurity = np.zeros(rows.shape, np.float32)
    for one in classes:
        share = np.clip(_sums((rows == one).astype(np.float32), side) / inside, 0, 1)
        impurity -= share * np.log(np.maximum(share, 1e-12))
    impurity /= np.log(max(2, len(classes)))
    # Below one half the class is more doubtful than a coin, which cannot be told from a coin.
    sure = np.clip(confidence.astype(np.float32), 0.5, 1)
    doubt = -(sure * np.log2(sure) + (1 - sure) * np.log2(np.maximum(1 - sure, 1e-12)))
    return np.asarray(np.clip(impurity, 0, 1) * _sums(doubt, side) / inside, np.float32)


def pick_regions(scores: Scores, radius: int, count: int, least: float = 1e-4) -> list[tuple[int, int, float]]:
    """(row, column, score) of the centres of at most `count` squares that do not overlap, best first.

    scores: of `region_scores`. Squares with less than `least` are not worth a look.
    """
    left = scores.copy()
    found: list[tuple[int, int, float]] = []
    while len(found) < count and left.size:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        score = float(left[row, column])
        if score < least:
            break
        found.append((int(row), int(column), score))
        left[max(0, row - 2 * radius) : row + 2 * radius + 1, max(0, column - 2 * radius) : column + 2 * radius + 1] = 0
    return found


def _sums(values: Scores, side: int) -> Scores:
    """The sum over the part of each square that lies inside the image."""
    return np.asarray(ndimage.uniform_filter(values, side, mode="constant") * side * side, np.float32)
