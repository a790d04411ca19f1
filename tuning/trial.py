"""One trial on Ray: the settings it was given, on more and more of the images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray import tune

from models.decide.config import DecideConfig
from pipelines.evaluation.cases import Cases
from pipelines.stages.observe import limit_threads
from tuning.objectives import Objective, numbers
from tuning.scoring import Scenes, count

#: A trial reports after these shares of the images; a poor one goes no further.
RUNGS = (0.2, 0.5, 1.0)


def rungs(images: int, early_stop: bool) -> list[int]:
    """After how many images a trial reports, the last of them being all."""
    return sorted({max(1, int(np.ceil(share * images))) for share in RUNGS}) if early_stop else [images]


class LabelTrial(tune.Trainable):
    """Its process is used for one trial after the other, and keeps what lies upstream of the fields that differ.

    cases: from the object store, arrays shared with the other processes. reports: see `rungs`.
    """

    def setup(
        self,
        config: dict[str, Any],
        cases: Cases,
        base: DecideConfig,
        objectives: tuple[Objective, ...],
        reports: list[int],
        cache_bytes: int,
    ) -> None:
        limit_threads(1)
        self.cases, self.base, self.objectives, self.reports = cases, base, objectives, reports
        self.scenes = Scenes(cases, cache_bytes)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process."""
        self.settings = settings_of(self.base, new_config)
        self.done = 0
        size = len(self.cases.names)
        self.counts = np.zeros((2, size, size + 1), np.int64)
        return True

    def step(self) -> dict[str, Any]:
        """On to the next rung."""
        target = next(count for count in self.reports if count > self.done)
        built = self.scenes.built
        for case in self.cases.items[self.done : target]:
            self.counts += count(self.cases, case, self.settings, self.scenes)
        self.done = target
        return {
            **numbers(self.counts, self.objectives),
            "images": target,
            "scenes_built": self.scenes.built - built,
            "done": target == self.reports[-1],
        }


def settings_of(base: DecideConfig, values: Mapping[str, Any]) -> DecideConfig:
    """base with a trial's values in the place of its own."""
    from dataclasses import replace

    return replace(base, **values)
