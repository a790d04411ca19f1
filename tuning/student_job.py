"""The search for training settings as a sequence of steps: check, search, choose, write, track."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import execution, storage, tracking_pending
from pipelines.config import TrackingConfig, UsageError
from pipelines.flow.progress import duration, say
from pipelines.flow.stop import RunFailed, stop_on_signals
from pipelines.tracking import ChildRun, Tracker
from pipelines.training import record
from pipelines.training.config import TrainConfig
from pipelines.training.finish import doubts
from pipelines.training.job import CHECKPOINTS, check
from pipelines.training.layout import layout, shape
from pipelines.training.sources import Prepared
from tuning.files import write_json, write_yaml
from tuning.objectives import rounded
from tuning.space import read_restriction
from tuning.student_config import TuneStudentConfig, reusable
from tuning.student_search import Search, Searched, Tried
from tuning.student_share import Share, share
from tuning.student_space import StudentSpace, build_student_space
from tuning.student_trial import Common, mlflow_run
from tuning.study import LOCK, SEARCH, claim, hold

TRIALS, RESULT, YAML, MEMORY = "trials", "result.json", "train.yaml", "tune"
#: The MLflow run of the search, which goes on in it.
MLFLOW = "mlflow.json"
#: In the order in which they go.
MADE = (
    RESULT, YAML, MEMORY, TRIALS, "study.journal", MLFLOW, tracking_pending.FOLDER, "metrics.jsonl", SEARCH,
)  # fmt: skip


def tune_student(config: TuneStudentConfig) -> dict[str, Any]:
    """Run the whole search; what the last line of stdout says. Raises UsageError, RunFailed, Interrupted."""
    started = time.monotonic()
    folder = _folder(config)
    known = {} if config.restart else _read(folder / SEARCH)
    base = _base(config, folder)
    space = build_student_space(base, config.scheduler, _restriction(config), f"--space {config.space}")
    base = space.base
    prepared = check(base, known.get("snapshot", config.snapshot))
    if not len(prepared.plan.validation):
        raise UsageError("nothing validates, so trials cannot be compared: set --data.validation_share, or give gold")
    inputs = _inputs(config, space, prepared)
    with hold(folder):
        if not config.restart:
            claim(folder, inputs)
        done = {} if config.restart else _read(folder / RESULT)
        if done.get("trials", -1) >= config.trials:
            say(f"the search in {folder} is finished; more --trials go on with it, --restart begins anew")
            return _summary(done, folder)
        divided = _start(config, base, prepared, folder)
        if config.restart:  # only now: what is wrong with the new search costs nothing of the old one
            for name in MADE:
                record.remove(str(folder / name))
            claim(folder, inputs)
        settings = config.tracking
        experiment = settings.experiment or prepared.corpus
        with Tracker(
            experiment,
            folder.name,
            str(folder),
            str(folder),
            uri=settings.uri,
            enabled=settings.enabled,
            parent=settings.parent,
            say=say,
            run_id=_read(folder / MLFLOW).get("run_id", ""),
        ) as tracker:
            base = _tracked(base, tracker, folder, experiment)
            common = Common(base, prepared, divided, str(Path.cwd()), config.scheduler == "pbt")
            tidy = partial(keep_best, folder / TRIALS, keep=config.keep)
            found = Search(config, space, common, folder, tidy).run()
            tidy(found.tried)
            result = judge(config, base, space, prepared, found, divided)
            result["seconds"] = round(time.monotonic() - started, 1)
            _write(config, base, space, result, folder)
            _track(config, tracker, base, result, folder)
            _tell(result, folder)
            tracker.drain()
        return _summary(result, folder)


def _folder(config: TuneStudentConfig) -> Path:
    if "://" in config.output:
        raise UsageError("--output is a folder that all machines see: a search writes its journal line by line")
    folder = Path(config.output).expanduser().resolve()
    there = {one.name for one in folder.iterdir()} if config.restart and folder.is_dir() else set()
    if there - {LOCK} and SEARCH not in there:
        raise UsageError(f"--restart: {folder} is not a search's folder, and nothing in it is removed")
    return folder


def _base(config: TuneStudentConfig, folder: Path) -> TrainConfig:
    """The training of a trial, but for the values that are searched."""
    changes: dict[str, Any] = {"output": str(folder / TRIALS)}
    if config.scheduler == "pbt":  # a state is handed on at each validation
        changes["checkpoint_every_steps"] = config.validate_every_steps
    return config.training(**changes)


def _restriction(config: TuneStudentConfig) -> Mapping[str, Any] | None:
    return read_restriction(config.space) if config.space else None


def _inputs(config: TuneStudentConfig, space: StudentSpace, prepared: Prepared) -> dict[str, Any]:
    """What decides what the search finds."""
    population = {"trials": config.trials} if config.scheduler == "pbt" else {}
    return {
        "settings that are not searched": record.learned(space.base),
        "space": [asdict(one) for one in space.dimensions],
        "scheduler": config.scheduler,
        "images": prepared.plan.digest,
        "snapshot": prepared.snapshot,
        **population,
    }


def _start(config: TuneStudentConfig, base: TrainConfig, prepared: Prepared, folder: Path) -> Share:
    """Ray, and how it is divided. Raises UsageError where a training does not fit on its share."""
    # Trials that are stopped early leave their training's resources to Ray Train's own clean-up.
    execution.start_ray(config.execution.ray_address, config.execution.object_store_mb, dashboard=True)
    stop_on_signals()  # Ray has put handlers of its own in the place of ours.
    divided = share(config, config.trials, *execution.cluster_resources())
    plan = layout(base, divided.cpus, divided.gpus)
    shape(base, plan.workers, len(prepared.plan.unlabeled), len(prepared.plan.validation))
    say(
        f"search: {config.trials:,} trials ({config.scheduler}), {divided.concurrent} at once, each "
        f"{base.optim.steps:,} steps on {plan.workers} {plan.device} workers; in {folder}"
    )
    return divided


def _tracked(base: TrainConfig, tracker: Tracker, folder: Path, experiment: str) -> TrainConfig:
    """The training, each trial of which is a run of MLflow within the search's."""
    tracker.drain()
    if tracker.run_id:
        write_json(folder / MLFLOW, {"run_id": tracker.run_id})
    if tracker.run_id is None:
        return base.model_copy(update={"tracking": TrackingConfig(enabled=False)})
    told = TrackingConfig(uri=tracker.tracking_uri, experiment=experiment, parent=tracker.run_id)
    return base.model_copy(update={"tracking": told})


