"""One trial on Ray: a whole training with the settings that it was given, each validation of which Tune is told."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from pipelines.training import record
from pipelines.training.config import TrainConfig
from pipelines.training.job import Diverged, Part, train_student
from pipelines.training.sources import Prepared
from tuning.space import changed
from tuning.student_share import Share

#: What is compared: the validation that the student is exported from. FINISHED: 1 where the training came to its end.
METRIC, FINISHED, STEP = "best_miou", "finished", "step"
#: What PBT compares, the weights as they are, and goes by; the report of a training that is over lacks the latter, so
#: that it is left in peace.
PBT_METRIC, PBT_STEP = "miou", "step_now"


@dataclass(frozen=True)
class Common:
    """What all trials share. base: the training; its output is the folder of all trials. cwd: where relative paths
    begin. population: they are one of PBT, and hand states on."""

    base: TrainConfig
    prepared: Prepared
    share: Share
    cwd: str
    population: bool


def train_trial(config: dict[str, Any], common: Common) -> None:
    """The function that Tune runs, in a process of its own beside the driver; TorchTrainer's are elsewhere.

    config: name of the trial, values by dotted field. A trial that was interrupted goes on from its last checkpoint;
    one of a population from the state that Tune gives, its own or a better one's.
    """
    os.chdir(common.cwd)  # Tune has gone elsewhere
    name, values = config["name"], config["values"]
    output = Path(common.base.output) / name
    state = tune.get_checkpoint() if common.population else None
    begun = int(state.get_metadata()[STEP]) if state else 0
    told = Reports(common.base.optim.steps, begun, common.population)
    part = Part(
        prepared=common.prepared,
        cpus=common.share.cpus,
        gpus=common.share.gpus,
        name=name,
        on_validation=told.validation,
        on_checkpoint=told.checkpoint,
        # A population's settings change on the way, which MLflow's params cannot.
        params={} if common.population else values,
        start=state.path if state else "",
        mlflow_run_id=mlflow_run(output),
    )
    again = {"output": str(output), "restart": common.population}
    try:
        summary = train_student(changed(common.base, {**values, **again}), part)
    except Diverged as error:
        told.end(told.step, 0.0, str(error))
    else:
        told.end(summary["steps"], summary["miou"] or 0.0)


class Reports:
    """Tells Tune each validation once. The last step is told when the training has ended: what Tune makes of it cannot
    stop the student from being written.

    begun: the step of the state that a population's trial goes on from; what came before, Tune knows.
    """

    def __init__(self, steps: int, begun: int, population: bool) -> None:
        self.steps, self.step, self.population = steps, begun, population
        self.handed_on = begun
        self.values: dict[str, float] = {}

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        if step <= self.step:
            return
        self.step, self.values = step, {name: float(value) for name, value in values.items()}
        if step < self.steps and not self.population:
            tune.report({STEP: step, **self.values})

    def checkpoint(self, step: int, folder: str) -> None:
        if not self.population or step != self.step or step <= self.handed_on or step >= self.steps:
            return
        self.handed_on = step
        state = tune.Checkpoint(folder)
        state.update_metadata({STEP: step})
        tune.report({STEP: step, PBT_STEP: step, **self.values}, checkpoint=state)

    def end(self, step: int, best: float, problem: str = "") -> None:
        """The training is over; one that an earlier process has finished is not validated any more."""
        remark = {"problem": problem} if problem else {}
        tune.report({STEP: step, PBT_METRIC: float(best), **self.values, METRIC: float(best), FINISHED: 1.0, **remark})


def mlflow_run(folder: Path) -> str:
    """Id of the MLflow run of the training in a folder, "" for none."""
    file = folder / record.RECORD
    return str(json.loads(file.read_text())["mlflow_run_id"]) if file.exists() else ""
