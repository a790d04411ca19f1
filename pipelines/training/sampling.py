"""Which image is seen when: a fixed, endless sequence for a plan and a seed, of which any place can be looked up.

An epoch has as many places as there are images. How often an image appears in it follows its weight by systematic
resampling, so that an image of weight 1 in a plan of equal weights appears exactly once. Epochs are shuffled in
windows: the parts of the target files come in random order, and images are mixed among the parts of one window, so
that reading stays local however large the plan is.
"""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from pipelines.training.plan import Images, Indices

OCCURS = 0.001
"""A class is in an image if it covers at least this share of it."""
MOST_REPEATS = 10.0
EPOCHS_KEPT = 2


def weights(images: Images, rows: Indices, class_balance: float, quality_weight: float) -> npt.NDArray[np.float64]:
    """How much more often than another each of these rows should be seen, float64 [n], at least tiny.

    class_balance: exponent of the repeat factor max over the image's classes of (median frequency / frequency), the
    frequency of a class being the share of images that show it, at least 1 and at most 10 (0.5 is the square root of
    Gupta et al., "LVIS", CVPR 2019). quality_weight: exponent of the label's quality.
    """
    shows = images.areas[rows] >= OCCURS
    frequency = shows.mean(0)
    present = frequency > 0
    repeat = np.ones(len(rows))
    if present.any() and class_balance > 0:
        factor = np.ones(len(frequency))
        rare = np.median(frequency[present]) / frequency[present]
        factor[present] = np.clip(rare**class_balance, 1.0, MOST_REPEATS)
        repeat = np.where(shows, factor, 1.0).max(1)
    quality = np.clip(images.quality[rows].astype(np.float64), 1e-3, 1.0) ** quality_weight
    return np.asarray(repeat * quality, np.float64)


class Sampler:
    """The sequence of rows for one role (training, unlabeled).

    rows: rows of the plan's images. weight: float64 [n], their weights. shard: int32 [n], the part of a target file
    that each lies in. window: images that are mixed with one another. stream: number that keeps roles apart.
    """

    def __init__(
        self,
        rows: Indices,
        weight: npt.NDArray[np.float64],
        shard: npt.NDArray[np.int32],
        seed: int,
        window: int,
        stream: int,
    ) -> None:
        if not len(rows):
            raise ValueError("there is nothing to draw from")
        self._rows, self._shard, self._seed, self._window, self._stream = rows, shard, seed, window, stream
        total = np.cumsum(weight / weight.sum())
        self._edges = np.minimum(total, 1.0)
        self._edges[-1] = 1.0
        self._epochs: OrderedDict[int, Indices] = OrderedDict()

    def __len__(self) -> int:
        """Places in an epoch."""
        return len(self._rows)

    def row(self, place: int) -> int:
        """The row at a place of the endless sequence, counted from 0."""
        return int(self.epoch(place // len(self))[place % len(self)])

    def epoch(self, number: int) -> Indices:
        """All rows of an epoch in their order, int64 [n]."""
        if number not in self._epochs:
            while len(self._epochs) >= EPOCHS_KEPT:
                self._epochs.popitem(last=False)
            self._epochs[number] = self._order(number)
        self._epochs.move_to_end(number)
        return self._epochs[number]

    def _order(self, number: int) -> Indices:
        random = np.random.default_rng([self._seed, 3, self._stream, number])
        count = len(self)
        points = (random.random() + np.arange(count)) / count
        # The points are half open: the last edge is 1, so every point has an image.
        chosen = np.searchsorted(self._edges, points, side="right").clip(max=count - 1)
        parts = random.permutation(int(self._shard.max()) + 1)
        chosen = chosen[np.argsort(parts[self._shard[chosen]], kind="stable")]
        for start in range(0, count, self._window):
            random.shuffle(chosen[start : start + self._window])
        return self._rows[chosen]