def ranked(tried: Sequence[Tried]) -> list[Tried]:
    """The trials that came to their end, the best first; of equal ones the earlier."""
    return sorted((one for one in tried if one.whole and not one.problem), key=lambda one: -one.miou)


def keep_best(trials: Path, tried: Sequence[Tried], keep: int) -> None:
    """Remove students and checkpoints of the trials that ended, but for the best."""
    kept = {one.name for one in ranked(tried)[:keep]}
    for one in tried:
        if one.name not in kept:
            for made in (CHECKPOINTS, "student"):
                record.remove(str(trials / one.name / made))


def judge(
    config: TuneStudentConfig,
    base: TrainConfig,
    space: StudentSpace,
    prepared: Prepared,
    found: Searched,
    divided: Share,
) -> dict[str, Any]:
    """Choose the winner. Raises RunFailed where no trial came to its end."""
    order = ranked(found.tried)
    if not order:
        raise RunFailed("no trial came to its end: " + (found.tried[0].problem if found.tried else "none was begun"))
    best, start = order[0], space.start()
    default = next((one for one in found.tried if one.values == start), None)
    return {
        "trials": len(found.tried),
        "resumed": found.resumed,
        "stopped_early": sum(not one.whole for one in found.tried),
        "scheduler": config.scheduler,
        "seed": config.seed,
        "concurrent": divided.concurrent,
        "search_seconds": round(found.seconds, 1),
        "snapshot": prepared.snapshot,
        "validated_by": prepared.validated_by,
        "validation_images": len(prepared.plan.validation),
        "winner": best.name,
        "miou": round(best.miou, 5),
        "default_miou": None if default is None else round(default.miou, 5),
        "kept": [one.name for one in order[: config.keep]],
        "values": best.values,
        "student": storage.join(base.output, best.name, "student"),
        "all_trials": [_row(one, Path(base.output)) for one in found.tried],
    }


