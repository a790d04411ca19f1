"""Runs with the same settings but the seed."""

from collections.abc import Sequence

from pipelines.config import UsageError
from pipelines.tracking_registry import Registry, Run
from pipelines.training.config import FREE

#: Params that may differ between seeds of one recipe; `decide` is what a search found.
MAY_DIFFER = (*FREE, "seed", "decide")
JOBS = ("train_student", "tune_student", "tune_labels")
MUST_AGREE_TAGS = ("job", "snapshot", "class_set_digest")


def settings(run: Run) -> dict[str, str]:
    """What has to be equal among seeds."""
    params = {name: value for name, value in run.params.items() if name.split(".")[0] not in MAY_DIFFER}
    return params | {name: run.tags[name] for name in MUST_AGREE_TAGS if name in run.tags}


def seeds(registry: Registry, run_ids: Sequence[str]) -> list[Run]:
    """The runs given, the one to promote first; of a single one, all its finished siblings in its experiment too, one a
    seed. Raises UsageError where runs are not there, or are no siblings."""
    try:
        given = [registry.run(run_id) for run_id in run_ids]
    except LookupError as error:
        raise UsageError(f"--run: {error}") from error
    first = given[0]
    job = first.tags.get("job")
    if job not in JOBS:
        raise UsageError(f"--run: {first.name} is a run of {job or 'something else'}; give one of {', '.join(JOBS)}")
    if len(given) == 1:
        condition = f"tags.job = '{job}' and attributes.status = 'FINISHED'"
        others = registry.runs(condition, first.experiment_id)
        given += [run for run in others if run.run_id != first.run_id and settings(run) == settings(first)]
        return _one_a_seed(given)
    for run in given[1:]:
        ours, theirs = settings(first), settings(run)
        if other := [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]:
            raise UsageError(
                f"--run: {run.name} is no other seed of {first.name}: {other[0]} is {theirs.get(other[0])}, not "
                f"{ours.get(other[0])}"
            )
    found = _one_a_seed(given)
    if len(found) < len(given):
        raise UsageError("--run: two of the runs have the same seed")
    return found


def _one_a_seed(runs: Sequence[Run]) -> list[Run]:
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.params.get("seed", ""), run)
    return list(found.values())
