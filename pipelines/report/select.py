"""Which images the page shows: bounded however large the run, the same whatever the order of arrival."""

import hashlib
import heapq
from typing import Generic, TypeVar

T = TypeVar("T")

#: However many are asked for: a page of 300 images is about 15 MB, near what a browser still opens at once.
MAX_IMAGES = 300


class Smallest(Generic[T]):
    """The `size` entries with the smallest keys of a stream."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[tuple[float, float], str, T]] = []  # keys negated: the largest key is on top

    def accepts(self, key: tuple[float, float]) -> bool:
        if len(self._heap) < self.size:
            return True
        return self.size > 0 and (-key[0], -key[1]) > self._heap[0][0]

    def add(self, key: tuple[float, float], name: str, value: T) -> None:
        entry = ((-key[0], -key[1]), name, value)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    def sorted(self) -> list[tuple[str, T]]:
        return [(name, value) for _, name, value in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


class Selection(Generic[T]):
    """A third are the least confident images, the rest a sample drawn by a hash of the asset's name.

    At most 4/3 `images` values are held at any moment. The result depends on the set of images, not on their order.
    """

    def __init__(self, images: int) -> None:
        self.images = max(0, min(images, MAX_IMAGES))
        self._doubtful: Smallest[T] = Smallest(self.images // 3)
        self._sample: Smallest[T] = Smallest(self.images)

    def wants(self, asset: str, mean_confidence: float) -> bool:
        """Whether `add` would keep this image now. Ask before reading pictures from a table."""
        draw = _draw(asset)
        return self._sample.accepts((draw, 0.0)) or self._doubtful.accepts((mean_confidence, draw))

    def add(self, asset: str, mean_confidence: float, value: T) -> None:
        draw = _draw(asset)
        if self._sample.accepts((draw, 0.0)):
            self._sample.add((draw, 0.0), asset, value)
        if self._doubtful.accepts((mean_confidence, draw)):
            self._doubtful.add((mean_confidence, draw), asset, value)

    def chosen(self) -> list[tuple[T, bool]]:
        """The chosen values; the flag says that an image is among the least confident."""
        doubtful = self._doubtful.sorted()
        names = {name for name, _ in doubtful}
        sample = [(name, value) for name, value in self._sample.sorted() if name not in names]
        return [(value, True) for _, value in doubtful] + [
            (value, False) for _, value in sample[: self.images - len(doubtful)]
        ]


def _draw(asset: str) -> float:
    """A number in 0..1 that looks random and is always the same for one name."""
    return int.from_bytes(hashlib.sha256(asset.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56
