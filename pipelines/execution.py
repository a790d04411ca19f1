"""How a plan is laid out on a Ray cluster: how many actors, what each holds, and Ray Data's own settings."""

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pipelines.flow.stop import RunFailed
from pipelines.stages.base import Resources

# Actors hold less than a whole CPU each, so that the small tasks beside them (writing shards, the coordinator) always
# find room: with whole ones, a machine of two cores and two actors waits for itself for ever.
ACTOR_CPUS = 0.75
WRITER_CPUS = 0.2
# Ray counts a hang as an error when no block moved for so long. A block of 64 images on a slow CPU takes its time.
NO_PROGRESS_SECONDS = 3600
GPU_ROWS_PER_SHARD = 64
CPU_ROWS_PER_SHARD = 16


@dataclass(frozen=True)
class Layout:
    """actors: size of the pool; resources: of each actor; device: cpu or cuda; rows_per_shard: the resume unit."""

    actors: int
    resources: Resources
    device: str
    rows_per_shard: int

    def in_flight(self, pools: int) -> int:
        """The most images that are in hand at once, and so the most that a killed run observes again.

        Every actor has one block in hand and one that waits for its writer; each pool before the last adds as much.
        """
        return self.actors * pools * 2 * self.rows_per_shard


def layout(
    cpus: float, gpus: float, device: str, actors: str | int, rows_per_shard: int, gpu_share: float = 0.0
) -> Layout:
    """Choose the pool for the resources a cluster has.

    device: auto, cpu or cuda; actors: "auto" (one a GPU, or one a core) or a number; rows_per_shard: 0 = by device.
    gpu_share: of a GPU for each actor, 0: whatever fits them on the GPUs that are there. With a share and a number of
    actors, GPUs may be asked for that an autoscaler has yet to bring.

    Raises:
        ValueError: cuda is asked for and the cluster has no GPU.
    """
    if device == "auto":
        device = "cuda" if gpus >= 1 else "cpu"
    if device == "cuda" and gpus < 1 and (actors == "auto" or not gpu_share):
        raise ValueError(
            "execution.device is cuda, but the cluster has no GPU: use auto or cpu (or, if it grows by itself, set "
            "execution.actors to the most GPUs that it may have, and execution.gpu_share to 1)"
        )
    if device == "cuda":
        count = int(gpus) if actors == "auto" else int(actors)
        # Whole actors have to fit on a GPU: two GPUs and three actors are a half for each, not two thirds.
        share = gpu_share or 1.0 / math.ceil(count / gpus)
        return Layout(count, Resources(ACTOR_CPUS, share), device, rows_per_shard or GPU_ROWS_PER_SHARD)
    count = max(1, int(cpus)) if actors == "auto" else int(actors)
    share = min(ACTOR_CPUS, cpus * ACTOR_CPUS / count)
    return Layout(count, Resources(share), device, rows_per_shard or CPU_ROWS_PER_SHARD)


def local_resources() -> tuple[float, float]:
    """CPUs and GPUs of this machine that we may use, for a plan made before any cluster is started."""
    cpus = float(len(os.sched_getaffinity(0)))
    if version("torch").endswith("+cpu"):
        return cpus, 0.0
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is not None:
        count = len([name for name in gpus.split(",") if name.strip() not in ("", "-1")])
    else:
        from pathlib import Path

        count = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return cpus, float(count)


def start_ray(address: str, object_store_mb: int, dashboard: bool = False, metrics_port: int = 0) -> None:
    """Connect to the cluster at `address` (or of RAY_ADDRESS), or start one on this machine that ends with us.

    dashboard: with Ray's web server (on 127.0.0.1), of which Ray Train asks whether a training that was cut off is
    dead, before it gives its resources back. metrics_port: where one of our own is to be scraped; 0: a free one.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        # What of Ray is our own lives on 127.0.0.1, its metrics too. The switch is named for systems where that is the
        # default, and is read when Ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Ray's C++ part writes warnings of its own to our stderr, about actors that Ray Data itself lays out.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    workers = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if address:
        _connect({"address": address, "runtime_env": {"env_vars": workers}, **common})
        return
    # A plain ray.init leaves a token file behind that a later `ray start` would take as a wish for authentication.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cpus, gpus = local_resources()
    if dashboard:
        common["dashboard_port"] = _free_port()
        # Otherwise Ray Train looks for it among this machine's processes, and gives up where two of them are Ray's.
        address = f"http://127.0.0.1:{common['dashboard_port']}"
        workers["RAY_API_SERVER_ADDRESS"] = address
    options = {
        "address": "local",
        "include_dashboard": dashboard,
        "num_cpus": int(cpus),
        "num_gpus": int(gpus),
        "object_store_memory": object_store_mb * 1024 * 1024,
        "_temp_dir": os.environ.get("RAY_TMPDIR"),
        "_metrics_export_port": metrics_port or None,
    }
    # Inherited, and not a runtime_env: the workers that Ray starts ahead have none, and would be started in vain.
    with _environment(workers):
        _connect({**options, **common})


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These environment variables, for the processes that start within the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connect(options: dict[str, Any]) -> None:
    """ray.init, tried twice: on a machine that is busy, Ray gives up on its own processes after half a minute."""
    import ray

    for last in (False, True):
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if last:
                raise RunFailed(f"Ray cannot be started or reached ({options['address']}): {error}") from error


def set_up_data() -> None:
    """Ray Data's settings for our jobs."""
    import ray

    from pipelines.unhurried import Unhurried

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_SECONDS
    # Rows come back in the order they are done: a slow image must not hold back the others.
    context.execution_options.preserve_order = False
    context.max_errored_blocks = 0
    if Unhurried not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Unhurried)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def cluster_resources() -> tuple[float, float]:
    import ray

    total = ray.cluster_resources()
    return float(total.get("CPU", 1)), float(total.get("GPU", 0))


def inside_cluster() -> bool:
    """Whether a cluster to connect to is known from the environment, as in a submitted job."""
    return bool(os.environ.get("RAY_ADDRESS"))
