"""Pixel flow between two label maps: which class turned into which."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

#: Classes in the heat matrix; more are no picture any more.
MAX_CLASSES = 24


@dataclass(frozen=True)
class Move:
    """Pixels that were of one class and are of another. of_all, of_before, of_after: their share of all pixels, of
    those that had the first class, and of those that have the second, 0..1."""

    before: int
    after: int
    pixels: int
    of_all: float
    of_before: float
    of_after: float


@dataclass
class Flow:
    """Pixel counts int64 [classes, classes], before in rows, after in columns. Mergeable by addition.

    causes: (changed images, their changed pixels) by why the label is another one, where labels say that.
    """

    classes: int
    counts: npt.NDArray[np.int64] = field(init=False)
    images: int = 0
    changed_images: int = 0
    causes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), np.int64)

    def update(self, before: npt.NDArray[np.integer], after: npt.NDArray[np.integer], why: str | None = None) -> None:
        """Add one image: common class indices [H, W] each. why: the cause, if its pixels are others."""
        flat = before.astype(np.int64).reshape(-1) * self.classes + after.reshape(-1)
        found = np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        self.counts += found
        self.images += 1
        changed = int(found.sum() - np.trace(found))
        self.changed_images += int(changed > 0)
        if why is not None and changed:
            images, pixels = self.causes.get(why, (0, 0))
            self.causes[why] = images + 1, pixels + changed

    def same(self, pixels: Mapping[int, int], images: int) -> None:
        """Add images that did not change, by their pixels of each class."""
        for index, count in pixels.items():
            self.counts[index, index] += count
        self.images += images

    @property
    def pixels(self) -> int:
        return int(self.counts.sum())

    @property
    def changed(self) -> int:
        """Pixels that have another class now."""
        return self.pixels - int(np.trace(self.counts))

    @property
    def changed_share(self) -> float:
        return self.changed / max(self.pixels, 1)

    def moves(self) -> list[Move]:
        """All changes there are, the largest first."""
        before, after, total = self.counts.sum(1), self.counts.sum(0), max(self.pixels, 1)
        off = self.counts - np.diag(np.diag(self.counts))
        found = [
            Move(int(i), int(j), int(off[i, j]), off[i, j] / total, off[i, j] / before[i], off[i, j] / after[j])
            for i, j in zip(*np.nonzero(off), strict=True)
        ]
        return sorted(found, key=lambda move: (-move.pixels, move.before, move.after))

    def reasons(self) -> list[tuple[str, int, int]]:
        """(cause, changed images, changed pixels), the most pixels first."""
        return sorted(((why, *sums) for why, sums in self.causes.items()), key=lambda one: (-one[2], one[0]))

    def busiest(self) -> list[int]:
        """The classes that changed most, at most MAX_CLASSES, in their own order."""
        moved = self.counts.sum(0) + self.counts.sum(1) - 2 * np.diag(self.counts)
        chosen = [int(i) for i in np.argsort(-moved, kind="stable")[:MAX_CLASSES] if moved[i] > 0]
        return sorted(chosen)
