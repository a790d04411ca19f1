"""The search's memory: an Optuna study on disk, from which a killed search goes on, and Ray Tune's view of it."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from pipelines.config import UsageError
from tuning.files import write_json
from tuning.space import Space

#: Optuna's name of the study; each folder has one.
STUDY = "labels"
#: Trials of which at most one in so many goes on at each rung; the rungs are 2.5 apart as well.
REDUCTION = 2.5
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
#: The file that says what a folder's search is about.
SEARCH = "search.json"
#: The file whose lock the process has that searches in a folder.
LOCK = "lock"
#: The attribute of a trial that it keeps when it is tried again.
NAME = "name"


class OneWriter(JournalFileBackend):
    """Optuna's journal for a single writer (see `hold`), on disk where a trial begins or ends.

    As it comes it takes a lock and flushes the disk for each of a trial's thirty lines, which costs more than the
    trial. A killed process loses nothing either way: what was written is the system's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())
            file.flush()
            if any("state" in log for log in logs):
                os.fsync(file.fileno())


def hold(folder: Path) -> IO[bytes]:
    """Keep others from searching in this folder, for as long as the returned file is open. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"another process searches in {folder} right now") from error
    return file


class OrdinalSampler(BaseSampler):
    """TPE (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011), seeded anew for each trial.

    A trial's seed is the search's and its ordinal, so that a search that was killed draws what it would have drawn.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._now: BaseSampler = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        ordinal = sum(one.state != TrialState.FAIL for one in study.get_trials(deepcopy=False)[: trial.number])
        seed = int(np.random.SeedSequence([self._seed, ordinal]).generate_state(1)[0])
        # The space has branches, in which it samples field by field: nothing to warn of.
        self._now = TPESampler(seed=seed, warn_independent_sampling=False)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._now.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._now.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._now.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Progress:
    """What a trial reports of how far it is. name: of the number that grows, such as images or steps. sign, least: it
    was not stopped early if its number `sign` is at least that."""

    name: str
    sign: str
    least: float

    def whole(self, result: Mapping[str, Any]) -> bool:
        return bool(result.get(self.sign, 0) >= self.least)


class StudySearch(OptunaSearch):
    """OptunaSearch that keeps each trial's numbers in the study, and tells Optuna what was stopped early.

    The value of a trial that was stopped is of a part of the work, and not to be compared with the others'. names: of
    the numbers that are to be large.
    """

    def __init__(
        self, space: Space[Any], storage: JournalStorage, names: Sequence[str], progress: Progress, seed: int
    ) -> None:
        single = len(names) == 1
        super().__init__(
            space,
            metric=names[0] if single else list(names),
            mode="max" if single else ["max"] * len(names),
            sampler=OrdinalSampler(seed),
            storage=storage,
            study_name=STUDY,
        )
        self._progress = progress

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._note(trial_id, result)
        super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result and not error:
            self._note(trial_id, result)
            if not self._progress.whole(result):
                trial = self._ot_trials[trial_id]
                trial.report(result[self.metric], result["training_iteration"])
                self._ot_study.tell(trial, state=TrialState.PRUNED)
                self._completed_trials.add(trial_id)
                return
        super().on_trial_complete(trial_id, None if error else result, error)

    def _note(self, trial_id: str, result: Mapping[str, Any]) -> None:
        trial = self._ot_trials[trial_id]
        told = {name: value for name, value in result.items() if isinstance(value, float) and name in _kept(result)}
        name = self._progress.name
        before = [one for one in trial.user_attrs.get("reports", []) if one[name] != result[name]]
        trial.set_user_attr("reports", [*before, {name: result[name], **told}])
        trial.set_user_attr("seconds", round(float(result["time_total_s"]), 3))

    @property
    def study(self) -> Study:
        """The study on disk."""
        return self._ot_study

    def number(self, trial_id: str) -> int:
        """The study's number of one of Tune's trials."""
        return int(self._ot_trials[trial_id].number)


def _kept(result: Mapping[str, Any]) -> set[str]:
    """What the trial itself reported, without what Tune adds."""
    added = ("time_this_iter_s", "time_total_s", "time_since_restore", "timestamp")
    return {name for name in result if name not in added and not name.startswith(("config", "perf"))}


def open_storage(folder: Path) -> JournalStorage:
    """The study's journal in this folder."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(OneWriter(folder / "study.journal"))


def claim(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Make the folder that of the search with these inputs, which decide what it finds. Raises UsageError where another
    search has it."""
    told = json.loads(json.dumps(inputs))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / SEARCH
        if known.exists():
            before = json.loads(known.read_text())
            if other := [key for key, value in told.items() if before.get(key) != value]:
                raise UsageError(f"--output {folder} holds another search ({other[0]} differs): choose another folder")
        write_json(known, told)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error}") from error


def resume(study: Study, space: Space[Any]) -> int:
    """Make the study ready to go on; returns how many trials have ended.

    What was under way when the search was killed is tried again first. A new study begins with the settings that are
    now in use.
    """
    trials = study.get_trials(deepcopy=False)
    for one in trials:
        if one.state == TrialState.RUNNING:
            study.tell(one.number, state=TrialState.FAIL)
            if one.params:
                study.enqueue_trial(one.params, user_attrs={k: v for k, v in one.user_attrs.items() if k == NAME})
    if not trials and (start := space.start()) is not None:
        study.enqueue_trial(start)
    return sum(one.state in FINISHED for one in trials)


def scheduler(study: Study, metric: str, progress: str, first: int, last: int) -> ASHAScheduler:
    """ASHA over `progress` from first to last, as if it had seen the trials that the study has.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
    """
    asha = ASHAScheduler(
        time_attr=progress,
        metric=metric,
        mode="max",
        max_t=last,
        grace_period=first,
        reduction_factor=REDUCTION,
    )
    for one in study.get_trials(deepcopy=False, states=FINISHED):
        past = SimpleNamespace(trial_id=f"past-{one.number}")
        asha.on_trial_add(None, past)
        for report in one.user_attrs["reports"]:
            asha.on_trial_result(None, past, report)
        asha.on_trial_complete(None, past, one.user_attrs["reports"][-1])
    return asha
