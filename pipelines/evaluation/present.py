"""The numbers of an evaluation as a table for people, as a page, and in MLflow."""

import json
from datetime import UTC, datetime
from typing import Any

import yaml

from pipelines import storage
from pipelines.evaluation.config import EvaluateConfig
from pipelines.report.worst import WorstPage
from pipelines.tracking import Tracker

OVERLAYS = 8
#: What the page's tiles say of a model.
TILES = ("images", "miou", "miou_voc7", "boundary_f", "accuracy", "calibration_error")


def describe_labels(numbers: dict[str, Any]) -> str:
    """Labels: IoU by class, over all pixels and over those kept, and what they must beat."""
    lines = [f"{'class':<24}{'IoU':>8}{'boundary F':>12}{'kept IoU':>10}{'kept':>8}"]
    for name, value in numbers["per_class_iou"].items():
        if value is not None:
            boundary = _show(numbers["per_class_boundary_f"][name])
            kept = _show(numbers["kept"]["per_class_iou"][name])
            share = _show(numbers["kept_share"][name])
            lines.append(f"{name[:23]:<24}{_show(value):>8}{boundary:>12}{kept:>10}{share:>8}")
    rows = [("labels", numbers), ("labels, kept pixels", numbers["kept"])]
    rows += [
        (name.replace("_", " "), value) for name, value in (numbers["baselines"] or {}).items() if name != "images"
    ]
    lines += ["", f"{'':<24}{'mIoU':>8}{'mIoU voc7':>11}"]
    lines += [f"{n:<24}{_show(v['miou']):>8}{_show(v['miou_voc7']):>11}" for n, v in rows if v is not None]
    lines.append(
        f"\n{numbers['images']} images, {numbers['missing']} without a label; {_show(numbers['coverage'])} of the "
        f"judged pixels are kept; boundary F at 3 px {_show(numbers['boundary_f'])}; calibration error "
        f"{_show(numbers['calibration_error'])}"
    )
    lines += _unmatched(numbers)
    if numbers["missing"]:
        lines.append(f"not labeled, and not judged: {', '.join(numbers['missing_names'])}…")
    return "\n".join(lines)


def describe_model(numbers: dict[str, Any]) -> str:
    """A student: IoU and boundary F by class and in the mean, calibration, speed."""
    lines = [f"{'class':<24}{'IoU':>8}{'boundary F':>12}"]
    for name, value in numbers["per_class_iou"].items():
        if value is not None:
            lines.append(f"{name[:23]:<24}{_show(value):>8}{_show(numbers['per_class_boundary_f'][name]):>12}")
    lines.append(f"{'mean':<24}{_show(numbers['miou']):>8}{_show(numbers['boundary_f']):>12}")
    if numbers["miou_voc7"] is not None:
        lines.append(f"{'mean, voc7':<24}{_show(numbers['miou_voc7']):>8}")
    speed = numbers["images_per_second"]
    lines.append(
        f"\n{numbers['images']} images; accuracy {_show(numbers['accuracy'])}; calibration error "
        f"{_show(numbers['calibration_error'])}; {speed['model']:.1f} images/s through the network, "
        f"{speed['total']:.1f} with reading and resizing"
    )
    return "\n".join([*lines, *_unmatched(numbers), f"worst images: {numbers['page']}"])


def _unmatched(numbers: dict[str, Any]) -> list[str]:
    return [
        f"classes that only the {side} know{'s' if side == 'model' else ''}: {', '.join(names)}"
        for side, names in numbers["unmatched"].items()
        if names
    ]


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def evaluation_name() -> str:
    return f"evaluate-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def render_page(config: EvaluateConfig, numbers: dict[str, Any], page: WorstPage) -> str:
    """The page of a model's worst images, as HTML."""
    per_class = {name: (iou, numbers["per_class_boundary_f"][name]) for name, iou in numbers["per_class_iou"].items()}
    tiles = {name: _tile(numbers[name]) for name in TILES if numbers[name] is not None}
    tiles["images_per_second"] = numbers["images_per_second"]["total"]
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return page.render(f"Worst images of {numbers['model']}", tiles, per_class, numbers["images"], text)


def _tile(value: float) -> object:
    return value if isinstance(value, int) else f"{value:.3f}"


def track_labels(config: EvaluateConfig, numbers: dict[str, Any]) -> None:
    """Log an evaluation to MLflow, beside the runs that it is about."""
    output, settings, name = numbers["labels"], config.tracking, evaluation_name()
    folder = _keep(output, name, numbers)
    experiment = settings.experiment or numbers["corpus"]
    with Tracker(
        experiment, name, output, folder, uri=settings.uri, enabled=settings.enabled, parent=settings.parent
    ) as tracker:
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"job": "evaluate", "labels": output, "gold_digest": numbers["gold_digest"]})
        _track_gold(tracker, config, numbers)
        tracker.metrics({key: value for key, value in numbers.items() if key != "snapshot"}, step=numbers["snapshot"])
        tracker.snapshot(storage.join(output, "labels"), numbers["snapshot"], f"labels in {output}", "evaluation")
        tracker.text(json.dumps(numbers, indent=2), "evaluation.json")


def track_model(config: EvaluateConfig, numbers: dict[str, Any], output: str, name: str, page: WorstPage) -> None:
    """The same for a student, with the page and the worst images."""
    settings = config.tracking
    folder = _keep(output, name, numbers)
    experiment = settings.experiment or numbers["experiment"]
    with Tracker(
        experiment, name, output, folder, uri=settings.uri, enabled=settings.enabled, parent=settings.parent
    ) as tracker:
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"job": "evaluate", "model": numbers["model"], "model.digest": numbers["digest"]})
        tracker.tags({name: numbers[name] for name in ("student_digest", "gold_digest")})
        _track_gold(tracker, config, numbers)
        tracker.metrics(numbers)
        tracker.text(json.dumps(numbers, indent=2), "evaluation.json")
        tracker.text(storage.read_bytes(numbers["page"]).decode(), "worst.html")
        if tracker.enabled:
            tracker.pictures(page.overlays(OVERLAYS), "worst")


def _track_gold(tracker: Tracker, config: EvaluateConfig, numbers: dict[str, Any]) -> None:
    gold = config.gold
    name = f"gold {gold.uri}" + (f" {gold.split}" if gold.split else "")
    tracker.dataset(gold.uri, numbers["gold_digest"], name, "evaluation")


def _keep(output: str, name: str, numbers: dict[str, Any]) -> str:
    folder = storage.join(output, "evaluations", name)
    storage.write_bytes(storage.join(folder, "evaluation.json"), json.dumps(numbers, indent=2).encode())
    return folder
