"""Images a second of a training, on one and on two workers, beside plain PyTorch processes without Ray.

    python tests/benchmarks/bench_training.py --data ../shared/data/camvid

The plain processes take the same optimiser steps (forward, losses, backward, gradients exchanged by gloo, running mean)
on batches that were prepared before and lie in their memory: what is left to lose is everything that Ray and the
reading, decoding and augmenting of images cost. All arms run in turn, `--rounds` times, so that a machine's load falls
on all alike; CPU time of all processes of an arm hardly depends on that load, images a second do. The last line is one
JSON object with the median of each arm.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.training.config import TrainConfig  # noqa: E402 - the project's root comes first

WARM_STEPS = 10
BLOCKS = 4
STEP = re.compile(r"train: step ([\d]+)/")


@dataclass(frozen=True)
class Arm:
    """cpu_ms: user and system time of all processes, for each image."""

    images_per_second: float
    cpu_ms: float


def config(options: argparse.Namespace, output: str, workers: int) -> TrainConfig:
    data = Path(options.data).resolve()
    return TrainConfig.model_validate(
        {
            "output": output,
            "gold": {
                "uri": str(data / "trainannot"), "images": str(data / "train"), "classes": "camvid", "ignore": 11,
            },
            "student": {"name": options.student},
            "workers": workers,
            "data": {"size_px": options.size, "validation_share": 0},
            "optim": {"steps": options.steps, "batch_images": options.batch * workers},
            "checkpoint_every_steps": options.steps,
            "tracking": {"enabled": False},
            "execution": {"object_store_mb": 300, "progress_seconds": 0.1},
        }
    )  # fmt: skip


def ours(options: argparse.Namespace, workers: int) -> Arm:
    """`train_student.py`, once it is warm."""
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config(options, str(Path(folder) / "out"), workers).model_dump(mode="json")))
        command = [sys.executable, str(ROOT / "pipelines/train_student.py"), "--config", str(file)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        assert process.stderr is not None and process.stdout is not None
        seen: list[tuple[int, float]] = []
        said = []
        for line in process.stderr:
            said.append(line)
            if found := STEP.match(line):
                seen.append((int(found[1]), cpu_seconds(process.pid)))
        result = process.stdout.read().strip()
        if process.wait():
            raise RuntimeError("".join(said)[-3000:])
    warm = [point for point in seen if point[0] > WARM_STEPS]
    (first, before), (last, after) = warm[0], warm[-1]
    images = (last - first) * options.batch * workers
    return Arm(json.loads(result.splitlines()[-1])["images_per_second"], 1000 * (after - before) / images)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def plain(options: argparse.Namespace, workers: int) -> Arm:
    """As many plain processes, once they are warm."""
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(plain_process, (vars(options), workers, folder), workers)
        told = [json.loads(path.read_text()) for path in Path(folder).glob("seconds-*")]
    images = (options.steps - WARM_STEPS) * options.batch * workers
    return Arm(images / max(wall for wall, _ in told), 1000 * sum(cpu for _, cpu in told) / images)


def plain_process(rank: int, values: dict[str, Any], workers: int, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from pipelines.training.batches import train_batches
    from pipelines.training.job import loader_settings
    from pipelines.training.layout import shape
    from pipelines.training.learner import Learner
    from pipelines.training.loader import Loader
    from pipelines.training.sources import prepare
    from pipelines.training.stream import TRAIN, rounds

    torch.set_num_threads(max(1, (len(os.sched_getaffinity(0)) - 1) // workers))  # as the job does
    options = argparse.Namespace(**values)
    settings = config(options, folder, workers)
    prepared = prepare(settings, None)
    sizes = shape(settings, workers, 0, 0)
    loader = Loader(prepared.plan, prepared.sources, loader_settings(settings, prepared, sizes), None)
    ready = [one for one in rounds(sizes, 0) if one.kind == TRAIN][:BLOCKS]
    device = torch.device("cpu")
    batches = [batch for one in ready for batch in train_batches(loader.train_rows(one, rank), sizes, device)]
    if workers > 1:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=workers)
    learner = Learner(
        settings,
        len(prepared.channels),
        device,
        (lambda module: DistributedDataParallel(module)) if workers > 1 else (lambda module: module),
        rank,
    )
    started = cpu = 0.0
    for step in range(settings.optim.steps):
        if step == WARM_STEPS:
            started, cpu = time.perf_counter(), time.process_time()
        learner.step([batches[step % len(batches)]], 0.0)
    spent = (time.perf_counter() - started, time.process_time() - cpu)
    (Path(folder) / f"seconds-{rank}").write_text(json.dumps(spent))
    if workers > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT.parent / "shared/data/camvid"), help="CamVid's folder")
    parser.add_argument("--student", default="ffnet-s")
    parser.add_argument("--size", type=int, default=192, help="side of the pictures, px")
    parser.add_argument("--batch", type=int, default=8, help="images of a step and worker")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, list[Arm]] = {}
    for number in range(options.rounds):
        for workers in (1, 2):
            for name, measure in (("plain", plain), ("ours", ours)):
                arm = measure(options, workers)
                found.setdefault(f"{name}_{workers}", []).append(arm)
                told = f"{arm.images_per_second:.1f} images/s, {arm.cpu_ms:.1f} CPU ms an image"
                print(f"round {number + 1}: {name} {workers}: {told}", flush=True)
    rates = {name: statistics.median(arm.images_per_second for arm in arms) for name, arms in found.items()}
    costs = {name: statistics.median(arm.cpu_ms for arm in arms) for name, arms in found.items()}
    result = {
        "images_per_second": {name: round(value, 2) for name, value in rates.items()},
        "cpu_ms": {name: round(value, 2) for name, value in costs.items()},
        "two_workers_over_one": round(rates["ours_2"] / rates["ours_1"], 3),
        "rate_over_plain": {n: round(rates[f"ours_{n}"] / rates[f"plain_{n}"], 3) for n in (1, 2)},
        "cpu_over_plain": {n: round(costs[f"ours_{n}"] / costs[f"plain_{n}"], 3) for n in (1, 2)},
        "student": options.student,
        "size_px": options.size,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
