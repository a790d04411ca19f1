"""Sources blended into one strength for each class, with the record of who decided each pixel."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.decide.confidence import winners
from models.decide.types import PROVENANCE

Maps = npt.NDArray[np.float32]
FORCED_MARGIN = 0.02
"""How far above its rivals a class is lifted where a tag insists on it: it wins, and its confidence stays low."""


class Votes:
    """The strength of K classes on a grid, 0..1, and each source's part in it.

    strength: float32 [K, h, w]. floor: background's strength, or None for class sets that have no background.
    """

    def __init__(self, heat: Maps, floor: float | None) -> None:
        self.strength = heat
        self.floor = floor
        self._parts = {"text": heat}
        self._background_by = np.zeros(heat.shape[1:], np.uint8)

    def blend(self, source: str, maps: Maps, weight: float | npt.NDArray[np.float32]) -> None:
        """strength = (1 - weight) * strength + weight * maps; weight 0..1, anything that broadcasts to [K, h, w]."""
        before = winners(self.strength, self.floor)
        kept = np.float32(1) - np.asarray(weight, np.float32)
        self._parts = {name: part * kept for name, part in self._parts.items()}
        own = maps * np.asarray(weight, np.float32)
        self._parts[source] = self._parts[source] + own if source in self._parts else own
        self.strength = self.strength * kept + own
        self._note_background(before, source)

    def forbid(self, source: str, allowed: npt.NDArray[np.bool_]) -> None:
        """No strength where allowed, bool [K, h, w], is False."""
        before = winners(self.strength, self.floor)
        self.strength = np.where(allowed, self.strength, np.float32(0))
        self._note_background(before, source)

    def insist(self, source: str, row: int, where: npt.NDArray[np.bool_]) -> None:
        """Lift class `row` just above all others (and the floor) in the pixels `where`, bool [h, w]."""
        rivals = np.delete(self.strength, row, axis=0).max(0, initial=self.floor or 0.0)
        lifted = np.where(where, np.maximum(self.strength[row], rivals + FORCED_MARGIN), self.strength[row])
        gained = lifted - self.strength[row]
        self.strength = self.strength.copy()
        self.strength[row] = lifted
        part = self._parts.setdefault(source, np.zeros_like(self.strength))
        part[row] += np.where(gained > 0, np.float32(1), np.float32(0))

    def _note_background(self, before: npt.NDArray[np.int32], source: str) -> None:
        now = winners(self.strength, self.floor)
        self._background_by[(before >= 0) & (now < 0)] = PROVENANCE.index(source)
        self._background_by[now >= 0] = 0

    def provenance(self) -> npt.NDArray[np.uint8]:
        """uint8 [h, w], index into PROVENANCE: the source with the largest part in the winner's strength.

        Background that a source made by taking a class away is that source's; other background is "background".
        """
        won = winners(self.strength, self.floor)
        if not len(self.strength):
            return self._background_by
        names = list(self._parts)
        at_winner = np.maximum(won, 0)[None]
        shares = np.stack([np.take_along_axis(self._parts[name], at_winner, 0)[0] for name in names])
        codes = np.array([PROVENANCE.index(name) for name in names], np.uint8)
        return np.where(won >= 0, codes[shares.argmax(0)], self._background_by)


def insist_on(votes: Votes, source: str, row: int, where: npt.NDArray[np.bool_], least: int) -> None:
    """Give class `row` at least its `least` best pixels within `where`, bool [h, w]; nothing if it holds enough there.

    The best pixels are those where it comes closest to winning.
    """
    if ((winners(votes.strength, votes.floor) == row) & where).sum() >= least:
        return
    rivals = np.delete(votes.strength, row, axis=0).max(0, initial=votes.floor or 0.0)
    margin = np.where(where, votes.strength[row] - rivals, -np.inf).reshape(-1)
    best = np.zeros(margin.size, bool)
    best[np.argsort(-margin, kind="stable")[:least]] = True
    votes.insist(source, row, best.reshape(where.shape) & where)


def insist_on_presence(
    votes: Votes, must: npt.NDArray[np.bool_], allowed: Callable[[int], npt.NDArray[np.bool_]], min_area: float
) -> None:
    """Give every class that must appear (bool [K]) its best min_area share of the grid, one pixel or more.

    allowed: the pixels, bool [h, w], that a class may have.
    """
    for row in np.flatnonzero(must):
        where = allowed(int(row))
        insist_on(votes, "tag", int(row), where, max(1, min(round(min_area * where.size), int(where.sum()))))
