"""What a search for settings of *decide* is worth, on photographs that it never saw.

    python tests/benchmarks/bench_tuning.py --keep out/tuning-bench

Labels gold100 and voc val from their tags (what is in --keep already is used again), then searches on half of gold100
with each seed, and decides voc val with each winner. Prints, for each seed: seconds, the gain on the held-out half of
gold100 and on voc val; then mean and standard deviation over seeds. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench_students import ROOT, run, spread

METRICS = ("miou", "miou_voc7")
UNTRACKED = ("--tracking.enabled", "false")


def label(data: Path, split: str, output: Path, *more: str) -> dict[str, Any]:
    """Label a split from its tags; only what is missing, or decided otherwise, is done."""
    corpus = ("--corpus", f"voc:{data}", "--split", split, "--weak", "tags")
    return run("label_corpus.py", *corpus, "--output", str(output), *UNTRACKED, *more)


def val_numbers(data: Path, output: Path) -> dict[str, float]:
    gold = ("--gold.uri", f"voc:{data}", "--gold.split", "val", "--baselines", "false", *UNTRACKED)
    found = run("evaluate.py", "--labels", str(output), *gold)
    return {name: found[name] for name in METRICS}


def measure(options: argparse.Namespace, seed: int, default: dict[str, float]) -> dict[str, Any]:
    """One search, and its winner on val."""
    data, keep = options.data, options.keep
    gold = ("--gold.uri", f"voc:{data}", "--gold.split", "gold100")
    folder = keep / f"search-{seed}"
    search = ("--labels", str(keep / "gold100"), *gold, "--trials", str(options.trials), "--seed", str(seed))
    started = time.monotonic()
    found = run("tune_labels.py", *search, "--output", str(folder), *UNTRACKED, folder="tuning")
    seconds = time.monotonic() - started
    label(data, "val", keep / "val", "--config", found["yaml"])
    numbers = val_numbers(data, keep / "val")
    row = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "resumed": found["resumed"],
        "winner_trial": found["winner_trial"],
        "holdout_gain": found["holdout"]["gain"]["miou"],
        "holdout_interval_95": found["holdout"]["gain_interval_95"]["miou"],
        **{f"val_{name}": numbers[name] for name in METRICS},
        **{f"val_{name}_gain": round(numbers[name] - default[name], 4) for name in METRICS},
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "voc")
    parser.add_argument("--keep", type=Path, required=True, help="folder for labels and searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=100)
    options = parser.parse_args()
    options.data, options.keep = options.data.resolve(), options.keep.resolve()
    label(options.data, "gold100", options.keep / "gold100")
    label(options.data, "val", options.keep / "val")
    default = val_numbers(options.data, options.keep / "val")
    print(json.dumps({"default": default}), flush=True)
    rows = [measure(options, seed, default) for seed in options.seeds]
    gains = ("holdout_gain", *(f"val_{name}_gain" for name in METRICS))
    summary = {name: spread([row[name] for row in rows]) for name in gains}
    for name, found in summary.items():
        print(f"  {name:<24}{found['mean']:+.4f} ± {found['sd']:.4f} over {found['n']} searches", file=sys.stderr)
    seconds = statistics.fmean(row["seconds"] for row in rows)
    print(json.dumps({"trials": options.trials, "seconds": round(seconds, 1), "default": default, **summary}))


if __name__ == "__main__":
    main()
