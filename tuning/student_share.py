"""How many trainings a cluster holds at once, and how much of it each gets."""

import math
from dataclasses import dataclass

from pipelines.config import UsageError
from pipelines.training.layout import CPU_WORKERS_A_READER
from tuning.student_config import TuneStudentConfig


@dataclass(frozen=True)
class Share:
    """concurrent: trials at once, each of which is laid out as if it had a cluster of cpus and gpus to itself."""

    concurrent: int
    cpus: float
    gpus: float


def share(config: TuneStudentConfig, trials: int, cpus: float, gpus: float) -> Share:
    """Divide a cluster. trials: those that are left.

    A search is quicker with many narrow trainings than with few wide ones: with `workers` auto a training is at least
    one worker wide, and takes what is left over where there are fewer trials than room. Raises UsageError for more
    trials at once than there are GPUs for.
    """
    device = config.execution.device
    cuda = device == "cuda" or (device == "auto" and gpus >= 1)
    workers = 1 if config.workers == "auto" else config.workers
    if cuda:
        room = int(gpus // workers)
    else:
        auto = max(1, math.ceil(workers / CPU_WORKERS_A_READER))
        readers = auto if config.execution.readers == "auto" else config.execution.readers
        room = int(cpus // (workers + readers))
    wanted = max(1, min(trials, room)) if config.concurrent == "auto" else config.concurrent
    if cuda and wanted > 1 and wanted * workers > gpus:
        raise UsageError(
            f"--concurrent {wanted}: so many trainings of {workers} GPUs each do not fit on the {int(gpus)} GPUs of "
            f"the cluster; {max(1, room)} would"
        )
    return Share(wanted, cpus / wanted, float(gpus // wanted) if cuda else 0.0)
