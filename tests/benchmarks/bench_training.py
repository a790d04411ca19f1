"""Images a second of a training, on one and on two workers, beside plain PyTorch processes without Ray.

    python tests/benchmarks/bench_training.py --data ../shared/data/camvid

The plain processes take the same optimiser steps (forward, losses, backward, gradients exchanged by gloo, running mean)
on batches that were prepared before and lie in their memory: what is left to lose is everything that Ray and the
reading, decoding and augmenting of images cost. All arms run in turn, `--rounds` times, so that a machine's load falls
on all alike; the last line is one JSON object with the median of each arm.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.training.config import TrainConfig

WARM_STEPS = 10
BLOCKS = 4


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
            "execution": {"object_store_mb": 300},
        }
    )  # fmt: skip


def ours(options: argparse.Namespace, workers: int) -> float:
    """Images a second of `train_student.py`, once it is warm."""
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config(options, str(Path(folder) / "out"), workers).model_dump(mode="json")))
        command = [sys.executable, str(ROOT / "pipelines/train_student.py"), "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        result = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"  ours  {workers}: {result['images_per_second']:.1f} images/s, {result['data_wait']:.1%} of it waiting")
    return float(result["images_per_second"])


def plain(options: argparse.Namespace, workers: int) -> float:
    """Images a second of as many plain processes."""
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(plain_process, (vars(options), workers, folder), workers)
        seconds = max(float(path.read_text()) for path in Path(folder).glob("seconds-*"))
    rate = (options.steps - WARM_STEPS) * options.batch * workers / seconds
    print(f"  plain {workers}: {rate:.1f} images/s")
    return rate


def plain_process(rank: int, values: dict[str, Any], workers: int, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from pipelines.training.batches import train_batches
    from pipelines.training.job import _loader_settings
    from pipelines.training.layout import shape
    from pipelines.training.learner import Learner
    from pipelines.training.loader import Loader
    from pipelines.training.sources import prepare
    from pipelines.training.stream import TRAIN, rounds

    torch.set_num_threads(1)
    options = argparse.Namespace(**values)
    settings = config(options, folder, workers)
    prepared = prepare(settings, None)
    sizes = shape(settings, workers, 0, 0)
    loader = Loader(prepared.plan, prepared.sources, _loader_settings(settings, prepared, sizes), None)
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
    started = 0.0
    for step in range(settings.optim.steps):
        if step == WARM_STEPS:
            started = time.perf_counter()
        learner.step([batches[step % len(batches)]], 0.0)
    (Path(folder) / f"seconds-{rank}").write_text(str(time.perf_counter() - started))
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
    found: dict[str, list[float]] = {}
    for number in range(options.rounds):
        print(f"round {number + 1}")
        for workers in (1, 2):
            found.setdefault(f"plain_{workers}", []).append(plain(options, workers))
            found.setdefault(f"ours_{workers}", []).append(ours(options, workers))
    rates = {name: round(statistics.median(values), 2) for name, values in found.items()}
    ratios = {
        "ours_2_over_ours_1": rates["ours_2"] / rates["ours_1"],
        "ours_1_over_plain_1": rates["ours_1"] / rates["plain_1"],
        "ours_2_over_plain_2": rates["ours_2"] / rates["plain_2"],
    }
    told = {"size_px": options.size, "student": options.student, "load": os.getloadavg()[0]}
    print(json.dumps({**rates, **{name: round(value, 3) for name, value in ratios.items()}, **told, "all": found}))


if __name__ == "__main__":
    main()
