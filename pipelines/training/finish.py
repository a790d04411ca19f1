"""What comes out of a training: the student, its ONNX file, the numbers, and what MLflow is told."""

import hashlib
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.metrics import Confusion
from models.students.augment import IGNORE
from models.students.config import StudentConfig
from pipelines import storage
from pipelines.flow.progress import duration, say
from pipelines.references import student_digest
from pipelines.tracking import Tracker, flatten
from pipelines.training import batches, record

if TYPE_CHECKING:
    from models.students.student import Student
    from pipelines.training.job import Told, Training

PICTURES = 8
STATE_FILE = "state.pt"
"""What a worker saves, in the folder of a checkpoint."""
FEW_VALIDATION_IMAGES = 20
SKIPPED_KEPT = 100
UNKNOWN_RGB = (255, 255, 255)


def finish(training: "Training", checkpoint: str, told: "Told", tracker: Tracker, seconds: float) -> dict[str, Any]:
    """Write the student, ONNX file and summary, tell MLflow; returns the summary.

    checkpoint: address of the last checkpoint, in the terms of the output's file system.
    """
    from models.students.build import build_student
    from models.students.card import StudentCard, save_student
    from models.students.onnx import export_onnx

    state = read_state(training.output, checkpoint)
    best = state["best"]
    config = training.config
    student = build_student(StudentConfig(config.student.name, pretrained=False), len(training.prepared.channels))
    learner = state["learner"]
    student.load_state_dict(best["weights"] if best else learner["ema"] or learner["student"])
    student.eval()
    summary = _summary(training, state, told, seconds)
    card = StudentCard(
        config=config.student,
        classes=tuple(_classes(training)),
        background=training.prepared.channels.background,
        size_px=config.data.size_px,
        extra={
            name: summary[name]
            for name in ("run_id", "miou", "validated_by", "steps", "corpus", "labels", "snapshot", "recipe")
        },
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "student"
        save_student(folder, student, card)
        summary["onnx_max_difference"] = export_onnx(student, folder / "student.onnx", config.data.size_px)
        _publish(folder, str(summary["student"]))
        summary["student_digest"] = student_digest(folder)
    _track(training, tracker, student, summary)
    tracker.drain()
    # Last: what has a summary is finished, and is not registered again.
    storage.write_bytes(storage.join(training.output, record.SUMMARY), json.dumps(summary, indent=2).encode())
    _tell(summary)
    return summary


def read_state(output: str, checkpoint: str) -> dict[str, Any]:
    """What a worker saved; tensors on the CPU."""
    import torch

    filesystem, _ = storage.arrow_filesystem(output)
    with filesystem.open_input_stream(f"{checkpoint}/{STATE_FILE}") as stream:
        found: dict[str, Any] = torch.load(io.BytesIO(stream.read()), map_location="cpu", weights_only=True)
    return found


def _classes(training: "Training") -> list[dict[str, Any]]:
    palette = training.prepared.classes.palette()
    channels = training.prepared.channels
    return [
        {"id": class_id, "name": name, "color": "#{:02x}{:02x}{:02x}".format(*palette[class_id])}
        for class_id, name in zip(channels.ids, channels.names, strict=True)
    ]


def _summary(training: "Training", state: dict[str, Any], told: "Told", seconds: float) -> dict[str, Any]:
    best, config = state["best"], training.config
    plan = training.prepared.plan
    per_class: dict[str, float | None] = {}
    if best:
        confusion = Confusion(len(training.prepared.channels), IGNORE)
        confusion.counts = best["confusion"].numpy()
        values = [None if np.isnan(value) else round(float(value), 5) for value in confusion.iou()]
        per_class = dict(zip(training.prepared.channels.names, values, strict=True))
    losses = [point["loss"] for point in state["history"] if "loss" in point]
    return {
        "run_id": training.record.run_id,
        "steps": int(state["learner"]["step"]),
        "stopped_early": bool(state["stopped"]),
        "miou": round(best["miou"], 5) if best else None,
        "best_step": best["step"] if best else None,
        "validated_by": training.prepared.validated_by,
        "per_class_iou": per_class,
        "loss": round(losses[-1], 5) if losses else None,
        "images_per_second": round(told.rate, 2),
        "data_wait": round(told.data_wait, 4),
        "seconds": round(seconds, 1),
        "train_images": len(plan.train),
        "validation_images": len(plan.validation),
        "unlabeled_images": len(plan.unlabeled),
        "skipped": dict(list((told.skipped or {}).items())[:SKIPPED_KEPT]),
        "workers": training.layout.workers,
        "device": training.layout.device,
        "worker_starts": told.starts,
        "recipe": config.recipe,
        "corpus": training.prepared.corpus,
        "labels": config.labels,
        "snapshot": training.prepared.snapshot,
        "gold": config.gold.uri,
        "student": storage.join(training.output, "student"),
        "output": training.output,
    }


def _publish(folder: Path, address: str) -> None:
    """Copy the student's files to where they belong; the card comes last, so that what has a card is whole."""
    for file in sorted(folder.iterdir(), key=lambda file: (file.name == "card.json", file.name)):
        storage.write_bytes(storage.join(address, file.name), file.read_bytes())


def _track(training: "Training", tracker: Tracker, student: "Student", summary: dict[str, Any]) -> None:
    config = training.config
    tracker.params(config.model_dump(mode="json"))
    tracker.tags(
        {
            "job": "train_student",
            "run": training.record.run_id,
            "output": training.output,
            "class_set_digest": training.prepared.classes.digest,
            "plan_digest": training.prepared.plan.digest,
            "student": summary["student"],
            "student_digest": summary["student_digest"],
            "validated_by": summary["validated_by"],
            "validation_digest": validation_digest(training),
        }
    )
    numbers = {name: summary[name] for name in ("miou", "best_step", "onnx_max_difference", "seconds", "train_images")}
    tracker.metrics({**numbers, "iou": summary["per_class_iou"]}, summary["steps"])
    rows = ["class,iou", *(f"{name},{'' if iou is None else iou}" for name, iou in summary["per_class_iou"].items())]
    tracker.text("\n".join(rows) + "\n", "per_class_iou.csv")
    tracker.text("\n".join(f"{k}: {v}" for k, v in flatten(config.model_dump(mode="json")).items()), "settings.txt")
    if tracker.enabled:
        tracker.pictures(sample_pictures(training, student), "predictions")
    if config.labels is not None:
        labels = storage.join(storage.absolute(config.labels), "labels")
        tracker.snapshot(labels, training.prepared.snapshot, f"labels in {config.labels}", "training")
    if config.gold.uri is not None:
        context = "validation" if config.labels is not None and config.gold.use != "train" else "training"
        tracker.dataset(config.gold.uri, training.prepared.plan.digest, f"gold {config.gold.uri}", context)
    if training.part:  # whose whole logs the one model that is worth it
        return
    side_px = min(config.data.size_px, 128)
    tracker.model(summary["student"], side_px, config.register_model, json.dumps(summary["per_class_iou"]))


def validation_digest(training: "Training") -> str:
    """sha256, hex, of what the validation's numbers are about: its images, their targets and their size. Numbers of
    two trainings can be compared where it is equal."""
    prepared, config = training.prepared, training.config
    by_gold = prepared.validated_by == "gold"
    targets = [config.gold.uri, config.gold.split] if by_gold else [config.labels, prepared.snapshot]
    assets = sorted(prepared.plan.images.asset(row) for row in prepared.plan.validation.tolist())
    told = [prepared.validated_by, targets, assets, prepared.classes.digest, config.data.size_px]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def sample_pictures(training: "Training", student: "Student") -> dict[str, bytes]:
    """Some validation images (training images where there are none): photograph, target, prediction, side by side."""
    import torch

    from pipelines.training.loader import Loader

    plan = training.prepared.plan
    rows = plan.validation if len(plan.validation) else plan.train
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, PICTURES).astype(int))]
    loader = Loader(plan, training.prepared.sources, training.loader, None)
    colors = _colors(training)
    found = {}
    for row in chosen.tolist():
        sample = loader.load(row)
        if sample is None:
            continue
        with torch.inference_mode():
            logits = student(batches.images(sample.picture[None], torch.device("cpu")))["logits"]
            size = sample.target.channels.shape
            full = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        panels = [sample.picture, colors[sample.target.channels], colors[full.argmax(1)[0].numpy()]]
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(panels, 1)).save(buffer, "PNG")
        found[plan.images.asset(row)] = buffer.getvalue()
    return found


