"""The job as a user runs it: a process of its own, small random models unless a test asks for others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 420


@dataclass
class Finished:
    """code: exit code. out, err: what was printed. result: the JSON object on the last line of stdout, or {}."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        lines = self.out.strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}


class Job:
    """Starts `pipelines/label_corpus.py` with small models, tracking off, an environment of its own."""

    def __init__(self, models: Path, scratch: Path) -> None:
        self.models, self.scratch = models, scratch
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MASKSTREAM_", "RAY_"))},
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *arguments: object, models: bool = True) -> list[str]:
        given = [str(argument) for argument in arguments]
        small = [
            "--observe.clip.model", str(self.models / "clip"), "--observe.sam.model", str(self.models / "sam"),
        ] if models else []  # fmt: skip
        quiet = ["--tracking.enabled", "false", "--execution.progress_seconds", "1"]
        quiet += ["--execution.object_store_mb", "300"]
        return [sys.executable, str(ROOT / "pipelines" / "label_corpus.py"), *given, *small, *quiet]

    def start(self, *arguments: object, models: bool = True, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments, models=models),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**self.env, **env},
            start_new_session=True,
        )

    def __call__(self, *arguments: object, models: bool = True, **env: str) -> Finished:
        process = self.start(*arguments, models=models, **env)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the job did not end within {TIMEOUT_S} s:\n{err[-3000:]}")
        return Finished(process.returncode, out, err)


def photographs() -> list[np.ndarray]:
    """The photographs that installed packages carry, uint8 [h, w, 3]."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    own = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
    return [*own, *load_sample_images().images]


def write_crops(folder: Path, count: int, seed: int = 0, size: int = 96) -> list[str]:
    """Write `count` different crops of real photographs as JPEG; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    sources = photographs()
    names = []
    for number in range(count):
        source = sources[number % len(sources)]
        height, width = (int(value) for value in random.integers(size // 2, size, 2))
        top = int(random.integers(0, source.shape[0] - height))
        left = int(random.integers(0, source.shape[1] - width))
        name = f"crop-{number:04d}.jpg"
        Image.fromarray(source[top : top + height, left : left + width]).save(folder / name, quality=92)
        names.append(name)
    return names


def label_rows(output: Path, columns: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """The newest published rows by asset."""
    from pipelines.tables.labels import SCHEMA, LabelTable

    batches = LabelTable(str(output / "labels")).newest(columns or SCHEMA.names)
    return {row["asset"]: row for batch in batches for row in batch.to_pylist()}


def wait_until(condition: Any, seconds: float = 120, every: float = 0.1) -> bool:
    """Poll; False when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(every)
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
