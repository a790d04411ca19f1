"""The one stream of a training: rounds of blocks, a block for every worker in each, from any step on.

A block is what one worker takes at once: the rows of a few of its batches, or of its part of a validation. All blocks
of a round have the same number of rows, so Ray Data's splitter, which gives the next block to whoever had the fewest
rows, deals them out in turn: block i of a round goes to worker i. That makes the stream a function of the plan, the
seed and the worker count, and a resumed training the same one from another step on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TRAIN, VALIDATE = 0, 1
ROUNDS_AT_ONCE = 512
"""Rounds that one execution of the dataset holds: so that the list of blocks stays short however long the training."""
BLOCK_BYTES = 6_000_000
"""A block is about so large: small enough to come soon, large enough for Ray's cost of a block not to matter."""


@dataclass(frozen=True)
class Shape:
    """Sizes that lay the stream out.

    workers: W. accumulate: batches of a worker in a step. labeled, unlabeled: images in such a batch. size_px: side
    of the pictures. steps: of the whole training. validate_every: steps between validations. validation: images that
    validate, 0 for none.
    """

    workers: int
    accumulate: int
    labeled: int
    unlabeled: int
    size_px: int
    steps: int
    validate_every: int
    validation: int

    @property
    def batch_rows(self) -> int:
        """Rows of one batch of one worker, the labeled ones first."""
        return self.labeled + self.unlabeled

    @property
    def step_images(self) -> int:
        """Labeled images in a step over all workers."""
        return self.labeled * self.accumulate * self.workers

    @property
    def block_rows(self) -> int:
        """Rows that make a block of a good size."""
        return max(1, BLOCK_BYTES // (self.size_px * self.size_px * 6))

    @property
    def block_steps(self) -> int:
        return max(1, self.block_rows // (self.batch_rows * self.accumulate))

    def validates_after(self, step: int) -> bool:
        """Whether a validation follows when so many steps are done."""
        return self.validation > 0 and step > 0 and (step % self.validate_every == 0 or step == self.steps)


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step-{step:08d}"


@dataclass(frozen=True)
class Round:
    """kind: TRAIN or VALIDATE. step: steps that are done before it. count: steps in it, or validation rows of each
    worker. first: VALIDATE: the first validation image of the round."""

    kind: int
    step: int
    count: int
    first: int = 0


def rounds(shape: Shape, start: int) -> Iterator[Round]:
    """Every round after `start` steps are done, in order."""
    step = start
    while step < shape.steps:
        boundary = min(shape.steps, (step // shape.validate_every + 1) * shape.validate_every)
        count = min(shape.block_steps, boundary - step)
        yield Round(TRAIN, step, count)
        step += count
        if shape.validates_after(step):
            yield from validation_rounds(shape, step)


def validation_rounds(shape: Shape, step: int) -> Iterator[Round]:
    """Rounds that show every validation image once; the last one is filled up with rows that count for nothing."""
    first = 0
    while first < shape.validation:
        left = -(-(shape.validation - first) // shape.workers)
        count = min(shape.block_rows, left)
        yield Round(VALIDATE, step, count, first)
        first += count * shape.workers


def segment(shape: Shape, start: int, most: int) -> list[Round]:
    """The rounds of one execution of the dataset from `start` on: at most `most`, and no validation cut in two."""
    found: list[Round] = []
    upcoming: list[Round] = []
    for one in rounds(shape, start):
        if one.kind == TRAIN:
            found, upcoming = found + upcoming, []
        upcoming.append(one)
        if len(found) + len(upcoming) > most:
            return found
    return found + upcoming


def rounds_at_once(shape: Shape) -> int:
    """How many rounds an execution holds, so that a step and its validation fit in any case."""
    whole_validation = sum(1 for _ in validation_rounds(shape, 0))
    total = 0
    for _ in rounds(shape, 0):
        total += 1
        if total >= ROUNDS_AT_ONCE:
            break
    return max(total, whole_validation + 1)


def dataset(shape: Shape, loader: type, arguments: tuple[Any, ...], readers: int, cpus: float) -> Any:
    """The stream as a Ray dataset, its blocks prepared by a pool of `readers` actors of class `loader`.

    Every execution of it is one segment; the loaders ask where it starts. So it is built once, and goes on from
    wherever the workers are, also after they were started anew.
    """
    import ray

    count = rounds_at_once(shape) * shape.workers
    return ray.data.from_arrow([pa.table({"block": [number]}) for number in range(count)]).map_batches(
        loader,
        fn_constructor_args=arguments,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=readers, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
    )