def _row(one: Tried, trials: Path) -> dict[str, Any]:
    return {
        "name": one.name,
        "stopped_early": not one.whole,
        "problem": one.problem,
        "numbers": rounded(dict(one.numbers)),
        "values": one.values,
        "seconds": round(one.seconds, 1),
        "output": str(trials / one.name),
        "mlflow_run_id": mlflow_run(trials / one.name),
    }


def _write(
    config: TuneStudentConfig, base: TrainConfig, space: StudentSpace, result: dict[str, Any], folder: Path
) -> None:
    settings = reusable(space.config(result["values"]))
    comments = [
        f"{result['winner']} of {result['trials']} trials ({config.scheduler}, seed {config.seed}). Give this file to "
        "train_student.py --config, with --output.",
        *_lines(result),
        f"Searched: {json.dumps(result['values'])}",
    ]
    if config.scheduler == "pbt":
        comments.append("These are the settings that the population ended with; on the way they were others.")
    write_yaml(folder / YAML, settings, comments)
    write_json(folder / RESULT, result)


def _lines(result: Mapping[str, Any]) -> list[str]:
    default = "" if result["default_miou"] is None else f"; the settings as they were: {result['default_miou']:.4f}"
    return [
        f"mIoU {result['miou']:.4f} on {result['validation_images']} validation images (by {result['validated_by']})"
        f"{default}",
        "The best of many on the same images flatters: measure the student on others with evaluate.py.",
    ]


def _tell(result: Mapping[str, Any], folder: Path) -> None:
    say(
        f"search: {result['trials']:,} trials, {result['stopped_early']:,} stopped early, in "
        f"{duration(result['search_seconds'])}: {result['winner']} is best"
    )
    for line in _lines(result):
        say(line)
    for remark in doubts(_read(Path(result["student"]).parent / record.SUMMARY)):
        say(f"doubt    {remark}")
    say(f"settings {folder / YAML}")
    say(f"student  {result['student']}")


def _track(
    config: TuneStudentConfig, tracker: Tracker, base: TrainConfig, result: Mapping[str, Any], folder: Path
) -> None:
    """The search as a run, the winner's student as its model; the trials' own runs learn what became of them."""
    tracker.params(config.model_dump(mode="json"))
    tracker.tags({"job": "tune_student", "output": str(folder), "winner": result["winner"]})
    names = ("trials", "resumed", "stopped_early", "miou", "default_miou", "search_seconds")
    tracker.metrics({name: result[name] for name in names})
    for row in result["all_trials"]:
        told = {"stopped_early": row["stopped_early"], "winner": row["name"] == result["winner"]}
        if row["mlflow_run_id"]:
            tracker.amend(row["mlflow_run_id"], told)
        elif not (Path(row["output"]) / tracking_pending.FOLDER).exists():
            # MLflow was away when it began: it has no run of its own, and waits with the search's.
            numbers = {**row["numbers"], "seconds": row["seconds"]}
            tracker.children([ChildRun(row["name"], row["values"], numbers, told)])
    for name in (YAML, RESULT):
        tracker.text((folder / name).read_text(), name)
    if config.labels is not None:
        labels = storage.join(storage.absolute(config.labels), "labels")
        tracker.snapshot(labels, result["snapshot"], f"labels in {config.labels}", "tuning")
    _track_student(config, tracker, Path(result["student"]))


def _track_student(config: TuneStudentConfig, tracker: Tracker, student: Path) -> None:
    summary = _read(student.parent / record.SUMMARY)
    per_class = json.dumps(summary.get("per_class_iou", {}))
    if digest := summary.get("student_digest"):  # what evaluations of it, and promotions, know it by
        tracker.tags({"student_digest": digest})
    tracker.model(str(student), min(config.data.size_px, 128), config.register_model, per_class)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _summary(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    kept = ("trials", "resumed", "stopped_early", "winner", "miou", "default_miou", "student", "seconds")
    files = {"yaml": str(folder / YAML), "result": str(folder / RESULT)}
    return {**{name: result.get(name) for name in kept}, **files}
