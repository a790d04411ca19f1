"""What a side's maps are worth against gold, and how sure a difference between two sides is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.metrics import TradeOff
from pipelines.evaluation.gold import IGNORED
from pipelines.evaluation.score import MapScore, Score
from tuning.comparison.classes import Indices
from tuning.comparison.sources import Map

#: Counts by image are kept up to this size, for intervals; beyond it there is none.
MOST_BYTES = 256 * 2**20


class Judge:
    """Adds up one side's images. labels: it has a policy that keeps some pixels."""

    def __init__(self, names: Sequence[str], labels: bool) -> None:
        self.score: Score | MapScore = Score(names) if labels else MapScore(names)
        self.trade = TradeOff()
        self.by_image: list[npt.NDArray[np.int64]] | None = []

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        return (self.score.all if isinstance(self.score, Score) else self.score).pixels.counts

    def update(self, gold: Indices, found: Indices, answer: Map) -> None:
        """Add an image: indices that gold and label have in common [H, W] each."""
        before = self.pixels.copy()
        levels = answer.levels()
        if isinstance(self.score, Score):
            assert answer.keep_threshold is not None
            self.score.update(gold, found, answer.confidence, answer.keep_threshold)
        else:
            self.score.update(gold, found, answer.confidence)
        judged = gold != IGNORED
        self.trade.update(levels[judged], (gold == found)[judged])
        self._keep(self.pixels - before)

    def _keep(self, counts: npt.NDArray[np.int64]) -> None:
        if self.by_image is not None:
            self.by_image.append(counts)
            if len(self.by_image) * counts.nbytes > MOST_BYTES:
                self.by_image = None

    def result(self) -> dict[str, Any]:
        return self.score.result()

    def policy(self) -> tuple[float, float] | None:
        """(coverage, precision) of what the labels' own policy keeps; None for students."""
        if not isinstance(self.score, Score):
            return None
        return self.score.share.coverage(), self.score.kept.accuracy()


def interval(first: Judge, second: Judge, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the gain in mean IoU from first to second, over images drawn again, the same for both; None
    where the images are too many to remember, or fewer than two."""
    from tuning.objectives import parse_objective
    from tuning.outcome import Half

    if first.by_image is None or second.by_image is None or len(first.by_image) < 2:
        return None
    parts = [np.stack(one.by_image)[:, None] for one in (first, second) if one.by_image is not None]
    return Half(*parts).interval(parse_objective("miou"), seed)
