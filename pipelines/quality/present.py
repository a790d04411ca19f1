"""What a fitted quality model is worth, as text for people and in MLflow."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipelines import storage
from pipelines.evaluation.cases import Source
from pipelines.flow.progress import say
from pipelines.quality.cards import FOLDER, Card
from pipelines.quality.config import FitQualityConfig
from pipelines.tracking import Tracker


def table(card: Card) -> str:
    """The report as Markdown."""
    n = card.numbers
    # One alone is judged by what its own labels of other images taught.
    unseen = "labelers and images" if len(card.labelers) > 1 else "images"
    lines = [
        f"## Predicted mean IoU of a label: {card.images} images, {len(card.labelers)} labelers",
        "",
        f"Every number is of {unseen} that the model did not learn from.",
        "",
        "| | predicted | mean entropy alone | difference (95 %) |",
        "|---|---|---|---|",
        _line("rank correlation with the true IoU within a main class", n["rank_within_class"]),
        _line(f"the same, of {card.labelers[0]} alone", n["rank_within_class_own"]),
        _line(f"mean IoU without the worst share ({n['miou']:.3f} with it)", n["kept"]),
        _line(f"the same, of {card.labelers[0]} alone ({n['miou_own']:.3f} with it)", n["kept_own"]),
        "",
        "| main class | images | predicted | entropy |",
        "|---|---|---|---|",
        *(f"| {r['class']} | {r['images']} | {_show(r['predicted'])} | {_show(r['entropy'])} |" for r in n["classes"]),
        "",
        f"- rank correlation over all classes: {_show(n['rank']['predicted'])}, entropy {_show(n['rank']['entropy'])}",
        f"- interval of +- {card.margin:.3f}: holds {_show(n['coverage']['held'])} of the labels, "
        f"{card.coverage:.2f} promised",
        _promise(card),
        f"- {n['milliseconds_per_label']:.1f} ms of a core for the signs of one label",
        f"- verdict: {verdict(n)}",
    ]
    return "\n".join(lines)


def verdict(numbers: Mapping[str, Any]) -> str:
    """Whether it is better than mean entropy, which costs nothing."""
    said = []
    for name, what in (
        ("rank_within_class", "ranks labels of a class, whoever made them,"),
        ("rank_within_class_own", "ranks the first labeler's"),
        ("kept", "finds the worst images"),
    ):
        interval = numbers[name]["interval_95"]
        if interval is None or interval[0] <= 0 <= interval[1]:
            said.append(f"not shown that it {what} otherwise than mean entropy")
        else:
            said.append(f"it {what} {'better' if interval[0] > 0 else 'WORSE'} than mean entropy")
    return "; ".join(said)


def _promise(card: Card) -> str:
    n = card.numbers["promise"]
    if card.threshold is None:
        return (
            f"- with {card.images} images nothing can be accepted under the promise that {card.risk:.0%} of the labels "
            "are accepted and bad: no label will be"
        )
    first, *_ = n["bad_and_accepted_of"].items()
    return (
        f"- accepted from {card.threshold:.3f} on: {_show(n['bad_and_accepted'])} of all labels were accepted and "
        f"worse than {card.bad_below:g} on halves that it never saw, {card.risk:g} promised; {_show(n['bad'])} are "
        f"so bad at all; {_show(n['accepted'])} were accepted, mean IoU {_show(n['miou_of_accepted'])}; "
        f"of {first[0]} alone {_show(first[1])} were accepted and bad"
    )


def _line(name: str, told: Mapping[str, Any]) -> str:
    ends = told["interval_95"]
    between = f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else ""
    return f"| {name} | {_show(told['predicted'])} | {_show(told['entropy'])} | {_show(told['difference'])}{between} |"


def _show(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def track(config: FitQualityConfig, source: Source, output: str, card: Card, text: str) -> None:
    """One run of MLflow: the numbers and the report."""
    settings, name = config.tracking, f"quality-{card.digest[:10]}"
    experiment = settings.experiment or source.past.config.corpus
    folder = storage.join(output, FOLDER, name)
    with Tracker(
        experiment, name, output, folder, uri=settings.uri, enabled=settings.enabled, parent=settings.parent, say=say
    ) as tracker:
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"job": "fit_quality", "labels": source.output, "gold_digest": card.gold_digest})
        tracker.metrics({**card.numbers, "images": card.images, "margin": card.margin}, step=source.snapshot)
        labels = storage.join(source.output, "labels")
        tracker.snapshot(labels, source.snapshot, f"labels in {source.output}", "quality")
        gold = f"gold {config.gold.uri}" + (f" {config.gold.split}" if config.gold.split else "")
        tracker.dataset(config.gold.uri, card.gold_digest, gold, "quality")
        tracker.text(text, "quality.md")
        tracker.text(json.dumps(dataclasses.asdict(card), indent=2), "quality.json")
