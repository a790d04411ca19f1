"""Run the trials of a search for settings of *decide*: Ray Tune over processes that share the images."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from pipelines import execution
from pipelines.evaluation.cases import Cases
from pipelines.flow.progress import say
from pipelines.flow.stop import RunFailed, stop_on_signals
from tuning.config import TuneLabelsConfig
from tuning.labels_space import LabelSpace
from tuning.objectives import Objective
from tuning.study import FINISHED, Progress, StudySearch, open_storage, resume, scheduler
from tuning.trial import LabelTrial, rungs
from tuning.tuner import PROCESS_DEATHS, Hopeless, Watch, be_quiet, fit, last_line


@dataclass(frozen=True)
class Searched:
    """trials: all that ended, the earlier runs' included. resumed: how many of them were there already."""

    trials: list[FrozenTrial]
    resumed: int
    seconds: float
    concurrent: int


def search(
    config: TuneLabelsConfig, cases: Cases, space: LabelSpace, objectives: tuple[Objective, ...], folder: Path
) -> Searched:
    """Try settings until `config.trials` have been tried. cases: of the search half, in their order.

    Raises RunFailed where a trial fails of itself.
    """
    be_quiet()
    images = len(cases.items)
    early = config.early_stop and len(objectives) == 1
    reports = rungs(images, early)
    watched = Progress("images", "images", images)
    algorithm = StudySearch(space, open_storage(folder), [one.name for one in objectives], watched, config.seed)
    study = algorithm.study
    resumed = resume(study, space)
    if resumed:
        say(f"search: {resumed} trials of an earlier run are there; going on")
    started = time.monotonic()
    left = config.trials - resumed
    concurrent = 0
    if left > 0:
        concurrent, cpus = _start_ray(config, cases)
        watch = Watch(objectives[0].name, watched, config.trials, resumed, config.execution.progress_seconds)
        watch.know(study)
        trainable = tune.with_parameters(
            LabelTrial,
            cases=cases,
            base=space.base,
            objectives=objectives,
            reports=reports,
            cache_bytes=config.execution.scene_cache_mb << 20,
        )
        asha = scheduler(study, objectives[0].name, "images", reports[0], reports[-1])
        tuner_config = tune.TuneConfig(
            search_alg=algorithm,
            scheduler=asha if early else FIFOScheduler(),
            num_samples=left,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        )
        with tempfile.TemporaryDirectory(prefix="maskstream-tune-") as scratch:
            run_config = tune.RunConfig(
                name="labels",
                storage_path=scratch,
                verbose=0,
                callbacks=[watch],
                stop=Hopeless(watch),
                failure_config=tune.FailureConfig(max_failures=PROCESS_DEATHS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            )
            resources = tune.with_resources(trainable, {"cpu": cpus})
            grid = fit(tune.Tuner(resources, tune_config=tuner_config, run_config=run_config))
        if grid.errors:
            raise RunFailed(f"{len(grid.errors)} trials failed, such as: {last_line(grid.errors[0])}")
    trials = study.get_trials(states=FINISHED)
    return Searched(trials, resumed, time.monotonic() - started, concurrent)


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
