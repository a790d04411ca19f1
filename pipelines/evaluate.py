"""Compare published labels with gold masks.

    python pipelines/evaluate.py --labels out/voc --gold.uri voc:VOC2012 --gold.split val
    python pipelines/evaluate.py --labels out/voc --gold.uri voc:VOC2012 --gold.split train --exclude gold100.txt
    python pipelines/evaluate.py --labels out/drive --gold.uri camvid/valannot --gold.classes camvid

The last line on stdout is one JSON object: `miou` (mean over the classes that occur in the gold, background included),
`miou_voc7`, IoU by class, over all pixels and over those that the policy keeps (`kept`), `coverage`, `kept_share` by
class, and the same for labels made with less (`baselines`). Exit codes: 0 evaluated; 1 failed; 2 bad usage.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import Section, TrackingConfig, UsageError, parse

BATCH_ROWS = 64


class GoldConfig(Section):
    """the masks to compare with"""

    uri: str = Field(description="voc:PATH, or a folder of PNG masks (grey or palette) named like the images")
    split: str | None = Field(default=None, description="voc: a name in ImageSets/Segmentation")
    classes: str | None = Field(
        default=None, description="what the masks' ids mean: voc, camvid, a file or names; default: voc, or the labels'"
    )
    ignore: int = Field(default=255, ge=0, description="id of pixels that are not judged")
    list: str | None = Field(default=None, description="file of image names, a line each: only these")


class EvaluateConfig(Section):
    """What `evaluate.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py")
    gold: GoldConfig
    exclude: str | None = Field(default=None, description="file of image names, a line each: all but these")
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    baselines: bool = Field(default=True, description="also decide again with less: centre prior, heat, heat with PAR")
    tracking: TrackingConfig = TrackingConfig()


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The numbers. Raises UsageError for what cannot be compared, ValueError for sizes that differ."""
    from pipelines import storage
    from pipelines.evaluation.compare import COLUMNS, Comparison, PastRuns
    from pipelines.evaluation.gold import open_gold, read_names
    from pipelines.tables.labels import LabelTable

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


def describe(numbers: dict[str, Any]) -> str:
    """The same numbers as a table for people."""
    lines = [f"{'class':<24}{'IoU':>8}{'kept IoU':>10}{'kept':>8}"]
    for name, value in numbers["per_class_iou"].items():
        if value is not None:
            shares = (value, numbers["kept"]["per_class_iou"][name], numbers["kept_share"][name])
            lines.append(f"{name[:23]:<24}{_show(shares[0]):>8}{_show(shares[1]):>10}{_show(shares[2]):>8}")
    rows = [("labels", numbers), ("labels, kept pixels", numbers["kept"])]
    rows += [
        (name.replace("_", " "), value) for name, value in (numbers["baselines"] or {}).items() if name != "images"
    ]
    lines += ["", f"{'':<24}{'mIoU':>8}{'mIoU voc7':>11}"]
    lines += [f"{n:<24}{_show(v['miou']):>8}{_show(v['miou_voc7']):>11}" for n, v in rows if v is not None]
    lines.append(
        f"\n{numbers['images']} images, {numbers['missing']} without a label; {_show(numbers['coverage'])} of the "
        f"judged pixels are kept; calibration error {_show(numbers['calibration_error'])}"
    )
    for side, names in numbers["unmatched"].items():
        if names:
            lines.append(f"classes that only the {side} know: {', '.join(names)}")
    if numbers["missing"]:
        lines.append(f"not labeled, and not judged: {', '.join(numbers['missing_names'])}…")
    return "\n".join(lines)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def track(config: EvaluateConfig, numbers: dict[str, Any]) -> None:
    """Log an evaluation to MLflow, beside the runs that it is about."""
    from pipelines import storage
    from pipelines.tracking import Tracker

    output, settings = numbers["labels"], config.tracking
    name = f"evaluate-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = storage.join(output, "evaluations", name)
    storage.write_bytes(storage.join(folder, "evaluation.json"), json.dumps(numbers, indent=2).encode())
    experiment = settings.experiment or numbers["corpus"]
    with Tracker(experiment, name, output, folder, uri=settings.uri, enabled=settings.enabled) as tracker:
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"job": "evaluate", "labels": output})
        tracker.metrics({key: value for key, value in numbers.items() if key != "snapshot"}, step=numbers["snapshot"])
        tracker.snapshot(storage.join(output, "labels"), numbers["snapshot"], f"labels in {output}", "evaluation")
        tracker.text(json.dumps(numbers, indent=2), "evaluation.json")


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(EvaluateConfig, argv, prog="evaluate.py", description=__doc__ or "")
    try:
        numbers = evaluate(config)
    except UsageError as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        return 1
    print(describe(numbers), file=sys.stderr)
    track(config, numbers)
    print(json.dumps(numbers, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
