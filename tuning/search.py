"""Run the trials: Ray Tune over processes that share the images."""

import logging
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from pipelines import execution
from pipelines.flow.progress import duration, say
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals
from tuning.cases import Cases
from tuning.config import TuneLabelsConfig
from tuning.objectives import Objective
from tuning.space import Space
from tuning.study import FINISHED, StudySearch, open_storage, resume, scheduler
from tuning.trial import LabelTrial, rungs

#: A trial may lose its process so often (out of memory, a lost node) before the search counts it as failed.
PROCESS_DEATHS = 2
#: So many failed trials, and not one more is tried: the next would fail of the same.
FAILURES = 3
#: Tune's own logs, checkpoints and handlers are of no use here: the study has all there is.
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Searched:
    """trials: all that ended, the earlier runs' included. resumed: how many of them were there already."""

    trials: list[FrozenTrial]
    resumed: int
    seconds: float
    concurrent: int


def search(
    config: TuneLabelsConfig, cases: Cases, space: Space, objectives: tuple[Objective, ...], folder: Path
) -> Searched:
    """Try settings until `config.trials` have been tried. cases: of the search half, in their order.

    Raises RunFailed where a trial fails of itself.
    """
    _be_quiet()
    images = len(cases.items)
    early = config.early_stop and len(objectives) == 1
    reports = rungs(images, early)
    algorithm = StudySearch(space, open_storage(folder), [one.name for one in objectives], images, config.seed)
    study = algorithm.study
    resumed = resume(study, space)
    if resumed:
        say(f"search: {resumed} trials of an earlier run are there; going on")
    started = time.monotonic()
    left = config.trials - resumed
    concurrent = 0
    if left > 0:
        concurrent, cpus = _start_ray(config, cases)
        progress = _Progress(algorithm, config, objectives, resumed, images)
        trainable = tune.with_parameters(
            LabelTrial,
            cases=cases,
            base=space.base,
            objectives=objectives,
            reports=reports,
            cache_bytes=config.execution.scene_cache_mb << 20,
        )
        tuner_config = tune.TuneConfig(
            search_alg=algorithm,
            scheduler=scheduler(study, objectives[0], reports) if early else FIFOScheduler(),
            num_samples=left,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        )
        with tempfile.TemporaryDirectory(prefix="maskstream-tune-") as scratch:
            run_config = tune.RunConfig(
                name="labels",
                storage_path=scratch,
                verbose=0,
                callbacks=[progress],
                stop=_Hopeless(progress),
                failure_config=tune.FailureConfig(max_failures=PROCESS_DEATHS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            )
            resources = tune.with_resources(trainable, {"cpu": cpus})
            grid = _fit(tune.Tuner(resources, tune_config=tuner_config, run_config=run_config))
        if grid.errors:
            raise RunFailed(f"{len(grid.errors)} trials failed, such as: {_last_line(grid.errors[0])}")
    trials = study.get_trials(states=FINISHED)
    return Searched(trials, resumed, time.monotonic() - started, concurrent)


def _be_quiet() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(optuna|ray)\..*")


def _start_ray(config: TuneLabelsConfig, cases: Cases) -> tuple[int, float]:
    """How many trials run at once, and how much of a core each asks for."""
    options = config.execution
    # Half as much again: Tune keeps the images once, and a trial's results beside them.
    needed = max(options.object_store_mb, int(1.5 * cases.nbytes / (1 << 20)))
    execution.start_ray(options.ray_address, needed)
    stop_on_signals()  # Ray has put handlers of its own in the place of ours.
    cpus, _ = execution.cluster_resources()
    concurrent = max(1, int(cpus)) if options.concurrent == "auto" else options.concurrent
    return concurrent, min(1.0, cpus / concurrent)


def _fit(tuner: tune.Tuner) -> tune.ResultGrid:
    """Raises Interrupted for a signal, also where it arrives in Ray's compiled part, which wraps it in another."""
    try:
        return tuner.fit()
    except SystemError as error:
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


class _Progress(tune.Callback):
    """A line every few seconds: trials, rate, time left, the best so far."""

    def __init__(
        self,
        algorithm: StudySearch,
        config: TuneLabelsConfig,
        objectives: tuple[Objective, ...],
        resumed: int,
        images: int,
    ) -> None:
        self.algorithm, self.config, self.objectives, self.images = algorithm, config, objectives, images
        self.done = self.before = resumed
        self.started = self.last = time.monotonic()
        self.failed = 0
        self.best: tuple[float, int] | None = None
        for one in algorithm.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._better(one.values[0], one.number)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.done += 1
        result = trial.last_result
        if result["images"] == self.images:
            self._better(result[self.objectives[0].name], self.algorithm.number(trial.trial_id))
        now = time.monotonic()
        if now - self.last < self.config.execution.progress_seconds and self.done < self.config.trials:
            return
        self.last = now
        rate = (self.done - self.before) / max(now - self.started, 1e-9)
        left = duration((self.config.trials - self.done) / rate)
        best = f", best {self.objectives[0].name} {self.best[0]:.4f} (trial {self.best[1]})" if self.best else ""
        say(f"search: {self.done:,}/{self.config.trials:,} trials, {rate:.2f} trials/s, ETA {left}{best}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed += 1

    def _better(self, value: float, number: int) -> None:
        if self.best is None or value > self.best[0]:
            self.best = (value, number)


class _Hopeless(tune.Stopper):
    """Ends a search whose trials fail."""

    def __init__(self, progress: _Progress) -> None:
        self.progress = progress

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.progress.failed >= FAILURES
