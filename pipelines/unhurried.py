"""A pause in Ray Data's scheduling loop. A module of its own, as it imports Ray."""

import time

from ray.data._internal.execution.execution_callback import ExecutionCallback

REST_SECONDS = 0.02


class Unhurried(ExecutionCallback):
    """Lets the scheduler of a dataset rest between its rounds.

    While finished blocks wait to be taken, as they always do where a model is the slowest part, Ray Data's loop finds
    them ready, may not take them, and turns again at once: that burns as much of a core as the model gets.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(REST_SECONDS)
