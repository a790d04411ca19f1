"""What sources are worth as a table for people, as settings for label_corpus.py, as JSON, and in MLflow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipelines import storage
from pipelines.evaluation.cases import Source
from pipelines.flow.progress import say
from pipelines.tracking import Tracker
from pipelines.weighing.config import WeighConfig

TITLES = {
    "majority": "majority vote",
    "label_model": "label model, without gold",
    "label_model_with_gold": "label model, with gold",
    "few_shot": "few-shot regression on patch features, from the same gold",
    "published": "the published labels",
    "run": "the run's own",
}
COLUMNS = {"miou": "mIoU", "miou_voc7": "mIoU voc7"}
FIELDS = ("accuracy", "accuracy_with_gold", "right_on_gold", "coverage", "agrees_with_published")


def markdown(result: Mapping[str, Any]) -> str:
    """Tables by level, and what the weights are worth."""
    lines: list[str] = []
    for level, items in result["items"].items():
        lines += [f"## {level}: {items:,} items", ""]
        lines += _table(("source", *(name.replace("_", " ") for name in FIELDS)), _sources(result["sources"][level]))
        lines += _table(("", "accuracy", "mean over classes", "agrees with published"), _ways(result["ways"][level]))
    lines += ["## weights", "", *_table(("field of decide", "run", "learned", "without gold"), _weights(result))]
    if not result["weights"]:
        lines += ["No source is worth anything: nothing to change.", ""]
    if result["decided"] is not None:
        names = [COLUMNS[name] for name in result["decided"]["run"]]
        head = ("gold decided with the weights of", *names, *(f"gain, {name} (95 %)" for name in names))
        lines += _table(head, _decided(result["decided"]))
    return "\n".join([*lines, *(f"- {note}" for note in _notes(result))]) + "\n"


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    gold = f", {result['gold_images']} of them with gold {result['gold']} {result['gold_digest'][:12]}"
    yield (
        f"{result['images']:,} images of snapshot {result['snapshot']} of {result['labels']}"
        f"{gold if result['gold'] else ', without gold'}; `{result['command']}`"
    )
    yield (
        "accuracy is what the label model believes; coverage is the share of items that a source votes on. Of whole "
        "images it is asked of each class whether it is there, and no source but `tags` knows the tags."
    )
    if result["gold"]:
        yield (
            "With gold, everything is judged on the half of the gold images that it was not fitted on. Intervals: "
            f"paired bootstrap over the images, {result['resamples']:,} resamples. The weights in weights.yaml are "
            "learned from all of the gold."
        )


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    lines = (f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
    return [*lines, ""]


def _sources(sources: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for one in sources:
        yield [one["source"], *(_number(one[name]) for name in FIELDS)]


def _ways(ways: Mapping[str, Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for name, one in ways.items():
        numbers = (one[field] for field in ("accuracy", "mean_class_accuracy", "agrees_with_published"))
        yield [TITLES[name], *map(_number, numbers)]


def _weights(result: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, value in result["weights"].items():
        yield [name, *map(_number, (result["run"][name], value, result["without_gold"].get(name)))]


def _decided(decided: Mapping[str, Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for name, metrics in decided.items():
        gains = [_gain(one) for one in metrics.values()]
        yield [TITLES[name], *(_number(one["mean"]) for one in metrics.values()), *gains]


def _gain(one: Mapping[str, Any]) -> str:
    if "gain" not in one:
        return ""
    interval = one["interval_95"]
    return _number(one["gain"], "+") + (f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else "")


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def write(folder: str, result: Mapping[str, Any], table: str) -> dict[str, str]:
    """Write weights.yaml, weights.json and weights.md; their addresses."""
    files = {kind: storage.join(folder, f"weights.{kind}") for kind in ("yaml", "json", "md")}
    comments = ["Learned by weigh_sources.py. Give this file to label_corpus.py --config, after the run's own."]
    comments += [
        "NOT JUDGED: there was no gold. Sources that err together are believed too much."
        if result["decided"] is None
        else _verdict(result["decided"])
    ]
    head = "".join(f"# {line}\n" for line in comments)
    storage.write_bytes(files["yaml"], (head + yaml.safe_dump({"decide": dict(result["weights"])})).encode())
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(files["json"], text.encode())
    storage.write_bytes(files["md"], table.encode())
    return files


def _verdict(decided: Mapping[str, Any]) -> str:
    found = decided["label_model_with_gold"]["miou"]
    interval = found["interval_95"]
    helps = interval is not None and interval[0] > 0
    said = "Better than the run's own" if helps else "NOT SHOWN TO BE BETTER than the run's own"
    return f"{said}: mIoU {_gain(found)} on gold that the weights were not learned from."


def track(config: WeighConfig, source: Source, folder: str, name: str, result: Mapping[str, Any], table: str) -> None:
    """One run of MLflow: the tables, and the numbers by level."""
    settings, output = config.tracking, source.output
    experiment = settings.experiment or source.past.config.corpus
    with Tracker(
        experiment, name, output, folder, uri=settings.uri, enabled=settings.enabled, parent=settings.parent, say=say
    ) as tracker:
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"job": "weigh_sources", "labels": output, "gold_digest": result["gold_digest"]})
        snapshot = result["snapshot"]
        tracker.metrics(_plotted(result), step=snapshot)
        tracker.snapshot(storage.join(output, "labels"), snapshot, f"labels in {output}", "weigh_sources")
        if result["gold"]:
            gold = f"gold {config.gold.uri}" + (f" {config.gold.split}" if config.gold.split else "")
            tracker.dataset(config.gold.uri, result["gold_digest"], gold, "weigh_sources")
        tracker.text(table, "weights.md")
        tracker.text(json.dumps(result, indent=2), "weights.json")


def _plotted(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers by level; ends of intervals as numbers of their own."""
    decided: dict[str, Any] = {}
    for name, metrics in (result["decided"] or {}).items():
        decided[name] = {}
        for metric, one in metrics.items():
            low, high = one.get("interval_95") or (None, None)
            decided[name][metric] = {**one, "low": low, "high": high}
    sources = {level: {one["source"]: one for one in found} for level, found in result["sources"].items()}
    return {"sources": sources, "ways": result["ways"], "weights": result["weights"], "decided": decided}
