"""What the labels must beat, on the same images: the centre prior, the heat alone, the heat with PAR."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from models import evidence as evidence_record
from models.decide.baselines import centre_prior, heat_only, heat_par
from models.decide.decide import decide
from models.decide.types import WeakArrays
from models.metrics import Confusion
from pipelines import weak as weak_labels
from pipelines.evaluation.gold import IGNORED, Indices, Matching
from pipelines.evaluation.runs import PastRun
from pipelines.evaluation.score import summary


class Baselines:
    """Decides again from stored evidence, with the run's own settings, classes and weak labels, parts switched off."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.scores = {name: Confusion(len(names), IGNORED) for name in ("centre_prior", "heat", "heat_par")}
        self.images = 0
        self.tagged = 0

    def update(
        self, run: PastRun, matching: Matching, rows: Sequence[Mapping[str, Any]], gold: Sequence[Indices]
    ) -> None:
        """Add label rows of one run, and their gold as common indices. Rows without evidence are left out."""
        by_key: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            by_key.setdefault(row["evidence_key"], []).append(number)
        for found in run.evidence(by_key):
            for number in by_key.pop(found["evidence_key"], []):
                self._add(run, matching, found, rows[number], gold[number])

    def _add(
        self, run: PastRun, matching: Matching, stored: Mapping[str, Any], row: Mapping[str, Any], gold: Indices
    ) -> None:
        evidence = evidence_record.decode(stored)
        size = (evidence.height, evidence.width)
        arrays = run.classes.arrays()
        valid, _ = weak_labels.validate(json.loads(row["weak"] or "{}"), run.classes, size)
        weak: WeakArrays = weak_labels.to_arrays(valid, run.classes, *size)
        config = run.config.decide
        maps = {
            "centre_prior": centre_prior(arrays, weak, *size),
            "heat": decide(evidence, run.text, arrays, weak, heat_only(config)).class_map,
            "heat_par": decide(evidence, run.text, arrays, weak, heat_par(config)).class_map,
        }
        for name, class_map in maps.items():
            self.scores[name].update(gold, matching.label(class_map))
        self.images += 1
        self.tagged += weak.present is not None

    def result(self) -> dict[str, Any]:
        """Numbers by baseline; the centre prior is null where no image had tags. `images`: how many had evidence."""
        numbers: dict[str, Any] = {name: summary(score, self.names) for name, score in self.scores.items()}
        if not self.tagged:
            numbers["centre_prior"] = None
        return {**numbers, "images": self.images}
