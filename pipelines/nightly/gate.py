"""The gate of a snapshot: what its labels are measured by, and what is wrong with them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.compare import COLUMNS, Comparison, PastRuns
from pipelines.evaluation.gold import Gold, open_gold, read_names
from pipelines.flow.progress import say
from pipelines.gates import LEAST, above, below, quality_reasons
from pipelines.migrations import Translation
from pipelines.nightly.config import GoldConfig, SnapshotGate
from pipelines.nightly.sides import Side, Sides, merged
from pipelines.tables.newest import NewestRows
from pipelines.tables.snapshots import taken_back

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
    with. rechecked: images that were decided once more. withdrawn: assets whose labels a rollback took back."""

    coverage: float
    quarantine_rate: float
    churn: float = 0.0
    churn_without_cause: float = 0.0
    rechecked: int = 0
    withdrawn: Sequence[str] = ()
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
    if gate.maximum_withdrawn is not None and len(numbers.withdrawn) > gate.maximum_withdrawn:
        found.append(
            f"{taken_back(numbers.withdrawn)}; {gate.maximum_withdrawn:,} may be published again "
            "(--gate.maximum_withdrawn): change what made them, allow more, or publish all the same "
            '(--publish-anyway "reason")'
        )
    return found


def on_gold(gold: GoldConfig, sides: Sides) -> tuple[Quality, Quality] | None:
    """Old and new labels of the gold images that both sides label, and whose bytes are the same, over the classes that
    both know; None where there is nothing to judge by.

    Old labels are read as what their classes became. Raises UsageError for gold that cannot be read, or does not fit
    the photographs.
    """
    if gold.uri is None or sides.old.snapshot is None:
        return None
    runs = merged(*sides.sums.new)[1]
    if not runs:
        return None
    # Run ids begin with the time, so the last one says what the classes are.
    past, old_past = PastRuns(sides.new.output), PastRuns(sides.old.output)
    classes = past[max(runs.values())].classes
    only = None if gold.list is None else read_names(gold.list)
    masks = open_gold(gold.uri, gold.split, gold.classes, classes, gold.ignore, only, read_names(gold.exclude))
    now = _digests(sides.new.rows, masks)
    assets = {asset for asset, _ in now.items() & _digests(sides.old.rows.present(assets=now), masks).items()}
    if not assets:
        say("gate: no image with a gold mask has both an old and a new label, so IoU is not judged")
        return None
    made_by = {run for b in sides.old.rows.present(assets=assets).read(["run_id"]) for run in b["run_id"].to_pylist()}
    known = all(_became(old_past[run_id].classes, classes) for run_id in made_by)
    old_classes = classes if known else old_past[max(made_by)].classes
    try:
        old, old_images = _judge(Comparison(masks, old_past, old_classes, baselines=False), sides.old, assets)
        new, new_images = _judge(Comparison(masks, past, classes, baselines=False), sides.new, assets)
    except ValueError as error:
        raise UsageError(f"gold: {error}") from error
    common = [name for name in old if name in new]
    return _quality(old, old_images, common), _quality(new, new_images, common)


def _became(old: ClassSet, new: ClassSet) -> bool:
    """Whether `new` is the same set, or its records say what became of every class of `old`."""
    return old.digest == new.digest or (bool(new.migrations) and not Translation.of(old, new).unmatched)


def _digests(rows: NewestRows, masks: Gold) -> dict[str, str]:
    """sha256 of the image bytes of the assets that have a gold mask."""
    found: dict[str, str] = {}
    for batch in rows.read(["asset", "digest"], 4096):
        found |= {row["asset"]: row["digest"] for row in batch.to_pylist() if masks.name_of(row["asset"]) is not None}
    return found


def _quality(values: Mapping[str, float | None], images: int, common: list[str]) -> Quality:
    class_iou = {name: values[name] for name in common}
    known = [value for value in class_iou.values() if value is not None and math.isfinite(value)]
    return Quality(images, sum(known) / len(known) if known else None, class_iou)


def _judge(comparison: Comparison, side: Side, assets: set[str]) -> tuple[dict[str, float | None], int]:
    """IoU by class, and the number of images."""
    for batch in side.rows.present(assets=assets).read(COLUMNS, BATCH_ROWS):
        comparison.add(batch.to_pylist())
    found = comparison.result()
    return dict(found["per_class_iou"]), int(found["images"])
