"""Label rows against gold masks, batch by batch."""

from collections.abc import Sequence
from typing import Any

from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.baselines import Baselines
from pipelines.evaluation.gold import Gold, Indices, Matching, match
from pipelines.evaluation.runs import PastRun
from pipelines.evaluation.score import Score
from pipelines.migrations import Translation
from pipelines.stages.decide import read_png

COLUMNS = ("asset", "run_id", "class_map", "confidence", "keep_threshold", "weak", "evidence_key")
MISSING_SHOWN = 5


class PastRuns(dict[str, PastRun]):
    """The runs that wrote an output's labels, loaded when they are asked for."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def __missing__(self, run_id: str) -> PastRun:
        self[run_id] = PastRun.load(self._output, run_id)
        return self[run_id]


class Comparison:
    """Adds up what label rows are worth. Rows without a gold mask are passed over."""

    def __init__(self, gold: Gold, runs: PastRuns, classes: ClassSet, baselines: bool) -> None:
        self._gold, self._runs, self._classes = gold, runs, classes
        self._matching = match(gold.classes, classes, gold.ignore)
        self._matchings: dict[str, Matching] = {}
        self._score = Score(self._matching.names)
        self._baselines = Baselines(self._matching.names) if baselines else None
        self._seen: set[str] = set()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Judge a batch of label rows (COLUMNS). Raises UsageError and, for sizes that differ, ValueError."""
        by_run: dict[str, list[tuple[dict[str, Any], Indices]]] = {}
        for row in rows:
            name = self._gold.name_of(row["asset"])
            if name is None:
                continue
            if name in self._seen:
                raise UsageError(f"two labels belong to the gold mask {name!r}; one of them is of {row['asset']!r}")
            self._seen.add(name)
            by_run.setdefault(row["run_id"], []).append((row, self._judge(name, row)))
        if self._baselines is not None:
            for run_id, pairs in by_run.items():
                rows_of_run, gold = zip(*pairs, strict=True)
                self._baselines.update(self._runs[run_id], self._matching_of(run_id), rows_of_run, gold)

    def _judge(self, name: str, row: dict[str, Any]) -> Indices:
        matching = self._matching_of(row["run_id"])
        class_map, mask = read_png(row["class_map"]), self._gold.read(name)
        if class_map.shape != mask.shape:
            raise ValueError(f"{row['asset']}: the label covers {class_map.shape} pixels, its gold mask {mask.shape}")
        gold = matching.gold(mask)
        self._score.update(gold, matching.label(class_map), read_png(row["confidence"]), row["keep_threshold"])
        return gold

    def _matching_of(self, run_id: str) -> Matching:
        if run_id not in self._matchings:
            matching = self._match(self._runs[run_id].classes)
            if matching.names != self._matching.names:
                raise UsageError(
                    f"the labels of run {run_id} know other classes than the newest ones: label the whole corpus with "
                    "one class set, record what changed as its migrations, or leave those images out (--gold.list, "
                    "--exclude)"
                )
            self._matchings[run_id] = matching
        return self._matchings[run_id]

    def _match(self, classes: ClassSet) -> Matching:
        """Labels of an older run are read through the migrations that the newest class set records."""
        if self._classes.migrations and classes.digest != self._classes.digest:
            translation = Translation.of(classes, self._classes)
            if not translation.unmatched:
                return self._matching.read_through(translation)
        return match(self._gold.classes, classes, self._gold.ignore)

    def result(self) -> dict[str, Any]:
        """All numbers. Raises UsageError where nothing could be compared."""
        missing = sorted(self._gold.masks.keys() - self._seen)
        if not self._seen:
            raise UsageError(
                f"none of the {len(missing)} gold masks belongs to a labeled image, such as {missing[0]!r}"
            )
        return {
            "images": self._score.images,
            "missing": len(missing),
            "gold_digest": self._gold.digest,
            **self._score.result(),
            "baselines": self._baselines.result() if self._baselines is not None else None,
            "unmatched": {"gold": self._matching.only_gold, "labels": self._matching.only_label},
            "missing_names": missing[:MISSING_SHOWN],
        }
