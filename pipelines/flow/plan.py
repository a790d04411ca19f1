"""The plan of a run: its stages, the columns that go in and out, the workers; and what a dry run adds to it."""

import itertools
import time
from collections.abc import Mapping, Sequence

from pipelines.config import LabelConfig
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import TODO
from pipelines.flow.progress import duration
from pipelines.flow.run import Run
from pipelines.stages import decide, heat, localiser, observers, read, student, write
from pipelines.stages.base import StageSpec, check_chain
from pipelines.stages.observers import Models

PROBE_IMAGES = 4


def stages(config: LabelConfig) -> list[tuple[tuple[StageSpec, ...], Sequence[str]]]:
    """The chains of a run, each with the columns it starts from: observe (assets to evidence), where they are asked
    for heat, students and localisers (the same, knowing classes), then decide (evidence to labels)."""
    models: tuple[StageSpec, ...] = (observers.ALL_SPEC,)
    if config.pools == "split":
        models = (observers.CLIP_SPEC, observers.SAM_SPEC)
    chains = [(read.SPEC, *models, write.SPEC)]
    if config.heat.kind != "none":
        chains.append((read.SPEC, heat.SPEC, write.SPEC))
    chains += [(read.SPEC, student.SPEC, write.SPEC)] * len(config.students)
    chains += [(read.SPEC, localiser.SPEC, write.SPEC)] * len(config.localisers)
    return [*((chain, TODO.names) for chain in chains), ((decide.SPEC,), decide.WORK.names)]


def check(config: LabelConfig) -> None:
    """Raises ChainError when the stages do not fit together; needs no cluster."""
    for chain, start in stages(config):
        check_chain(chain, start)


def describe(run: Run) -> str:
    """The plan for a person: who does what, stages of the same workers together, and what a kill costs."""
    layout, pools = run.layout, run.config.pools
    count = 2 if pools == "split" else 1
    cpus, gpus = layout.resources.cpus / count, layout.resources.gpus / count
    each = f"{cpus:.2g} CPU" + (f" and {gpus:.2g} GPU" if gpus else "")
    actors = f"{layout.actors} {layout.device} actors of {each}"
    workers = {"observe": actors, "sam": actors, "write": "tasks beside them", "decide": "one actor for every CPU core"}
    lines = []
    for chain, _ in stages(run.config):
        for pool, group in itertools.groupby(chain, lambda stage: stage.pool):
            lines.append(f"{', '.join(stage.name for stage in group):<22} {workers[pool]}")
    files, again = layout.rows_per_shard, layout.in_flight(count)
    lines.append(f"{'if it is killed':<22} at most {again} images are observed again (files of {files} images)")
    return "\n".join(lines)


def probe(run: Run, rows: Sequence[Wanted], models: Models) -> dict[str, float]:
    """Observe and count the seconds of a few images, spread over the corpus, in this process.

    Returns seconds_per_image (of one actor, models loaded), bytes_per_image, images.
    """
    from pipelines.stages.observe import limit_threads
    from pipelines.stages.read import ReadConfig, ReadStage

    limit_threads(1)
    model = observers.ObserveAll(run.config.observe, models, run.layout.device)
    images = run.config.images
    observe = run.config.observe
    config = ReadConfig(run.observe_id, observe.picture_px, observe.tile_above_px, images.max_pixels, 1, run.forgotten)
    reader = ReadStage(config)
    step = max(1, len(rows) // (PROBE_IMAGES + 1))
    seconds, size, done = 0.0, 0, 0
    for number, wanted in enumerate(rows[::step][: PROBE_IMAGES + 1]):
        record = {name: getattr(wanted, name) for name in TODO.names}
        started = time.perf_counter()
        record = reader.read_one(record)
        if record["outcome"] != "ok":
            continue
        model.finish(model.forward([model.prepare(record)]), [record])
        # The first image warms up allocators and caches; it is not what the others will cost.
        if number > 0:
            seconds += time.perf_counter() - started
            size += sum(len(value) for value in record.values() if isinstance(value, bytes))
            done += 1
    return {"seconds_per_image": seconds / max(1, done), "bytes_per_image": size / max(1, done), "images": float(done)}


def forecast(run: Run, counts: Mapping[str, int], probed: Mapping[str, float]) -> str:
    """What the run would do and cost, for a person. counts: images, by what has to be done to them."""
    lines = [f"{name:<22} {count:,}" for name, count in counts.items()]
    todo = counts["to observe"]
    if todo and probed["images"]:
        wall = duration(todo * probed["seconds_per_image"] / run.layout.actors)
        mebibytes = todo * probed["bytes_per_image"] / 2**20
        lines += [
            f"probe                  {probed['images']:.0f} images, {probed['seconds_per_image']:.2f} s each",
            f"observe would take     about {wall} on {run.layout.actors} {run.layout.device} actors, once they run",
            f"evidence would take    about {mebibytes:,.0f} MiB, before compression",
        ]
    return "\n".join(lines)
