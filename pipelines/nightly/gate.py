"""The gate of a snapshot: what its labels are measured by, and what is wrong with them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.config import UsageError
from pipelines.evaluation.compare import COLUMNS, Comparison, PastRuns
from pipelines.evaluation.gold import open_gold, read_names
from pipelines.flow.progress import say
from pipelines.gates import LEAST, above, below, quality_reasons
from pipelines.nightly.config import GoldConfig, SnapshotGate
from pipelines.nightly.sides import Side, Sides

BATCH_ROWS = 64


@dataclass(frozen=True)
class Quality:
    """Labels against gold. metric: of the gate's name, None where it was not measured. class_iou: by class name."""

    images: int
    metric: float | None
    class_iou: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Numbers:
    """What a gate looks at. Shares are 0..1. coverage_before, old and new are None where there is nothing to compare
    with. rechecked: images that were decided once more."""

    coverage: float
    quarantine_rate: float
    churn: float = 0.0
    churn_without_cause: float = 0.0
    rechecked: int = 0
    withdrawn: int = 0
    coverage_before: float | None = None
    old: Quality | None = None
    new: Quality | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def reasons(gate: SnapshotGate, numbers: Numbers) -> list[str]:
    """Everything that is wrong, a sentence each; none means that the gate is open."""
    found: list[str] = []
    if numbers.old is not None and numbers.new is not None:
        old, new = numbers.old, numbers.new
        found += quality_reasons(gate, new.metric, old.metric, new.class_iou, old.class_iou)
    found += above("churn without a cause", numbers.churn_without_cause, gate.maximum_churn_without_cause)
    found += above("churn", numbers.churn, gate.maximum_churn)
    found += below("coverage", numbers.coverage, gate.minimum_coverage)
    if numbers.coverage_before is not None and gate.maximum_coverage_fall is not None:
        fall = numbers.coverage_before - numbers.coverage
        if fall > gate.maximum_coverage_fall + LEAST:
            found.append(
                f"coverage {numbers.coverage_before:.4f} -> {numbers.coverage:.4f} falls by {fall:.4f}; "
                f"{gate.maximum_coverage_fall:.4f} at most"
            )
    found += above("quarantine rate", numbers.quarantine_rate, gate.maximum_quarantine_rate)
    if gate.maximum_withdrawn is not None and numbers.withdrawn > gate.maximum_withdrawn:
        found.append(
            f"{numbers.withdrawn:,} of these labels were taken back by a rollback; change what made them, or publish "
            "them anyway"
        )
    return found


def on_gold(gold: GoldConfig, sides: Sides) -> tuple[Quality, Quality] | None:
    """Old and new labels of the gold images that both sides label, and whose bytes are the same, over the classes that
    both know; None where there is nothing to judge by.

    Raises UsageError for gold that cannot be read, or does not fit the photographs.
    """
    if gold.uri is None or sides.old.snapshot is None:
        return None
    both = _digests(sides.old).items() & _digests(sides.new).items()
    try:
        before, after = (_judge(gold, side, {asset for asset, _ in both}) for side in (sides.old, sides.new))
    except ValueError as error:
        raise UsageError(f"gold: {error}") from error
    if before is None or after is None:
        say("gate: no image with a gold mask has both an old and a new label, so IoU is not judged")
        return None
    (old, old_images), (new, new_images) = before, after
    common = [name for name in old if name in new]
    return _quality(old, old_images, common), _quality(new, new_images, common)


def _digests(side: Side) -> dict[str, str]:
    batches = (batch.to_pylist() for batch in side.rows.read(["asset", "digest"], 4096))
    return {row["asset"]: row["digest"] for rows in batches for row in rows}


def _quality(values: Mapping[str, float | None], images: int, common: list[str]) -> Quality:
    class_iou = {name: values[name] for name in common}
    known = [value for value in class_iou.values() if value is not None and math.isfinite(value)]
    return Quality(images, sum(known) / len(known) if known else None, class_iou)


def _judge(gold: GoldConfig, side: Side, assets: set[str]) -> tuple[dict[str, float | None], int] | None:
    """IoU by class, and the number of images; None where none of these assets has a mask."""
    runs = PastRuns(side.output)
    ids = {row for batch in side.rows.read(["run_id"], 4096) for row in batch["run_id"].to_pylist()}
    if not ids:
        return None
    # Run ids begin with the time, so the last one says what the classes are.
    classes = runs[max(ids)].classes
    assert gold.uri is not None
    only = None if gold.list is None else read_names(gold.list)
    masks = open_gold(gold.uri, gold.split, gold.classes, classes, gold.ignore, only, read_names(gold.exclude))
    wanted = [asset for asset in assets if masks.name_of(asset) is not None]
    if not wanted:
        return None
    comparison = Comparison(masks, runs, classes, baselines=False)
    for batch in side.rows.present(assets=wanted).read(COLUMNS, BATCH_ROWS):
        comparison.add(batch.to_pylist())
    found = comparison.result()
    return dict(found["per_class_iou"]), int(found["images"])
