"""Does the job's speed or memory depend on the size of the corpus, and what does a second run cost?

    python tests/benchmarks/bench_pipeline.py [--images 300 3000] [--data ../shared/data/voc] [--weak tags]

Runs the real `pipelines/label_corpus.py` on the first N photographs of voc train for each N, tracking off, while it
samples the memory of the whole process tree (PSS, so that Ray's shared memory counts once) every second. For each N:

    steady     images a second of *observe*: slope of the line through (time, images stored), models loaded
    summary    the same as the run's own summary has it: from its first result on, which favours short runs a little
    decide     images a second of *decide*
    peak, driver   highest PSS of all processes together, and of the driver alone, MB
    cpu_seconds_per_image (in the JSON)   of all processes, starting included: what other work on the machine slows
                   least

Flat means that rate and peak at the largest N are within 15 % of those at the smallest. Then, for the largest N: the
same command again (`reused` must be N, and no process but the driver be seen: no Ray, so no model), and the job with
one more class (`observed` must be 0), each with its wall time as a share of the first run's. Prints JSON on its last
line. Exit code 1 only if a job fails: this measures, and judges nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from process_tree import ProcessTree

from pipelines.classes import ClassSet

ROOT = Path(__file__).resolve().parents[2]
FLAT = 0.15
NEW_CLASS = {"id": 21, "name": "teddy bear", "prompts": ["teddy bear"]}
RAY = ("raylet", "gcs_server")


def write_class_sets(folder: Path) -> tuple[Path, Path]:
    """VOC's class set as a file, and the same with one more class."""
    given = ClassSet.load("voc").to_dict()
    more = {**given, "classes": [*given["classes"], NEW_CLASS]}
    paths = folder / "voc.yaml", folder / "voc-and-one.yaml"
    for path, content in zip(paths, (given, more), strict=True):
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    return paths


