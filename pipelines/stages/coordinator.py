"""One small actor that all workers of a run share: who observes which bytes, and what was in hand when one died."""

from collections import Counter
from collections.abc import Sequence

# An image that was alone in hand each of this many times that its process died is what kills it.
DEATHS_ALONE = 2


class Coordinator:
    """Knows nothing of images; started with `ray.remote(Coordinator)`.

    A worker says what it begins before it touches it. If the worker's process dies, the retried batch finds its rows
    begun already and goes through them one at a time, so that the row that kills is found and its neighbours live.
    """

    def __init__(self, known_keys: Sequence[str]) -> None:
        self._known = set(known_keys)
        self._claims: dict[str, str] = {}
        self._in_hand: set[str] = set()
        self._alone: Counter[str] = Counter()

    def begin(self, assets: Sequence[str]) -> bool:
        """Note that a batch is in hand; True if any of it was in hand before, so that its worker must have died."""
        again = any(asset in self._in_hand for asset in assets)
        self._in_hand.update(assets)
        return again

    def begin_alone(self, asset: str) -> int:
        """Note that one image is in hand by itself; how often it was before without coming to an end."""
        self._alone[asset] += 1
        return self._alone[asset] - 1

    def end(self, assets: Sequence[str]) -> None:
        """These came to an end, good or bad."""
        self._in_hand.difference_update(assets)
        for asset in assets:
            self._alone.pop(asset, None)

    def claim(self, keys: Sequence[str], assets: Sequence[str]) -> list[bool]:
        """Whether each asset is the one whose bytes are to be observed for its evidence key.

        The same question always gets the same answer, so a retried batch does what it did before. False: the evidence
        is there already, or another asset with the same bytes was first.
        """
        return [
            key not in self._known and self._claims.setdefault(key, asset) == asset
            for key, asset in zip(keys, assets, strict=True)
        ]
