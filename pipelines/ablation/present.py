"""The numbers of an ablation as a table for people, as JSON, and in MLflow."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines import storage
from pipelines.ablation.config import AblateConfig
from pipelines.evaluation.cases import Source
from pipelines.flow.progress import say
from pipelines.tracking import Tracker

COLUMNS = {"miou": "mIoU", "miou_voc7": "mIoU voc7"}


def write(folder: str, result: Mapping[str, Any], table: str) -> dict[str, str]:
    """Write ablation.md and ablation.json; their addresses."""
    files = {"markdown": storage.join(folder, "ablation.md"), "json": storage.join(folder, "ablation.json")}
    storage.write_bytes(files["markdown"], table.encode())
    storage.write_bytes(
        files["json"], (json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )
    return files


def markdown(result: Mapping[str, Any]) -> str:
    """The table, and what was compared."""
    names = list(result["everything"])
    head = ["method", "paper", "default", "with", "without"]
    head += [f"gain, {COLUMNS[name]} (95 %)" for name in names]
    head += [f"alone, {COLUMNS[name]} (95 %)" for name in names]
    head += ["CPU s/image with", "without", "fit s"]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(list(_cells(row, names))) for row in result["methods"]]
    split = f", split {result['split']}" if result["split"] else ""
    told = "; ".join(
        f"{COLUMNS[name]} {_number(result['everything'][name])} with everything as the labels have it, "
        f"{_number(result['nothing'][name])} with everything off"
        for name in names
    )
    notes = [
        f"{result['images']:,} images of {result['gold']}{split} (gold {result['gold_digest'][:12]}); snapshot "
        f"{result['snapshot']} of {result['labels']}; decide config {result['config_digest'][:12]}; "
        f"`{result['command']}`",
        f"{told}.",
        f"gain: mIoU with the method minus without it, all else as the labels have it. Intervals: paired bootstrap "
        f"over the images, {result['resamples']:,} resamples. A default in capitals is not what its interval says.",
        "alone: gain on top of text heat, with the background threshold that suits it, and what the method builds on.",
    ]
    if any(row["part"] == "corpus" for row in result["methods"]):
        notes.append(
            "Learned from the corpus: a head with each of the seeds "
            f"{result['seeds']}, mean ± standard deviation over them, interval of the mean; all else once. It stays as "
            "it is while another method is off; fit s by the clock."
        )
    if any(row["part"] == "text" for row in result["methods"]):
        notes.append(
            "Methods of text: alone is on text heat; within, what the corpus taught stays as it is, and was learned "
            "from labels that were made with the text of the run."
        )
    if result["weak"] is not None:
        used = ", ".join(result["weak"]) or "none at all"
        notes.append(
            f"Of the images' weak labels these were used: {used}. What the corpus taught (from all tags, those of "
            "these images too), and evidence that points, boxes or heat asked for, are as the labels have them."
        )
    if any(row["part"] == "observe" for row in result["methods"]):
        notes.append(
            "observe: photographs observed again with and without, on this machine, and compared without what the "
            "corpus taught, which speaks of other features; CPU s/image is of observing."
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    yield f"{row['name']}: {row['title']}"
    yield row["paper"]
    yield row["verdict"]
    yield _value(row["with"]["miou"], "")
    yield _value(row["without"]["miou"], "")
    yield from (_gain(row["gain"][name]) for name in names)
    yield from (_gain(row["alone"][name]["gain"]) for name in names)
    yield from (f"{row['seconds_per_image'][side]:.4f}" for side in ("with", "without"))
    yield "" if row["fit_seconds"] is None else f"{row['fit_seconds']:.0f}"


def _gain(gain: Mapping[str, Any]) -> str:
    interval = gain["interval_95"]
    return _value(gain, "+") + (f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else "")


def _value(value: Mapping[str, Any], sign: str) -> str:
    return _number(value["mean"], sign) + ("" if value["spread"] is None else f" ± {value['spread']:.4f}")


def _number(value: float | None, sign: str = "") -> str:
    return "unknown" if value is None else f"{value:{sign}.4f}"


def track(config: AblateConfig, source: Source, folder: str, name: str, result: Mapping[str, Any], table: str) -> None:
    """One run of MLflow: the table, and the numbers by method."""
    settings, output = config.tracking, source.output
    experiment = settings.experiment or source.past.config.corpus
    with Tracker(
        experiment, name, output, folder, uri=settings.uri, enabled=settings.enabled, parent=settings.parent, say=say
    ) as tracker:
        tracker.params({**config.model_dump(mode="json"), "decide": result["decide"]})
        tracker.tags({"job": "ablate", "labels": output, "gold_digest": result["gold_digest"]})
        tracker.metrics({row["name"]: _numbers(row) for row in result["methods"]}, step=result["snapshot"])
        tracker.metrics({side: result[side] for side in ("everything", "nothing")}, step=result["snapshot"])
        snapshot = result["snapshot"]
        tracker.snapshot(storage.join(output, "labels"), snapshot, f"labels in {output}", "ablation")
        gold = f"gold {config.gold.uri}" + (f" {config.gold.split}" if config.gold.split else "")
        tracker.dataset(config.gold.uri, result["gold_digest"], gold, "ablation")
        tracker.text(table, "ablation.md")
        tracker.text(json.dumps(result, indent=2), "ablation.json")


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """What MLflow plots of a method."""
    found: dict[str, Any] = {"seconds_per_image": row["seconds_per_image"], "fit_seconds": row["fit_seconds"]}
    for name, gain in row["gain"].items():
        low, high = gain["interval_95"] or (None, None)
        found[f"{name}_gain"] = {"mean": gain["mean"], "spread": gain["spread"], "low": low, "high": high}
        found[f"{name}_alone"] = row["alone"][name]["gain"]["mean"]
        found[name] = row["with"][name]["mean"]
    return found
