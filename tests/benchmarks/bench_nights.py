"""Four nights on a real S3 server: what each did, wrote and took, and whether the causes of all changes are right.

    python tests/benchmarks/bench_nights.py --images 1000 --new 200 --changed 20 --gone 20

Night 1 labels the first images of VOC's train split. Before night 2 some are added, some get the bytes of others, some
go. Night 3 has another decide-config and night 4 nothing new. Prints one JSON object.
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

import fsspec
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from s3_server import S3, running  # noqa: E402

CORPUS, OUTPUT = "data/photos", "data/out"
OTHER_CONFIG = ("--decide.mask_top", "2")


def night(s3: S3, *more: str) -> dict[str, Any]:
    """Run the job; what it said, the seconds it took, and the bytes it added."""
    command = [
        sys.executable, str(ROOT / "pipelines" / "relabel_nightly.py"), "--corpus", f"s3://{CORPUS}",
        "--classes", "voc", "--output", f"s3://{OUTPUT}", "--gate.maximum_coverage_fall", "1", *more,
    ]  # fmt: skip
    before, started = stored(s3), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **s3.env}, cwd=ROOT)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"the night ended with exit code {done.returncode}; its messages are above")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    after = stored(s3)
    return {**found, "seconds": round(seconds, 1), "bytes": {k: after[k] - before.get(k, 0) for k in after}}


def stored(s3: S3) -> dict[str, int]:
    """Bytes below each folder of the output."""
    fs = fsspec.filesystem("s3", **s3.options, skip_instance_cache=True)
    sizes: dict[str, int] = {}
    for path, info in fs.find(OUTPUT, detail=True).items():
        part = path.removeprefix(OUTPUT + "/").split("/")[0]
        sizes[part] = sizes.get(part, 0) + int(info["size"])
    return sizes


def causes(s3: S3, run_id: str) -> dict[str, str]:
    """Cause by image, of a night's table of changes."""
    fs = fsspec.filesystem("s3", **s3.options, skip_instance_cache=True)
    with fs.open(f"{OUTPUT}/runs/{run_id}/changes.parquet") as file:
        return {row["asset"]: row["cause"] for row in pq.read_table(file, columns=["asset", "cause"]).to_pylist()}


def change(s3: S3, photographs: list[Path], options: argparse.Namespace) -> dict[str, str]:
    """Bring in, alter and take away; returns the cause that every changed image should have."""
    fs = fsspec.filesystem("s3", **s3.options, skip_instance_cache=True)
    there = photographs[: options.images]
    new = photographs[options.images : options.images + options.new]
    others = photographs[options.images + options.new :][: options.changed]
    for path in new:
        fs.put_file(str(path), f"{CORPUS}/{path.name}")
    for target, source in zip(there[: options.changed], others, strict=True):
        fs.put_file(str(source), f"{CORPUS}/{target.name}")
    gone = there[-options.gone :]
    for path in gone:
        fs.rm_file(f"{CORPUS}/{path.name}")
    expected = {path.name: "new image" for path in new} | {path.name: "vanished" for path in gone}
    return expected | {path.name: "new evidence" for path in there[: options.changed]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, default=ROOT.parent / "shared" / "data" / "voc")
    for name, count in (("images", 1000), ("new", 200), ("changed", 20), ("gone", 20)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    names = (options.voc / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    photographs = [options.voc / "JPEGImages" / f"{name}.jpg" for name in names]
    photographs = [path for path in photographs if path.exists()]
    if len(photographs) < options.images + options.new + options.changed:
        sys.exit(f"the split has {len(photographs)} photographs only")
    with tempfile.TemporaryDirectory(prefix="bench-nights-") as scratch, running(Path(scratch)) as s3:
        fs = fsspec.filesystem("s3", **s3.options, skip_instance_cache=True)
        for path in photographs[: options.images]:
            fs.put_file(str(path), f"{CORPUS}/{path.name}")
        nights = [night(s3)]
        expected = change(s3, photographs, options)
        nights.append(night(s3))
        second = causes(s3, nights[1]["run_id"])
        nights.append(night(s3, *OTHER_CONFIG))
        third = causes(s3, nights[2]["run_id"])
        nights.append(night(s3, *OTHER_CONFIG))
    there = options.images + options.new - options.gone
    result = {
        "nights": nights,
        "time_against_night_1": [round(one["seconds"] / nights[0]["seconds"], 4) for one in nights],
        "night_2_causes_right": second == expected,
        "night_3_causes_right": len(third) == there and set(third.values()) == {"new decision"},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
