"""Compare published labels, or a student's predictions, with gold masks.

    python pipelines/evaluate.py --labels out/voc --gold.uri voc:VOC2012 --gold.split val
    python pipelines/evaluate.py --labels out/voc --gold.uri voc:VOC2012 --gold.split train --exclude gold100.txt
    python pipelines/evaluate.py --labels out/drive --gold.uri camvid/valannot --gold.classes camvid

    python pipelines/evaluate.py --model out/student --gold.uri voc:VOC2012 --gold.split val
    python pipelines/evaluate.py --model models:/drive@champion --gold.uri camvid/valannot --gold.images camvid/val

The last line on stdout is one JSON object: `miou` (mean over the classes that occur in the gold, background included),
`miou_voc7`, `boundary_f` (mean over classes, 3 px tolerance), `calibration_error`, IoU and boundary F by class. Of
labels also the same over the pixels that the policy keeps (`kept`), `coverage`, `kept_share` by class, and the numbers
of labels made with less (`baselines`). Of a student also `images_per_second` (through the network; with reading and
resizing) and `page`, a page with its worst images. Exit codes: 0 evaluated; 1 failed; 2 bad usage.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.evaluation.config import ELSEWHERE, EvaluateConfig

#: Settings that mean something for one of the two only.
ONLY_LABELS = ("snapshot",)
ONLY_MODEL = ("output", "page")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The numbers of labels. Raises UsageError for what cannot be compared, ValueError for sizes that differ."""
    from pipelines.evaluation.labels import evaluate_labels

    return evaluate_labels(config)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate, tell the person and MLflow, and return the numbers. Raises UsageError, ValueError."""
    _check(config)
    if config.labels is None:
        return _run_model(config)
    from pipelines.evaluation.present import describe_labels, track_labels

    numbers = evaluate(config)
    print(describe_labels(numbers), file=sys.stderr)
    track_labels(config, numbers)
    return numbers


def _check(config: EvaluateConfig) -> None:
    if (config.labels is None) == (config.model is None):
        raise UsageError("give --labels, for published labels, or --model, for a student: one of the two")
    side, others = ("--labels", ONLY_MODEL) if config.model is None else ("--model", ONLY_LABELS)
    given = [f"--{name}" for name in others if getattr(config, name) is not None]
    given += ["--gold.images"] if config.model is None and config.gold.images is not None else []
    if given:
        raise UsageError(f"{', '.join(given)} means nothing with {side}; leave it out")


def _run_model(config: EvaluateConfig) -> dict[str, Any]:
    from pipelines import storage
    from pipelines.evaluation.model import evaluate_model, open_job
    from pipelines.evaluation.present import describe_model, evaluation_name, render_page, track_model
    from pipelines.references import student_digest

    job = open_job(config)
    card, name = job.predictor.card, evaluation_name()
    output = storage.absolute(config.output or _home(config.model or "", job.student.path))
    page = config.page or storage.join(output, "evaluations", name, "worst.html")
    where = {"model": config.model, "digest": job.student.digest, "student": card.config.name}
    where |= {"student_digest": student_digest(job.student.path)}
    where |= {"gold": config.gold.uri, "split": config.gold.split}
    where |= {"experiment": str(card.extra.get("corpus") or config.gold.uri), "page": storage.absolute(page)}
    numbers = {**where, **evaluate_model(job)}
    storage.write_bytes(numbers["page"], render_page(config, numbers, job.page).encode())
    print(describe_model(numbers), file=sys.stderr)
    track_model(config, numbers, output, name, job.page)
    return numbers


def _home(reference: str, folder: Path) -> str:
    """Where a model's evaluations go: beside the student, if something can be put there."""
    if reference.startswith(("models:", "http:", "https:")):
        return ELSEWHERE
    if "://" in reference:
        return reference.rstrip("/").removesuffix("/student")
    return str(folder.parent if folder.name == "student" else folder)


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(EvaluateConfig, argv, prog="evaluate.py", description=__doc__ or "")
    try:
        numbers = run(config)
    except UsageError as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(numbers, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
