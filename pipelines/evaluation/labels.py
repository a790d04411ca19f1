"""Published labels against gold masks."""

from typing import Any

from pipelines import storage
from pipelines.config import UsageError
from pipelines.evaluation.compare import COLUMNS, Comparison, PastRuns
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.gold import open_gold, read_names
from pipelines.tables.labels import LabelTable

BATCH_ROWS = 64


def evaluate_labels(config: EvaluateConfig) -> dict[str, Any]:
    """The numbers. Raises UsageError for what cannot be compared, ValueError for sizes that differ."""
    assert config.labels is not None
    output = storage.absolute(config.labels)
    table = LabelTable(storage.join(output, "labels"))
    snapshot = table.version() if config.snapshot is None else config.snapshot
    if snapshot is None:
        raise UsageError(f"--labels: {output} has no published labels")
    ids = {row for batch in table.newest(("run_id",), version=snapshot) for row in batch["run_id"].to_pylist()}
    if not ids:
        raise UsageError(f"--labels: snapshot {snapshot} of {output} has no label")
    runs = PastRuns(output)
    # Run ids begin with the time, so the last one says what the classes are now.
    labels_classes = runs[max(ids)].classes
    only = None if config.gold.list is None else read_names(config.gold.list)
    options = (config.gold.split, config.gold.classes, labels_classes, config.gold.ignore)
    gold = open_gold(config.gold.uri, *options, only, read_names(config.exclude))
    comparison = Comparison(gold, runs, labels_classes, config.baselines)
    for batch in table.newest(COLUMNS, version=snapshot, batch_rows=BATCH_ROWS):
        comparison.add(batch.to_pylist())
    corpus = runs[max(ids)].config.corpus
    where = {"labels": output, "corpus": corpus, "snapshot": snapshot}
    where |= {"gold": config.gold.uri, "split": config.gold.split}
    return {**where, **comparison.result()}
