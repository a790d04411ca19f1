"""Makes the blocks of the stream: pictures, targets and weights, read, decoded and augmented."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from models.students.augment import FILL_RGB, IGNORE, AugmentConfig, augment
from pipelines.corpus.read import read_bytes
from pipelines.stages.decode import BadImage, decode
from pipelines.training.plan import NO_SOURCE, Plan
from pipelines.training.sampling import Sampler, weights
from pipelines.training.stream import TRAIN, Round, Shape, rounds_at_once, segment
from pipelines.training.targets import Channels, Target, TargetSource, nothing

LABELED, UNLABELED = 0, 1
"""Streams of places, apart in their random numbers."""
TRIES = 8
FILLER = -1
"""`index` of rows that only fill a block up."""
Rows = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LoaderSettings:
    """What a loader needs beside the plan."""

    shape: Shape
    channels: Channels
    seed: int
    shuffle_images: int
    class_balance: float
    quality_weight: float
    cache_bytes: int
    max_pixels: int
    augment: AugmentConfig


@dataclass(frozen=True)
class Sample:
    """A decoded picture uint8 [h, w, 3], its longer side size_px, and its target."""

    picture: npt.NDArray[np.uint8]
    target: Target

    @property
    def nbytes(self) -> int:
        return self.picture.nbytes + self.target.nbytes


class Loader:
    """Makes blocks of the stream, here or in Ray Data. monitor: an actor handle to tell of bad images, or None."""

    def __init__(self, plan: Plan, sources: list[TargetSource], settings: LoaderSettings, monitor: Any = None) -> None:
        self.plan = plan
        self.sources, self.settings, self.monitor = sources, settings, monitor
        self._cache: OrderedDict[int, Sample] = OrderedDict()
        self._cached_bytes = 0
        self._bad: dict[int, str] = {}
        images = plan.images
        weight = weights(images, plan.train, settings.class_balance, settings.quality_weight)
        order = (settings.seed, settings.shuffle_images)
        self.samplers = {LABELED: Sampler(plan.train, weight, images.shard[plan.train], *order, LABELED)}
        if len(plan.unlabeled):
            even = np.ones(len(plan.unlabeled))
            self.samplers[UNLABELED] = Sampler(plan.unlabeled, even, images.shard[plan.unlabeled], *order, UNLABELED)

    def rows(self, one: Round, worker: int) -> Rows:
        """The block of a worker in a round."""
        return self.train_rows(one, worker) if one.kind == TRAIN else self.validation_rows(one, worker)

    def train_rows(self, one: Round, worker: int) -> Rows:
        """A worker's rows of a training round: batch after batch, the labeled ones of each first."""
        shape = self.settings.shape
        rows = []
        for batch in range(one.step * shape.accumulate, (one.step + one.count) * shape.accumulate):
            for role, count in ((LABELED, shape.labeled), (UNLABELED, shape.unlabeled)):
                first = (batch * shape.workers + worker) * count
                rows += [self._view(role, place) for place in range(first, first + count)]
        return self.stack(rows)

    def validation_rows(self, one: Round, worker: int) -> Rows:
        """A worker's rows of a validation round: whole pictures in the upper left corner, `size` says how large."""
        rows = []
        size_px = self.settings.shape.size_px
        first = one.first + worker * one.count
        for number in range(first, first + one.count):
            row = int(self.plan.validation[number]) if number < len(self.plan.validation) else FILLER
            sample = None if row == FILLER else self.load(row)
            if sample is None:
                rows.append(self._filler())
                continue
            height, width = sample.target.channels.shape
            picture = np.empty((size_px, size_px, 3), np.uint8)
            picture[:] = FILL_RGB
            picture[:height, :width] = sample.picture
            target = np.full((size_px, size_px), IGNORE, np.int16)
            target[:height, :width] = sample.target.channels
            weight = np.zeros((size_px, size_px), np.uint8)
            weight[:height, :width] = sample.target.weight
            rows.append((picture, target, weight, sample.target.tags, row, (height, width)))
        return self.stack(rows)

    def _view(self, role: int, place: int) -> tuple[Any, ...]:
        """The random view that stands at a place: the same one whoever makes it, and whenever."""
        random = np.random.default_rng([self.settings.seed, 4, role, place])
        sampler, size_px = self.samplers[role], self.settings.shape.size_px
        row = sampler.row(place)
        sample = self.load(row)
        for _ in range(TRIES):
            if sample is not None:
                break
            # Another image takes the place of one that cannot be read, so that all batches have one size.
            row = sampler.row(int(random.integers(0, len(sampler))))
            sample = self.load(row)
        if sample is None:
            reason = f"{TRIES + 1} images one after another cannot be used; the last: {self._bad[row]}"
            if self.monitor is not None:
                self.monitor.tell.remote({"kind": "failed", "reason": reason})
            raise RuntimeError(reason)
        target = sample.target
        seen = augment(sample.picture, target.channels, target.weight, size_px, self.settings.augment, random)
        return (*seen, target.tags, row, (size_px, size_px))

    def load(self, row: int) -> Sample | None:
        """The picture and target of a row, from the cache if it is there; None if it cannot be used, which is told."""
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        if row in self._bad:
            return None
        try:
            sample = self._read(row)
        except (BadImage, OSError, ValueError) as error:
            self._bad[row] = f"{self.plan.images.asset(row)}: {error}"
            if self.monitor is not None:
                self.monitor.skip.remote(self.plan.images.asset(row), str(error))
            return None
        if sample.nbytes <= self.settings.cache_bytes:
            self._cache[row] = sample
            self._cached_bytes += sample.nbytes
        while self._cached_bytes > self.settings.cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return sample

    def _read(self, row: int) -> Sample:
        size_px, images = self.settings.shape.size_px, self.plan.images
        picture = decode(read_bytes(images.uri(row)), size_px, self.settings.max_pixels).pixels
        height, width = picture.shape[:2]
        if max(height, width) != size_px:
            scale = size_px / max(height, width)
            to = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = np.asarray(Image.fromarray(picture).resize(to, Image.Resampling.BICUBIC))
        size = (picture.shape[0], picture.shape[1])
        source = int(images.source[row])
        if source == NO_SOURCE:
            return Sample(picture, nothing(self.settings.channels, size))
        return Sample(picture, self.sources[source].read(int(images.item[row]), size))

    def _filler(self) -> tuple[Any, ...]:
        size = (self.settings.shape.size_px,) * 2
        empty = nothing(self.settings.channels, size)
        return np.zeros((*size, 3), np.uint8), empty.channels, empty.weight, empty.tags, FILLER, (0, 0)

    def stack(self, rows: list[tuple[Any, ...]]) -> Rows:
        """Rows as columns: what a block is."""
        side = self.settings.shape.size_px
        names: Mapping[str, tuple[Any, tuple[int, ...]]] = {
            "image": (np.uint8, (side, side, 3)),
            "target": (np.int16, (side, side)),
            "weight": (np.uint8, (side, side)),
            "tags": (np.uint8, (len(self.settings.channels),)),
            "index": (np.int64, ()),
            "size": (np.int32, (2,)),
        }
        out: Rows = {}
        for column, (name, (dtype, shape)) in enumerate(names.items()):
            out[name] = np.empty((len(rows), *shape), dtype)
            for number, row in enumerate(rows):
                out[name][number] = row[column]
        return out


class StreamLoader(Loader):
    """Ray Data runs this in a pool of CPU actors: the number of a block in, the block out.

    references: of the plan and the sources, which then lie once on each machine.
    """

    def __init__(self, references: tuple[Any, Any], settings: LoaderSettings, monitor: Any) -> None:
        import ray

        plan, sources = ray.get(list(references))
        super().__init__(plan, sources, settings, monitor)
        start = ray.get(monitor.start.remote())
        self._segment = segment(settings.shape, start, rounds_at_once(settings.shape))

    def __call__(self, block: pa.Table) -> Rows:
        number, worker = divmod(block["block"][0].as_py(), self.settings.shape.workers)
        return self.rows(self._segment[number], worker) if number < len(self._segment) else self.stack([])
