"""Run the trials of a search for training settings: Ray Tune, one TorchTrainer a trial."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining

from pipelines.flow.progress import say
from pipelines.flow.stop import RunFailed
from tuning.space import Dimension, Value
from tuning.student_config import TuneStudentConfig
from tuning.student_space import StudentSpace
from tuning.student_trial import FINISHED, METRIC, PBT_METRIC, PBT_STEP, STEP, Common, train_trial
from tuning.study import FINISHED as ENDED
from tuning.study import NAME, Progress, StudySearch, open_storage, resume, scheduler
from tuning.tuner import PROCESS_DEATHS, Hopeless, Watch, be_quiet, fit, last_line

PROGRESS = Progress(STEP, FINISHED, 1.0)
#: The first rung of ASHA comes after this share of the steps: before, trials tell little of how they will end.
FIRST_RUNG = 0.15
#: A resource that only the head of a cluster has.
HEAD = "node:__internal_head__"
#: States that a trial of a population keeps: others may be about to take the last.
STATES_KEPT = 3
#: How long a stopped trial may take to end, s, before Tune ends it.
ENDING_S = "30"


@dataclass(frozen=True)
class Tried:
    """A trial that ended. whole: it was not stopped early. values: by dotted field, a population's the last ones.
    numbers: of the last validation. problem: why a training could not come to its end, or ""."""

    name: str
    whole: bool
    values: dict[str, Value]
    numbers: dict[str, float]
    seconds: float
    problem: str = ""

    @property
    def miou(self) -> float:
        """The validation that its student is exported from."""
        return self.numbers[METRIC]


@dataclass(frozen=True)
class Searched:
    """tried: all trials that ended, the earlier runs' included. resumed: how many of them were there already."""

    tried: list[Tried]
    resumed: int
    seconds: float


class NamedSearch(StudySearch):
    """StudySearch whose trials have names, which they keep when they are tried again."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        values = super().suggest(trial_id)
        trial = self._ot_trials[trial_id]
        if NAME not in trial.user_attrs:
            trial.set_user_attr(NAME, f"trial-{trial.number}")
        return {"name": trial.user_attrs[NAME], "values": values}

    def _note(self, trial_id: str, result: Mapping[str, Any]) -> None:
        super()._note(trial_id, result)
        if "problem" in result:
            self._ot_trials[trial_id].set_user_attr("problem", result["problem"])


class StudentWatch(Watch):
    """Also tells each validation, and that a trial ended."""

    def __init__(self, total: int, resumed: int, every_seconds: float, steps: int, on_end: Callable[[], None]) -> None:
        super().__init__(METRIC, PROGRESS, total, resumed, every_seconds)
        self.steps, self.on_end = steps, on_end

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if not PROGRESS.whole(result):
            say(f"{trial.config['name']}: step {result[STEP]:,}/{self.steps:,}, mIoU {result['miou']:.4f}")

    def ended(self, trial: Any) -> None:
        super().ended(trial)
        result = trial.last_result
        how = result.get("problem") or ("trained" if PROGRESS.whole(result) else f"stopped at step {result[STEP]:,}")
        say(f"{trial.config['name']}: {how}, best mIoU {result[METRIC]:.4f}")
        self.on_end()


@dataclass
class Search:
    """One search. folder: its memory. on_end: called with all trials that ended, after each."""

    config: TuneStudentConfig
    space: StudentSpace
    common: Common
    folder: Path
    on_end: Callable[[Sequence[Tried]], None] = field(default=lambda tried: None)

    def run(self) -> Searched:
        """Try settings until `config.trials` have been tried. Raises RunFailed where a trial fails of itself."""
        started = time.monotonic()
        tried, resumed = self._population() if self.common.population else self._study()
        return Searched(tried, resumed, time.monotonic() - started)

    def _study(self) -> tuple[list[Tried], int]:
        """Settings by TPE, early ends by ASHA; the memory is an Optuna study."""
        be_quiet(TUNE_FORCE_TRIAL_CLEANUP_S=ENDING_S)
        config, steps = self.config, self.config.optim.steps
        algorithm = NamedSearch(self.space, open_storage(self.folder), [METRIC], PROGRESS, config.seed)
        study = algorithm.study
        resumed = resume(study, self.space)
        if config.trials > resumed:
            watch = self._watch(resumed, lambda: self.on_end(tried_in(study)))
            watch.know(study)
            asha = scheduler(study, METRIC, STEP, first_rung(steps, config.validate_every_steps), steps)
            planned = tune.TuneConfig(
                search_alg=algorithm,
                scheduler=asha if config.scheduler == "asha" else FIFOScheduler(),
                num_samples=config.trials - resumed,
                max_concurrent_trials=self.common.share.concurrent,
            )
            self._fit(planned, watch, {})
        return tried_in(study), resumed

    def _population(self) -> tuple[list[Tried], int]:
        """Population based training; the memory is Tune's own, beside the states that trials hand on.

        Jaderberg et al., "Population Based Training of Neural Networks", 2017.
        """
        be_quiet(TUNE_FORCE_TRIAL_CLEANUP_S=ENDING_S, TUNE_GLOBAL_CHECKPOINT_S="5")
        config = self.config
        random.seed(config.seed)
        np.random.seed(config.seed)
        points = first_points(self.space, config.trials, config.seed)
        watch = self._watch(0, lambda: None)
        # No limit of trials at once: a paused one would count.
        planned = tune.TuneConfig(scheduler=population(self.space, config.validate_every_steps))
        names = [f"trial-{number}" for number in range(config.trials)]
        params = {
            "name": tune.grid_search(names),
            "values": tune.sample_from(lambda spec: dict(points[names.index(spec.config.name)])),
        }
        grid = self._fit(planned, watch, params)
        return sorted((_tried(one) for one in grid), key=lambda one: names.index(one.name)), 0

    def _watch(self, resumed: int, on_end: Callable[[], None]) -> StudentWatch:
        config = self.config
        return StudentWatch(config.trials, resumed, config.execution.progress_seconds, config.optim.steps, on_end)

    def _fit(self, planned: tune.TuneConfig, watch: StudentWatch, params: dict[str, Any]) -> tune.ResultGrid:
        trainable = tune.with_resources(
            tune.with_parameters(train_trial, common=self.common),
            tune.PlacementGroupFactory([_beside_the_driver(self.common.share.concurrent)]),
        )
        memory = self.folder / "tune"
        run_config = tune.RunConfig(
            name="students",
            storage_path=str(memory),
            verbose=0,
            callbacks=[watch],
            stop=Hopeless(watch),
            failure_config=tune.FailureConfig(max_failures=PROCESS_DEATHS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=STATES_KEPT if self.common.population else None),
        )
        known = str(memory / "students")
        if self.common.population and can_go_on(known):
            say("search: going on with the population of an earlier run")
            # With the settings of trials that were not made yet.
            tuner = tune.Tuner.restore(
                known, trainable, resume_unfinished=True, restart_errored=True, param_space=params
            )
        else:
            tuner = tune.Tuner(trainable, tune_config=planned, run_config=run_config, param_space=params)
        grid = fit(tuner)
        if grid.errors:
            raise RunFailed(f"{len(grid.errors)} trials failed, such as: {last_line(grid.errors[0])}")
        return grid


def can_go_on(folder: str) -> bool:
    """Whether Tune has a search here, and trials of it: one killed at its very beginning has none yet."""
    return tune.Tuner.can_restore(folder) and any(Path(folder).glob("experiment_state-*.json"))


def first_rung(steps: int, validate_every: int) -> int:
    """The first validation by which trials are compared."""
    return min(steps, max(1, round(FIRST_RUNG * steps / validate_every)) * validate_every)


def first_points(space: StudentSpace, count: int, seed: int) -> list[dict[str, Value]]:
    """What a population begins with: the base's own point, and others by chance."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    start = space.start()
    points = [] if start is None else [start]
    while len(points) < count:
        trial = study.ask()
        space(trial)
        points.append(dict(trial.params))
    return points[:count]


