"""Where a run comes from, and what its machine is busy with."""

import contextlib
import getpass
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.tracking_store import IMPORTING

SAMPLE_SECONDS = 10.0


def origin_tags() -> dict[str, str]:
    """Git revision, Ray job, script and user, as far as they are known."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    revision = _git("rev-parse", "HEAD")
    if revision:
        tags["mlflow.source.git.commit"] = revision
        tags["git_dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def ray_tags() -> dict[str, str]:
    """The Ray job that this process is part of; empty before Ray is started."""
    tags = {}
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        tags["ray_job_id"] = ray.get_runtime_context().get_job_id()
    submission = os.environ.get("RAY_JOB_SUBMISSION_ID", "")
    if submission:
        tags["ray_submission_id"] = submission
    return tags


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class SystemMetrics:
    """MLflow's own system metrics of this machine (CPU, memory, disk, network, GPU), sampled in a thread.

    They are handed to `put`, not to MLflow, so that they too are kept where MLflow is away. put(values, step): called
    every `every_seconds` and once at the end.
    """

    def __init__(self, put: Callable[[Mapping[str, object], int], None], every_seconds: float = SAMPLE_SECONDS) -> None:
        self._put, self._every = put, every_seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="system-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(self._every)

    def _sample(self) -> None:
        try:
            monitors = _monitors()
        except Exception:  # a machine that does not tell: a run does not end for it
            return
        step = 0
        while True:
            ended = self._end.wait(self._every)
            with contextlib.suppress(Exception):  # such as a device that went away
                self._put(_read(monitors), step)
            step += 1
            if ended:
                return


def _monitors() -> list[Any]:
    with IMPORTING:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(Exception):  # no GPU, or nobody who could ask it
        found.append(GPUMonitor())
    _read(found)  # a CPU's load is that since it was asked before
    return found


def _read(monitors: list[Any]) -> dict[str, object]:
    values: dict[str, object] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values
