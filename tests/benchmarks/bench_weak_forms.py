"""What each form of weak label is worth: labels made with it alone, against labels made with none.

    python tests/benchmarks/bench_weak_forms.py [--images 50] [--data ../shared/data/voc]

Takes photographs of voc train by a seeded choice, none of gold100 (thresholds were chosen on those), and runs the real
`pipelines/label_corpus.py --weak FORM` for one form after the other into one output, then compares each snapshot with
the masks that the weak labels were simulated from. For each form:

    mIoU, voc7    over the classes that occur, background included; over the seven frequent ones
    kept, share   mIoU over the pixels that the policy keeps, and which share of all pixels those are
    observed, s   images observed for it, and the wall time. Tags and maps change the decision only; points, scribbles
                  and boxes also prompt SAM, so the first form with the same places observes every image again
    decision      mIoU of the same weak labels on the evidence of `none`: what is left when SAM is not prompted anew

50 photographs are few: differences below about 0.02 say nothing. Prints JSON on its last line.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from models import evidence as evidence_record
from models.decide.decide import decide
from models.metrics import Confusion
from pipelines import weak as weak_labels
from pipelines.evaluate import EvaluateConfig, evaluate
from pipelines.evaluation.gold import Gold, match, open_gold
from pipelines.evaluation.runs import PastRun
from pipelines.stages.observe import limit_threads
from pipelines.tables.labels import LabelTable

ROOT = Path(__file__).resolve().parents[2]
SPLITS = Path("ImageSets") / "Segmentation"
SPLIT = "chosen"
FORMS = (
    "none",
    "tags",
    "points",
    "scribbles",
    "boxes",
    "partial",
    "noisy",
    "tags,points",
    "tags,scribbles",
    "tags,boxes",
)


def choose(data: Path, count: int, seed: int, folder: Path) -> Path:
    """A VOC layout in `folder` that is `data`, with one split: a seeded choice of train without gold100."""
    gold = set((data / SPLITS / "gold100.txt").read_text().split())
    names = [name for name in (data / SPLITS / "train.txt").read_text().split() if name not in gold]
    (folder / SPLITS).mkdir(parents=True)
    for part in ("JPEGImages", "SegmentationClassAug"):
        (folder / part).symlink_to(data / part)
    (folder / SPLITS / f"{SPLIT}.txt").write_text("\n".join(random.Random(seed).sample(names, count)) + "\n")
    return folder


def label(layout: Path, form: str, output: Path) -> dict[str, Any]:
    """One run of the job; its result line, and `wall_seconds`. Ends this process if the job fails."""
    command = [sys.executable, str(ROOT / "pipelines" / "label_corpus.py"), "--corpus", f"voc:{layout}"]
    command += ["--split", SPLIT, "--weak", form, "--output", str(output), "--tracking.enabled", "false"]
    command += ["--report.images", "0"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MASKSTREAM_", "RAY_"))}
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1", **env})
    if done.returncode != 0:
        sys.exit(f"the job with --weak {form} ended with exit code {done.returncode}; its messages are above")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**result, "wall_seconds": round(time.monotonic() - started, 1)}


def gold_masks(layout: Path, run: PastRun) -> Gold:
    return open_gold(f"voc:{layout}", SPLIT, None, run.classes, 255, None, ())


def decision_alone(layout: Path, output: Path, none_run: str, form_run: str) -> float:
    """mIoU of the newest labels' weak labels when decided on the evidence that the run without any has stored."""
    run, plain = (PastRun.load(str(output), run_id) for run_id in (form_run, none_run))
    gold = gold_masks(layout, run)
    matching = match(gold.classes, run.classes, gold.ignore)
    confusion = Confusion(len(matching.names))
    index = plain.store.index().select(["asset", "evidence_key", "hints_digest"]).to_pylist()
    unprompted = {row["evidence_key"]: row["asset"] for row in index if row["evidence_key"] and not row["hints_digest"]}
    batches = LabelTable(str(output / "labels")).newest(["asset", "weak"])
    told = {row["asset"]: row["weak"] for batch in batches for row in batch.to_pylist()}
    for row in plain.evidence(unprompted):
        asset = unprompted[row["evidence_key"]]
        evidence = evidence_record.decode(row)
        size = evidence.height, evidence.width
        weak, _ = weak_labels.validate(json.loads(told[asset] or "{}"), run.classes, size)
        arrays = weak_labels.to_arrays(weak, run.classes, *size)
        label = decide(evidence, run.text, run.classes.arrays(), arrays, run.config.decide)
        name = gold.name_of(asset)
        assert name is not None
        confusion.update(matching.gold(gold.read(name)), matching.label(label.class_map))
    return confusion.mean_iou()


def measure(layout: Path, form: str, output: Path, none_run: str | None) -> dict[str, Any]:
    """Label with one form and compare. none_run: the run without weak labels, None if this is it."""
    done = label(layout, form, output)
    numbers = evaluate(
        EvaluateConfig.model_validate(
            {"labels": str(output), "gold": {"uri": f"voc:{layout}", "split": SPLIT}, "baselines": False}
        )
    )
    if numbers["missing"]:
        sys.exit(f"{numbers['missing']} photographs have no label, such as {numbers['missing_names'][0]}")
    hinted = done["observed"] > 0 or any(name in form for name in ("points", "scribbles", "boxes"))
    alone = decision_alone(layout, output, none_run, done["run_id"]) if none_run and hinted else None
    return {
        "run_id": done["run_id"],
        "miou": numbers["miou"],
        "miou_voc7": numbers["miou_voc7"],
        "kept_miou": numbers["kept"]["miou"],
        "coverage": numbers["coverage"],
        "observed": done["observed"],
        "wall_seconds": done["wall_seconds"],
        "miou_decision_alone": alone,
    }


def show(form: str, row: dict[str, Any], none: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    values = [number(row[name]) for name in ("miou", "miou_voc7", "kept_miou", "coverage")]
    gain = f"{row['miou'] - none['miou']:+.3f}"
    cells = [*values, gain, str(row["observed"]), f"{row['wall_seconds']:.0f}", number(row["miou_decision_alone"])]
    return f"{form:<16}" + "".join(f"{cell:>10}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "voc", help="a VOC layout")
    parser.add_argument("--images", type=int, default=50, help="photographs")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of photographs")
    parser.add_argument("--forms", nargs="+", default=FORMS, help="--weak of each run; `none` always comes first")
    parser.add_argument("--keep", type=Path, help="folder for the output, new or empty (default: a temporary one)")
    options = parser.parse_args()
    limit_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-weak-") as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        layout = choose(options.data.resolve(), options.images, options.seed, folder / "voc")
        heads = ("mIoU", "voc7", "kept", "share", "gain", "observed", "s", "decision")
        print(f"{'form':<16}" + "".join(f"{head:>10}" for head in heads))
        rows: dict[str, dict[str, Any]] = {}
        for form in dict.fromkeys(("none", *options.forms)):
            none_run = rows["none"]["run_id"] if rows else None
            rows[form] = measure(layout, form, folder / "out", none_run)
            print(show(form, rows[form], rows["none"]), flush=True)
    print(json.dumps({"images": options.images, "seed": options.seed, "forms": rows}))


if __name__ == "__main__":
    main()