class NamedPopulation(PopulationBasedTraining):
    """PBT, in which a trial that goes on from another's state keeps its own name, and with it its folder."""

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return {**config, "name": trial.config["name"]}, operations


def population(space: StudentSpace, every_steps: int) -> NamedPopulation:
    """PBT, which at each validation puts the worse quarter in the place of the better one."""
    ranges = {one.name: one for one in space.dimensions}

    def within(config: dict[str, Any]) -> dict[str, Any]:
        values = {
            name: min(max(value, ranges[name].low), ranges[name].high) for name, value in config["values"].items()
        }
        return {**config, "values": values}

    return NamedPopulation(
        time_attr=PBT_STEP,
        metric=PBT_METRIC,
        mode="max",
        perturbation_interval=every_steps,
        hyperparam_mutations={"values": {name: _domain(one) for name, one in ranges.items()}},
        custom_explore_fn=within,
        require_attrs=False,
        log_config=False,
    )


def _domain(one: Dimension) -> Any:
    return tune.loguniform(one.low, one.high) if one.log else tune.uniform(one.low, one.high)


def _beside_the_driver(concurrent: int) -> dict[str, float]:
    """What a trial's own process asks for. It writes where the driver does, into the output and into MLflow's sqlite
    file, so it runs on the driver's machine (the head, for a driver outside of the cluster), and takes so much of it
    that no more fit than are to run at once. No CPU: it only waits, and on a machine with one its training's reading
    asks for all of that."""
    machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    # A tenth is left to Ray Train, which asks for a little of the head for each training.
    return {_machine(ray.util.get_node_ip_address(), machines): int(9_000 / concurrent) / 10_000}


def _machine(address: str, machines: Sequence[Mapping[str, float]]) -> str:
    """The resource that only the driver's machine has. The head goes by no address: a population that is gone on with
    asks for the same as before, and the address may be another then."""
    here = f"node:{address}"
    return here if any(here in one and HEAD not in one for one in machines) else HEAD


def tried_in(study: optuna.Study) -> list[Tried]:
    """The trials of a study that ended, in the order of their names."""
    return [_ended(one) for one in study.get_trials(deepcopy=False, states=ENDED)]


def _ended(one: FrozenTrial) -> Tried:
    numbers = {name: value for name, value in one.user_attrs["reports"][-1].items() if name != FINISHED}
    whole = one.state == TrialState.COMPLETE
    told = one.user_attrs
    return Tried(told[NAME], whole, dict(one.params), numbers, told["seconds"], told.get("problem", ""))


def _tried(one: tune.ResultGrid) -> Tried:
    """A trial of a population."""
    metrics, config = one.metrics, one.config
    numbers = {name: metrics[name] for name in (STEP, METRIC, PBT_METRIC) if name in metrics}
    problem = str(metrics.get("problem", ""))
    return Tried(config["name"], PROGRESS.whole(metrics), config["values"], numbers, metrics["time_total_s"], problem)
