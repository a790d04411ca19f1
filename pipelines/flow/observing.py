"""Observe what has no evidence yet: rounds over the images that the store does not know."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.execution import WRITER_CPUS, set_up_data
from pipelines.flow.listing import Wanted
from pipelines.flow.progress import Progress, duration, say
from pipelines.flow.run import Run
from pipelines.metrics_export import tell_corpus
from pipelines.stages.coordinator import Coordinator
from pipelines.stages.observe import ObservePool, PoolConfig
from pipelines.stages.write import write_evidence

# What may be otherwise when we look again, so every run does. All else is bad for good, for these bytes.
PASSING = ("vanished", "no_permission", "too_many_pixels")

TODO = pa.schema(
    [
        ("asset", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtag", pa.string()),
        ("hints", pa.string()),
        ("hints_digest", pa.string()),
    ]
)


@dataclass
class Known:
    """What the evidence store says of the wanted assets.

    evidence: asset to (shard, evidence key, digest). bad: asset to its index row. todo: the rest. second: asset to
    (observe id, shard, evidence key) of each second kind of evidence that the run asks for.
    """

    evidence: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    bad: dict[str, dict[str, Any]] = field(default_factory=dict)
    todo: list[Wanted] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    second: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)


class _Outcome(NamedTuple):
    """An index row, as far as it is needed. bad: all of it, where the image went to quarantine."""

    good: bool
    run_id: str
    evidence_key: str
    digest: str
    bad: dict[str, Any] | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "_Outcome":
        good = row["outcome"] == "ok"
        run_id = sys.intern(row["run_id"] or "")
        return cls(good, run_id, row["evidence_key"], row["digest"], None if good else row)


def look_up(run: Run, rows: Sequence[Wanted], merge: bool = False) -> Known:
    """Compare the wanted assets with the evidence that is there. merge: tidy the index, if it has become many files."""
    shards: dict[str, str] = {}
    # Of a corpus of millions, only what is asked for is kept, and little of what is good.
    seen: dict[tuple[str, int, str, str], _Outcome | None] = dict.fromkeys(row.version for row in rows)
    for batch in run.store.index(merge).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            if row["shard"]:
                shards.setdefault(row["evidence_key"], sys.intern(row["shard"]))
            version = (row["asset"], row["size_bytes"], row["mtag"], row["hints_digest"])
            if version in seen:
                outcome, before = _Outcome.of(row), seen[version]
                # Of two for the same bytes the good one counts (a photograph that came back), then the newer one.
                if before is None or outcome[:2] > before[:2]:
                    seen[version] = outcome
    known = Known(keys=list(shards))
    again = []
    for wanted in rows:
        found = seen.get(wanted.version)
        if found is None:
            known.todo.append(wanted)
        elif found.bad is None:
            shard = shards.get(found.evidence_key)
            # Another asset with the same bytes was to bring the evidence, and the run ended before it did.
            if shard is None:
                known.todo.append(wanted)
            else:
                known.evidence[wanted.asset] = (shard, found.evidence_key, found.digest)
        elif found.run_id != run.run_id and (found.bad["error"] in PASSING or run.config.retry_quarantined):
            again.append(wanted)
        else:
            known.bad[wanted.asset] = found.bad
    # Last, so that a budget goes to what was never tried.
    known.todo += again
    return known


@dataclass
class Observed:
    """What an observe step did. failures: [asset, stage, reason] of images that we, not they, failed on."""

    observed: int = 0
    bytes: int = 0
    pool_seconds: float = 0.0
    images_per_second: float = 0.0
    failures: list[list[str]] = field(default_factory=list)
    out_of_budget: bool = False


def observe(run: Run, known: Known, pools: Sequence[PoolConfig], name: str = "observe") -> Observed:
    """Observe `known.todo` until nothing of it can be done any more, or the budget is used up. name: of the step."""
    result = Observed()
    todo = known.todo
    limit = run.config.budget_images
    if limit is not None and limit < len(todo):
        todo, result.out_of_budget = todo[:limit], True
    every = run.config.execution.progress_seconds
    progress = Progress(name, len(todo), every, run.layout.actors)
    tell_corpus(run.counts)
    bound = run.layout.in_flight(len(pools))
    say(
        f"{name}: {len(todo):,} images on {run.layout.actors} {run.layout.device} actors; "
        f"a kill costs at most {min(bound, len(todo)):,} images in flight"
    )
    while todo:
        failed, in_time = _round(run, todo, known.keys, pools, progress, result)
        if not in_time:
            result.out_of_budget = True
            say(f"{name}: the budget is used up; what is done will be published")
            break
        known = look_up(run, todo)
        # An image whose bytes another one was to bring is done in a second round, if that other one failed.
        if len(known.todo) in (0, len(todo)) or len(known.todo) == failed:
            break
        todo = known.todo
    result.images_per_second = progress.rate
    progress.close()
    return result


def _round(
    run: Run, todo: Sequence[Wanted], keys: list[str], pools: Sequence[PoolConfig], progress: Progress, result: Observed
) -> tuple[int, bool]:
    """One pass over `todo` by Ray Data. Returns how many images we failed on, and whether the time was enough."""
    import ray

    set_up_data()
    coordinator = ray.remote(Coordinator).options(num_cpus=0).remote(keys)
    size = run.layout.rows_per_shard
    dataset = ray.data.from_arrow([_block(todo[i : i + size]) for i in range(0, len(todo), size)])
    actors = min(run.layout.actors, -(-len(todo) // size))
    progress.at_work(actors * len(pools))
    for pool in pools:
        dataset = dataset.map_batches(
            ObservePool,
            fn_constructor_args=(pool, coordinator),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
            num_cpus=run.layout.resources.cpus / len(pools),
            num_gpus=(run.layout.resources.gpus / len(pools)) or None,
        )
    dataset = dataset.map_batches(
        partial(write_evidence, store=run.store, run_id=run.run_id),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=WRITER_CPUS,
    )
    failed, done, in_time = 0, 0, True
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            result.observed += row["observed"]
            result.bytes += row["bytes"]
            result.pool_seconds += row["pool_seconds"]
            result.failures += json.loads(row["failures"])
            failed += row["failed"]
            done += row["rows"]
            progress.add(row["rows"], row["quarantined"], row["failed"], row["pool_seconds"])
        left = run.time_left()
        if left is not None and left <= 0 and done < len(todo):
            in_time = False
            break
    ray.kill(coordinator)
    return failed, in_time


def _block(rows: Sequence[Wanted]) -> pa.Table:
    return pa.Table.from_pylist([{name: getattr(row, name) for name in TODO.names} for row in rows], schema=TODO)


def timed(run: Run, name: str, action: Callable[[], Any]) -> Any:
    """Run a step and keep how long it took."""
    started = time.monotonic()
    try:
        return action()
    finally:
        run.seconds[name] = run.seconds.get(name, 0.0) + time.monotonic() - started


def describe(result: Observed) -> str:
    mean = result.bytes / max(1, result.observed)
    spent = duration(result.pool_seconds)
    return f"{result.observed:,} observed, {mean / 1024:.0f} KiB of evidence each, {spent} of actor time"
