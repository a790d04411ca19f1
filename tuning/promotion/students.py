"""The numbers of students: of their evaluations on gold masks, or of their trainings' validation."""

from collections.abc import Mapping, Sequence

from pipelines.tracking_registry import Registry, Run
from tuning.promotion.gate import Judged, PromotionGate, Side

#: Where each kind of run keeps IoU by class.
EVALUATED, VALIDATED = "per_class_iou/", "iou/"
#: Tag of a run and of a version: the student's digest. A search's run has that of its latest winner.
STUDENT = "student_digest"


class Incomparable(Exception):
    """Numbers that say nothing about each other; the message says why, and what to do."""


def sides(
    registry: Registry, gate: PromotionGate, new: Sequence[Run], old: Sequence[Run]
) -> tuple[Side, Side | None, str]:
    """(challenger, champion or None, what they were judged by). new, old: runs of trainings, the promoted one first.

    Raises Incomparable.
    """
    if gate.numbers == "validation":
        return _validated(gate, new, old)
    return _evaluated(registry, gate, new, old)


def _validated(gate: PromotionGate, new: Sequence[Run], old: Sequence[Run]) -> tuple[Side, Side | None, str]:
    """Only trainings that validated on the same images can be compared."""
    digests = {run.tags.get("validation_digest", "") for run in (*new, *old)}
    if digests == {""} or new[0].metrics.get("miou") is None:
        raise Incomparable(f"{new[0].name} was not validated; evaluate it, and use numbers: evaluation")
    if len(digests) > 1:
        raise Incomparable(
            "their trainings validated on different images, or by different labels: evaluate all of them on the same "
            f"gold, and use numbers: evaluation ({_how(new[0])})"
        )
    made = [[_judged(run, run, gate.metric, VALIDATED) for run in runs] for runs in (new, old)]
    by = f"validation of the trainings, by {new[0].tags.get('validated_by', 'labels')}"
    return Side(made[0]), Side(made[1]) if made[1] else None, by


def _evaluated(
    registry: Registry, gate: PromotionGate, new: Sequence[Run], old: Sequence[Run]
) -> tuple[Side, Side | None, str]:
    found = {run.tags.get(STUDENT): evaluations(registry, run) for run in (*new, *old)}
    first = [found[runs[0].tags.get(STUDENT)] for runs in (new, old) if runs]
    for runs, evaluated in zip([one for one in (new, old) if one], first, strict=True):
        if not evaluated:
            raise Incomparable(f"{runs[0].name} was not evaluated: {_how(runs[0])}")
    common = set.intersection(*(set(one) for one in first))
    if gate.gold:
        common = {digest for digest in common if gold_name(first[0][digest]) == gate.gold}
    if not common:
        golds = "; ".join(
            f"{runs[0].name} on {', '.join(sorted({gold_name(run) for run in one.values()}))}"
            for runs, one in zip((new, old), first, strict=False)
        )
        wanted = f" named {gate.gold!r}" if gate.gold else ""
        raise Incomparable(f"no gold{wanted} judged both ({golds}; masks must be the same): {_how(new[0])}")
    if len(common) > 1 and old:
        names = ", ".join(sorted(gold_name(first[0][digest]) for digest in common))
        raise Incomparable(f"several golds judged both ({names}): name the one that counts in the gate, as `gold`")
    digest = max(common, key=lambda one: first[0][one].started_ms)
    made = [
        [_judged(run, one[digest], gate.metric, EVALUATED) for run, one in measured if digest in one]
        for measured in ([(run, found[run.tags.get(STUDENT)]) for run in runs] for runs in (new, old))
    ]
    return Side(made[0]), Side(made[1]) if made[1] else None, f"evaluation on gold {gold_name(first[0][digest])}"


def evaluations(registry: Registry, run: Run) -> dict[str, Run]:
    """Runs of evaluate.py that judged this training's student: the newest for each gold, by the gold's digest."""
    student = run.tags.get(STUDENT)
    if not student:
        return {}
    condition = f"tags.job = 'evaluate' and tags.student_digest = '{student}' and attributes.status = 'FINISHED'"
    found: dict[str, Run] = {}
    for one in registry.runs(condition):
        found.setdefault(one.tags.get("gold_digest", ""), one)
    return found


def gold_name(run: Run) -> str:
    """An evaluation's gold as a person named it."""
    split = run.params.get("gold.split", "null")
    return run.params.get("gold.uri", "?") + ("" if split == "null" else f" {split}")


def _judged(training: Run, measured: Run, metric: str, prefix: str) -> Judged:
    classes: Mapping[str, float | None] = {
        name.removeprefix(prefix): value for name, value in measured.metrics.items() if name.startswith(prefix)
    }
    seed = training.params.get("seed", "?")
    return Judged(f"{training.name} (seed {seed})", measured.metrics.get(metric), classes)


def _how(run: Run) -> str:
    where = run.tags.get("output") or run.tags.get("student") or "OUTPUT"
    return f"python pipelines/evaluate.py --model {where} --gold.uri GOLD"