def _colors(training: "Training") -> npt.NDArray[np.uint8]:
    """uint8 [C + 1, 3]: the colour of each channel, and last, where -1 finds it, that of unknown pixels."""
    palette = training.prepared.classes.palette()
    return np.stack(
        [*(palette[class_id] for class_id in training.prepared.channels.ids), np.array(UNKNOWN_RGB)]
    ).astype(np.uint8)


def doubts(summary: dict[str, Any]) -> list[str]:
    """Why the student, or the number that stands for it, may be worth little."""
    found = []
    count = summary["validation_images"]
    if summary["miou"] is not None and count < FEW_VALIDATION_IMAGES:
        found.append(f"only {count} images validate: their mIoU says little (--data.validation_share, --gold.uri)")
    never = [name for name, iou in summary["per_class_iou"].items() if iou == 0]
    if never:
        told = ", ".join(never[:5]) + (f" and {len(never) - 5} more" if len(never) > 5 else "")
        found.append(f"no pixel right in validation: {told}; more --optim.steps, or more images of them")
    return found


def _tell(summary: dict[str, Any]) -> None:
    miou = (
        "not validated" if summary["miou"] is None else f"mIoU {summary['miou']:.4f} at step {summary['best_step']:,}"
    )
    skipped = f", {len(summary['skipped'])} images skipped" if summary["skipped"] else ""
    say(
        f"trained {summary['steps']:,} steps in {duration(summary['seconds'])}, {summary['images_per_second']:.1f} "
        f"images/s: {miou} (by {summary['validated_by']}){skipped}"
    )
    for remark in doubts(summary):
        say(f"doubt    {remark}")
    say(f"student  {summary['student']} (ONNX differs from PyTorch by {summary['onnx_max_difference']:.1e} at most)")
    say(f"use it   python pipelines/predict.py --model {summary['output']} --images photos/ --output out/masks")