def run_job(options: argparse.Namespace, count: int, classes: Path, output: Path) -> dict[str, Any]:
    """One run of the job: its summary, and what was seen from outside. Ends this process if the job fails."""
    command = [sys.executable, str(ROOT / "pipelines" / "label_corpus.py"), "--corpus", f"voc:{options.data}"]
    command += ["--split", "train", "--limit", str(count), "--weak", options.weak, "--classes", str(classes)]
    command += ["--output", str(output), "--tracking.enabled", "false"]
    command += ["--execution.object_store_mb", str(options.object_store_mb)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MASKSTREAM_", "RAY_"))}
    started = time.monotonic()
    with ProcessTree(options.every) as tree:
        job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1", **env})
        out, _ = job.communicate()
        wall = time.monotonic() - started
    if job.returncode != 0:
        sys.exit(f"the job on {count} images ended with exit code {job.returncode}; its messages are above")
    run_id = json.loads(out.strip().splitlines()[-1])["run_id"]
    details = json.loads((output / "runs" / run_id / "summary.json").read_text())
    numbers = ("observed", "labeled", "reused", "quarantined", "seconds", "evidence_bytes_per_image")
    return {
        "images": details["images"],
        **{name: details[name] for name in numbers},
        "observe_images_per_second": details["observe_images_per_second"],
        "decide_images_per_second": details["decide_images_per_second"],
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(tree.cpu_seconds, 1),
        "cpu_seconds_per_image": round(tree.cpu_seconds / details["images"], 4),
        "peak_pss_mb": round(tree.peak_mb),
        "driver_peak_pss_mb": round(tree.peaks_mb[job.pid]),
        "at_peak_mb": {name: round(mb) for name, mb in list(tree.at_peak.items())[:6]},
        "processes": tree.processes,
        "ray_started": any(name.startswith(RAY) for name in tree.names),
    }


def steady_rate(output: Path) -> float | None:
    """Images a second: slope through (time a shard was stored, images stored by then), without the first and last
    tenth, where actors start and run out of work. None where too few shards are left."""
    found = [(p.stat().st_mtime, pq.read_metadata(p).num_rows) for p in output.glob("evidence/*/data-*.parquet")]
    times, rows = (np.array(column) for column in zip(*sorted(found), strict=True))
    done = rows.cumsum()
    inner = (done > 0.1 * done[-1]) & (done <= 0.9 * done[-1])
    if inner.sum() < 3:
        return None
    return round(float(np.polyfit(times[inner] - times[0], done[inner], 1)[0]), 3)


def first_runs(options: argparse.Namespace, classes: Path, folder: Path) -> list[dict[str, Any]]:
    print(f"{'images':>7}{'steady/s':>10}{'summary/s':>11}{'decide/s':>10}{'peak MB':>9}{'driver MB':>11}{'wall s':>8}")
    runs = []
    for count in options.images:
        run = run_job(options, count, classes, folder / str(count))
        run["steady_images_per_second"] = steady = steady_rate(folder / str(count))
        runs.append(run)
        shown = "-" if steady is None else f"{steady:.2f}"
        print(
            f"{run['images']:>7}{shown:>10}{run['observe_images_per_second']:>11.2f}"
            f"{run['decide_images_per_second']:>10.2f}{run['peak_pss_mb']:>9}{run['driver_peak_pss_mb']:>11}"
            f"{run['wall_seconds']:>8}",
            flush=True,
        )
    return runs


def compare(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest run's rates and peaks as a share of the smallest run's."""
    rates = "steady_images_per_second", "observe_images_per_second"
    # A run of few shards has no steady part; then the summaries are compared.
    rate = rates[0] if all(run[rates[0]] for run in (runs[0], runs[-1])) else rates[1]
    names = (rate, rates[1], "cpu_seconds_per_image", "peak_pss_mb", "driver_peak_pss_mb")
    ratios = {name: round(runs[-1][name] / runs[0][name], 3) for name in names}
    flat = {name: abs(ratios[name] - 1) <= FLAT for name in (rate, "peak_pss_mb")}
    for name, within in flat.items():
        print(f"{name}, {runs[-1]['images']} to {runs[0]['images']}: {ratios[name]:.3f}, within 15 %: {_yes(within)}")
    return {"ratios": ratios, "flat": flat}


def second_runs(
    options: argparse.Namespace, first: dict[str, Any], sets: tuple[Path, Path], output: Path
) -> dict[str, Any]:
    """The same command again, then with one more class."""
    count = options.images[-1]
    again = run_job(options, count, sets[0], output)
    more = run_job(options, count, sets[1], output)
    for run in (again, more):
        run["share_of_first_run"] = round(run["wall_seconds"] / first["wall_seconds"], 4)
    print(
        f"again: reused {again['reused']} of {first['images']}, {again['wall_seconds']} s = "
        f"{again['share_of_first_run']:.1%} of the first run; Ray started: {_yes(again['ray_started'])}"
    )
    print(
        f"one more class: observed {more['observed']}, labeled {more['labeled']}, {more['wall_seconds']} s = "
        f"{more['share_of_first_run']:.1%} of the first run, peak {more['peak_pss_mb']} MB"
    )
    return {"again": again, "class_added": more}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "voc", help="a VOC layout")
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000], help="sizes of the corpus, ascending")
    parser.add_argument("--weak", default="tags", help="weak labels to use, as for label_corpus.py")
    parser.add_argument("--object-store-mb", type=int, default=300, help="Ray's shared memory")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between samples of memory")
    parser.add_argument("--keep", type=Path, help="folder for the outputs (default: a temporary one)")
    options = parser.parse_args()
    options.data = options.data.resolve()
    options.images.sort()
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sets = write_class_sets(folder)
        runs = first_runs(options, sets[0], folder)
        result: dict[str, Any] = {"runs": runs}
        if len(runs) > 1:
            result |= compare(runs)
        result |= second_runs(options, runs[-1], sets, folder / str(options.images[-1]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
