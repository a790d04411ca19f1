"""Size and speed of every student: parameters, multiply-adds at 352 px, pictures a second forward and in training.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_student_speed.py [--device cuda] [--students ffnet-xs ffnet-s]

One JSON line a student. Forward: float32 on the CPU, bfloat16 autocast on a GPU, `--forward_px` square, in evaluation
mode. Training step: forward, cross-entropy on the full-size mask, backward, AdamW, at `--train_px` square. Seconds on
the CPU are CPU seconds, so that neighbours on the machine count little: with one thread, what one idle core does.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.device import autocast, pick_device, pick_dtype
from models.students.build import STUDENTS, build_student
from models.students.config import StudentConfig
from models.students.describe import describe

CLASSES = 21


def images_per_second(step: Callable[[], object], images: int, seconds: float, device: torch.device) -> float:
    """The best of the repetitions that fit in the time, after one that is not counted: other work only slows down."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    step()
    best = 0.0
    end = clock() + seconds
    while best == 0.0 or clock() < end:
        started = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, images / (clock() - started))
    return best


def measure(name: str, options: argparse.Namespace) -> dict[str, object]:
    device = pick_device(options.device)
    dtype = pick_dtype("auto", device)
    config = StudentConfig(name, pretrained=False)  # type: ignore[arg-type]
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    student = build_student(config, CLASSES).to(device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-4)

    def batch(side: int) -> torch.Tensor:
        return torch.rand(options.batch, 3, side, side, device=device).contiguous(memory_format=layout)

    pictures, examples = batch(options.forward_px), batch(options.train_px)
    masks = torch.randint(CLASSES, (options.batch, options.train_px, options.train_px), device=device)

    @torch.inference_mode()
    def forward() -> None:
        with autocast(device, dtype):
            student(pictures)

    def train() -> None:
        optimizer.zero_grad()
        with autocast(device, dtype):
            logits = student(examples)["logits"]
        F.cross_entropy(F.interpolate(logits.float(), size=masks.shape[1:], mode="bilinear"), masks).backward()
        optimizer.step()

    student.eval()
    forward_rate = images_per_second(forward, options.batch, options.seconds, device)
    student.train()
    train_rate = images_per_second(train, options.batch, options.seconds, device)
    return {
        "student": name,
        **describe(config, CLASSES, 352, 352),
        "forward_images_per_second": round(forward_rate, 2),
        "train_images_per_second": round(train_rate, 2),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "forward_px": options.forward_px,
        "train_px": options.train_px,
        "channels_last": options.channels_last,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the students.")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=STUDENTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--forward_px", type=int, default=352)
    parser.add_argument("--train_px", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each measurement")
    parser.add_argument("--channels_last", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    for name in options.students:
        print(json.dumps(measure(name, options)), flush=True)


if __name__ == "__main__":
    main()
