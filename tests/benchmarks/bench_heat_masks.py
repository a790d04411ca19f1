"""What masks that class heat asks SAM for add to the class-free bank: labels of photographs with gold masks.

    python tests/benchmarks/bench_heat_masks.py [--data ../shared/data/voc] [--split gold100] [--weak tags]

Runs the real `pipelines/label_corpus.py --heat.kind KIND` for each kind into one output, so that the class-free
evidence is observed once, and compares each snapshot with the masks. For each kind and weight
(`decide.heat_mask_weight`): mIoU, voc7, the same where the class-free bank is switched off (`alone`), and the seconds
that asking took. Prints JSON on its last line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines.evaluate import EvaluateConfig, evaluate

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("none", "box", "distance", "heatmap")


def label(options: argparse.Namespace, output: Path, *arguments: str) -> dict[str, Any]:
    """One run of the job: its summary. Ends this process if the job fails."""
    command = [sys.executable, str(ROOT / "pipelines" / "label_corpus.py"), "--corpus", f"voc:{options.data}"]
    command += ["--split", options.split, "--weak", options.weak, "--output", str(output)]
    command += ["--tracking.enabled", "false", "--report.images", "0", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        sys.exit(f"the job with {' '.join(arguments)} ended with exit code {done.returncode}; see above")
    run_id = json.loads(done.stdout.strip().splitlines()[-1])["run_id"]
    summary: dict[str, Any] = json.loads((output / "runs" / run_id / "summary.json").read_text())
    return summary


def measure(options: argparse.Namespace, output: Path, kind: str, weight: float, alone: bool) -> dict[str, Any]:
    settings = ["--heat.kind", kind, "--decide.heat_mask_weight", str(weight)]
    settings += ["--decide.mask_weight", "0"] if alone else []
    summary = label(options, output, *settings)
    gold = {"uri": f"voc:{options.data}", "split": options.split}
    numbers = evaluate(EvaluateConfig.model_validate({"labels": str(output), "gold": gold, "baselines": False}))
    return {
        "kind": kind,
        "weight": weight,
        "bank": not alone,
        "miou": numbers["miou"],
        "miou_voc7": numbers["miou_voc7"],
        "observe_seconds": summary["seconds"].get("observe", 0.0),
        "heat_seconds": summary["seconds"].get("heat", 0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "voc", help="a VOC layout")
    parser.add_argument("--split", default="gold100", help="a name in ImageSets/Segmentation")
    parser.add_argument("--weak", default="tags", help="weak labels to use, as for label_corpus.py")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--weights", nargs="+", type=float, default=[0.3, 0.6, 1.0], help="shares of the heat's masks")
    parser.add_argument("--keep", type=Path, help="folder for the output (default: a temporary one)")
    options = parser.parse_args()
    options.data = options.data.resolve()
    with tempfile.TemporaryDirectory(prefix="bench-heat-") as scratch:
        output = (options.keep or Path(scratch)).resolve() / "out"
        print(f"{'kind':<10}{'weight':>8}{'bank':>6}{'mIoU':>8}{'voc7':>8}{'heat s':>8}")
        rows = []
        for kind in options.kinds:
            plain = kind == "none"
            for alone in (False, True):
                for weight in [0.0] if plain else options.weights[-1:] if alone else options.weights:
                    row = measure(options, output, kind, weight, alone)
                    rows.append(row)
                    print(
                        f"{kind:<10}{weight:>8}{'off' if alone else 'on':>6}{row['miou']:>8.3f}"
                        f"{row['miou_voc7']:>8.3f}{row['heat_seconds']:>8.1f}",
                        flush=True,
                    )
    print(json.dumps({"split": options.split, "weak": options.weak, "rows": rows}))


if __name__ == "__main__":
    main()
