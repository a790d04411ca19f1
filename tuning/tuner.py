"""Ray Tune as our searches run it: quiet, stopped by signals, with progress lines, and ended where it is hopeless."""

import logging
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState
from ray import tune

from pipelines.flow.progress import duration, say
from pipelines.flow.stop import Interrupted
from tuning.study import Progress

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


def be_quiet(**more: str) -> None:
    """Before Tune is used. more: settings of Tune that this search wants otherwise."""
    for name, value in {**_QUIET, **more}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(optuna|ray)\..*")


def fit(tuner: tune.Tuner) -> tune.ResultGrid:
    """Raises Interrupted for a signal, also where it arrives in Ray's compiled part, which wraps it in another."""
    try:
        return tuner.fit()
    except SystemError as error:
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise


def last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


class Watch(tune.Callback):
    """A line every few seconds: trials, rate, time left, the best so far.

    metric: what is to be large. total: trials in all, resumed of which had ended before.
    """

    def __init__(self, metric: str, progress: Progress, total: int, resumed: int, every_seconds: float) -> None:
        self.metric, self.progress, self.total, self.every_seconds = metric, progress, total, every_seconds
        self.done = self.before = resumed
        self.started = self.last = time.monotonic()
        self.failed = 0
        self.best: float | None = None

    def know(self, study: Study) -> None:
        """What the trials of earlier runs came to."""
        for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._better(one.values[0])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.done += 1
        self.ended(trial)
        now = time.monotonic()
        if now - self.last < self.every_seconds and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.before) / max(now - self.started, 1e-9)
        left = duration((self.total - self.done) / rate)
        best = "" if self.best is None else f", best {self.metric} {self.best:.4f}"
        shown = f"{rate:.2f} trials/s" if rate > 0.1 else f"{rate * 60:.2f} trials/min"
        say(f"search: {self.done:,}/{self.total:,} trials, {shown}, ETA {left}{best}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed += 1

    def ended(self, trial: Any) -> None:
        """One of Tune's trials is over."""
        result: Mapping[str, Any] = trial.last_result
        if self.progress.whole(result):
            self._better(result[self.metric])

    def _better(self, value: float) -> None:
        self.best = value if self.best is None else max(self.best, value)


class Hopeless(tune.Stopper):
    """Ends a search whose trials fail."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.watch.failed >= FAILURES
