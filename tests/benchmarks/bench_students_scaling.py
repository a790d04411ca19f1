"""Training on one and on two workers of Ray Train, beside plain PyTorch processes that do the same.

A plain process reads, decodes, caches and augments its part by itself, with the same functions, steps the same student
and exchanges gradients by gloo: no Ray, no reading processes, no checkpoints. A worker of Ray Train has as many torch
threads as a plain process, and the readers share the same cores. Rates are those of the second half of the steps, by
the clock: in the first one caches fill, and Ray's readers have a lead from the time in which its workers start, which
flatters short runs; so take steps for some minutes. Everything runs in turn, in an order that turns round with every
repeat, so that a machine that slows down does so for all.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipelines.config import parse
from pipelines.execution import local_resources
from pipelines.training import batches
from pipelines.training.config import TrainConfig
from pipelines.training.layout import shape
from pipelines.training.learner import Learner
from pipelines.training.loader import Loader, LoaderSettings
from pipelines.training.sources import prepare
from pipelines.training.stream import TRAIN, segment

WORKERS, KINDS = (1, 2), ("plain", "ray")
Run = Callable[..., dict[str, Any]]


def scaling(flags: Sequence[str], folder: Path, repeats: int, run: Run) -> dict[str, Any]:
    """Images a second by kind and worker count, and ratios paired by repeat. run: starts a job of pipelines/."""
    rows: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for repeat in range(repeats):
        file = folder / f"repeat-{repeat}.json"
        if file.exists() and json.loads(file.read_text())["flags"] == list(flags):
            rows.append(json.loads(file.read_text()))
        else:
            rows.append(measure(flags, folder, repeat, run))
            file.write_text(json.dumps(rows[-1], indent=2))
        print(json.dumps({"experiment": "scaling", **rows[-1]}), flush=True)
    numbers = {name: spread([row[name] for row in rows]) for name in rows[0] if name not in ("repeat", "flags")}
    for name, found in numbers.items():
        print(f"  {name:<28}{found['mean']:8.2f} ± {found['sd']:.2f}")
    return numbers


def measure(flags: Sequence[str], folder: Path, repeat: int, run: Run) -> dict[str, Any]:
    """One repeat; every second one goes through the kinds in the opposite order."""
    kinds = [(kind, workers) for workers in WORKERS for kind in KINDS]
    found: dict[str, Any] = {"repeat": repeat, "flags": list(flags)}
    for kind, workers in kinds[:: -1 if repeat % 2 else 1]:
        output = folder / f"{kind}-{workers}-{repeat}"
        if kind == "plain":
            rate = plain(flags, workers)
        else:
            alone = ("--workers", str(workers), "--restart", "--checkpoint_every_steps", "1000000")
            run("train_student.py", "--output", str(output), *flags, *alone)
            rate = ray_rate(output / "metrics.jsonl", parse(TrainConfig, [*flags, "--output", str(output)]))
        found[f"{kind} {workers}"] = rate
    for workers in WORKERS:
        found[f"ray/plain, {workers}"] = found[f"ray {workers}"] / found[f"plain {workers}"]
    for kind in ("ray", "plain"):
        found[f"{kind}, 2/1"] = found[f"{kind} 2"] / found[f"{kind} 1"]
    return found


def ray_rate(curve: Path, config: TrainConfig) -> float:
    """Images a second between the middle and the end of the curve, by the times of its points."""
    points = [point for point in map(json.loads, curve.read_text().splitlines()) if "loss" in point]
    first = next(point for point in points if point["step"] >= config.optim.steps / 2)
    steps, seconds = points[-1]["step"] - first["step"], points[-1]["time_s"] - first["time_s"]
    return float(steps * config.optim.batch_images / seconds)


def plain(flags: Sequence[str], workers: int) -> float:
    """Images a second of plain processes, all together."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (list(flags), workers, scratch)
        torch.multiprocessing.spawn(process, arguments, nprocs=workers, join=True)  # type: ignore[no-untyped-call]
        return float((Path(scratch) / "rate").read_text())


def process(rank: int, flags: list[str], workers: int, scratch: str) -> None:
    """One of them; the first one writes the rate."""
    config = parse(TrainConfig, [*flags, "--output", scratch])
    torch.set_num_threads(max(1, int(local_resources()[0]) // workers))
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=workers)
    prepared = prepare(config, None)
    sizes = shape(config, workers, len(prepared.plan.unlabeled), 0)
    data = config.data
    cache = data.cache_mb * 1_000_000
    settings = LoaderSettings(
        sizes, prepared.channels, config.seed, data.shuffle_images, data.class_balance, data.quality_weight, cache,
        data.max_pixels, config.augment,
    )  # fmt: skip
    loader = Loader(prepared.plan, prepared.sources, settings, None)
    wrap: Callable[[nn.Module], nn.Module] = (
        nn.parallel.DistributedDataParallel if workers > 1 else lambda module: module
    )
    learner = Learner(config, len(prepared.channels), torch.device("cpu"), wrap, rank)
    started, middle = time.perf_counter(), sizes.steps // 2
    for one in segment(sizes, 0, sizes.steps):
        if one.kind != TRAIN:
            continue
        for batch in batches.train_batches(loader.train_rows(one, rank), sizes, learner.device):
            learner.step([batch], 0.0)
            if learner.state.step == middle:
                started = time.perf_counter()
    seconds = time.perf_counter() - started
    if rank == 0:
        rate = (sizes.steps - middle) * sizes.step_images / seconds
        (Path(scratch) / "rate").write_text(str(rate))
    if workers > 1:
        dist.destroy_process_group()


def spread(values: Sequence[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 4), "sd": round(deviation, 4)}
