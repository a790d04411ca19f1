"""The search for settings of *decide* as a sequence of steps: load, search, judge, write, track."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.decide.config import DecideConfig
from models.decide.decide import DECIDE_VERSION
from models.observe_config import key_fields
from pipelines import storage
from pipelines.config import UsageError
from pipelines.evaluation.cases import Cases, given, load
from pipelines.flow.progress import duration, say
from pipelines.flow.run import digest
from pipelines.stages.observe import limit_threads
from pipelines.tracking import ChildRun, Tracker
from tuning.cases import Source, find_source
from tuning.config import TuneLabelsConfig
from tuning.files import write_json, write_yaml
from tuning.labels_space import LabelSpace, build_space
from tuning.objectives import Objective, parse_objective
from tuning.outcome import Half, choose, compare, front, per_class, trial_row, verdict
from tuning.scoring import count_all
from tuning.search import Searched, search
from tuning.space import read_restriction
from tuning.study import claim, hold


def tune_labels(config: TuneLabelsConfig) -> dict[str, Any]:
    """Run the whole search; what the last line of stdout says. Raises UsageError, RunFailed, Interrupted."""
    started = time.monotonic()
    limit_threads(1)
    objectives = tuple(parse_objective(name) for name in config.objective)
    restriction = read_restriction(config.space) if config.space else None
    source = find_source(config)
    seen = load(source, source.rows[: source.searched])
    space = build_space(
        source.base, objectives, given(seen.items, seen.classes, seen.text), restriction, f"--space {config.space}"
    )
    folder = _claim(config, source, space)
    _tell_plan(config, seen, len(source.rows) - source.searched, space)
    with hold(folder):
        found = search(config, seen, space, objectives, folder)
    result = judge(config, source, seen, space, objectives, found)
    result["seconds"] = round(time.monotonic() - started, 1)
    files = {"yaml": str(folder / "decide.yaml"), "result": str(folder / "result.json")}
    _write(folder, result, config)
    _tell(result, files)
    _track(config, source, folder, result)
    kept = ("trials", "resumed", "objective", "label_free", "winner_trial", "beats_default", "search", "holdout")
    return {**{name: result[name] for name in kept}, "seconds": result["seconds"], **files}


def _claim(config: TuneLabelsConfig, source: Source, space: LabelSpace) -> Path:
    """The folder of this search. Raises UsageError where another search has it."""
    inputs = {
        "what is searched on": source.identity(),
        "objective": list(config.objective),
        "space": [dataclasses.asdict(one) for one in space.dimensions],
        "settings that are not searched": key_fields(space.base),
        "seed": config.seed,
        "holdout": config.holdout,
        "early_stop": config.early_stop,
        "version of decide": DECIDE_VERSION,
    }
    name = f"labels-{digest(json.loads(json.dumps(inputs)))[:10]}"
    below = Path(source.output) if "://" not in source.output else Path.cwd()
    folder = Path(config.output).expanduser().resolve() if config.output else below / "tuning" / name
    if config.output and "://" in config.output:
        raise UsageError("--output is a local folder: a search writes its journal line by line")
    claim(folder, inputs)
    return folder


def _tell_plan(config: TuneLabelsConfig, seen: Cases, held_out: int, space: LabelSpace) -> None:
    if "agreement" in config.objective:
        say("agreement is a WEAKER objective: without gold masks, labels that agree need not be right")
    say(f"search: {config.trials:,} trials on {len(seen.items):,} images, {held_out:,} held out")
    say(f"search: {len(space.dimensions)} settings: {', '.join(one.name for one in space.dimensions)}")


def judge(
    config: TuneLabelsConfig,
    source: Source,
    seen: Cases,
    space: LabelSpace,
    objectives: tuple[Objective, ...],
    found: Searched,
) -> dict[str, Any]:
    """Choose the winner and compare it with the default on both parts of the images."""
    default = source.base
    counted = count_all(seen, seen.items, default)
    winner = choose(found.trials, [one.value(counted.sum(0)) for one in objectives])
    settings = default if winner is None else space.config(winner.params)
    parts = {"search": compare(Half(counted, count_all(seen, seen.items, settings)), objectives, config.seed)}
    held_out = source.rows[source.searched :]
    if held_out:
        unseen = load(source, held_out)
        half = Half(*(count_all(unseen, unseen.items, one) for one in (default, settings)))
        parts["holdout"] = compare(half, objectives, config.seed)
        # What a promotion compares by: whether two searches were judged by the same, and class by class.
        parts["holdout"] |= {"digest": source.holdout_digest(), "per_class_iou": per_class(half, unseen.names)}
    answer, sentence = verdict(settings == default, parts.get("holdout"), objectives)
    rows = [trial_row(one) for one in found.trials]
    return {
        "labels": source.output,
        "corpus": source.past.config.corpus,
        "snapshot": source.snapshot,
        "gold": source.gold.address if source.gold else None,
        "objective": list(config.objective),
        "label_free": source.gold is None,
        "seed": config.seed,
        "trials": len(found.trials),
        "stopped_early": sum(row["part"] for row in rows),
        "resumed": found.resumed,
        "search_seconds": round(found.seconds, 1),
        "concurrent": found.concurrent,
        "winner_trial": None if winner is None else winner.number,
        "front": [one.number for one in front(found.trials)],
        "beats_default": answer,
        "verdict": sentence,
        "search": parts["search"],
        "holdout": parts.get("holdout"),
        "changed": _changed(default, settings),
        "decide": dataclasses.asdict(settings),
        "all_trials": rows,
    }


def _changed(default: DecideConfig, settings: DecideConfig) -> dict[str, list[Any]]:
    """Field to [before, after]."""
    before, after = dataclasses.asdict(default), dataclasses.asdict(settings)
    return {name: [before[name], after[name]] for name in before if before[name] != after[name]}


def _write(folder: Path, result: Mapping[str, Any], config: TuneLabelsConfig) -> None:
    comments = [
        f"{_winner(result)}, after {result['trials']} trials of a search for {', '.join(config.objective)}"
        + (" (label-free, weaker)" if result["label_free"] else "")
        + f", seed {config.seed}. Give this file to label_corpus.py --config.",
        f"Verdict: {result['verdict']}.",
        *_table(result),
        f"Changed: {json.dumps(result['changed'])}",
    ]
    write_yaml(folder / "decide.yaml", {"decide": json.loads(json.dumps(result["decide"]))}, comments)
    write_json(folder / "result.json", result)


def _front(result: Mapping[str, Any]) -> list[str]:
    """The trade-offs between two objectives."""
    if len(result["objective"]) < 2:
        return []
    rows = {row["number"]: row["numbers"] for row in result["all_trials"]}
    told = ({name: rows[number][name] for name in result["objective"]} for number in result["front"])
    return [f"front: trial {number}: {values}" for number, values in zip(result["front"], told, strict=True)]


def _winner(result: Mapping[str, Any]) -> str:
    number = result["winner_trial"]
    return "The default" if number is None else f"Trial {number}"


def _table(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for part, title in (("search", "searched on"), ("holdout", "held out")):
        compared = result[part]
        for name in result["objective"] if compared else ():
            interval = compared["gain_interval_95"][name]
            between = f", 95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}" if interval else ""
            lines.append(
                f"{title} ({compared['images']} images): {name} default {compared['default'][name]:.4f}, "
                f"winner {compared['winner'][name]:.4f}, gain {compared['gain'][name]:+.4f}{between}"
            )
    return lines


def _tell(result: Mapping[str, Any], files: Mapping[str, str]) -> None:
    stopped = result["stopped_early"]
    say(f"search: {result['trials']:,} trials, {stopped:,} stopped early, in {duration(result['search_seconds'])}")
    for line in (*_front(result), *_table(result)):
        say(line)
    say(f"{_winner(result)}: {result['verdict']}")
    if result["label_free"]:
        say("this says that labels agree, not that they are right: look at the report before you use the settings")
    for name, path in files.items():
        say(f"{name:<8} {path}")


def _track(config: TuneLabelsConfig, source: Source, folder: Path, result: Mapping[str, Any]) -> None:
    """The search as a run of MLflow, and each trial as a run within it."""
    settings = config.tracking
    experiment = settings.experiment or source.past.config.corpus
    with Tracker(
        experiment,
        folder.name,
        source.output,
        str(folder),
        uri=settings.uri,
        enabled=settings.enabled,
        parent=settings.parent,
        say=say,
    ) as tracker:
        tracker.params({**config.model_dump(mode="json"), "decide": result["decide"]})
        names = ("winner_trial", "beats_default", "label_free")
        tracker.tags({"job": "tune_labels", "labels": source.output, **{name: result[name] for name in names}})
        halves = {name: {k: v for k, v in (result[name] or {}).items() if k != "gain_interval_95"} for name in _HALVES}
        tracker.metrics({**halves, **{name: result[name] for name in ("trials", "resumed", "search_seconds")}})
        tracker.snapshot(storage.join(source.output, "labels"), source.snapshot, f"labels in {source.output}", "tuning")
        if source.gold is not None:
            tracker.dataset(config.gold.uri, source.gold.digest, f"gold {config.gold.uri}", "tuning")
        tracker.children([_child(row, result["winner_trial"]) for row in result["all_trials"]])
        for name in ("decide.yaml", "result.json"):
            tracker.text((folder / name).read_text(), name)


_HALVES: Sequence[str] = ("search", "holdout")


def _child(row: Mapping[str, Any], winner: int | None) -> ChildRun:
    tags = {"stopped_early": row["part"], "winner": row["number"] == winner}
    return ChildRun(f"trial-{row['number']}", row["values"], {**row["numbers"], "seconds": row["seconds"]}, tags)
