"""What a night costs beside the models: a manifest of many rows of which a few changed.

    python tests/benchmarks/bench_million.py --images 1000000 --changed 0.01

The corpus is a list of made-up addresses; observers and the decision are replaced by ones that return at once with
ready-made evidence and labels; Ray is left out. All else is the job's own: listing, manifest, index of the evidence,
plan, diff, gate, commit. Prints one JSON object: wall seconds of each step, the driver's peak memory (RSS, MB), and the
bytes that the night wrote against those of the rows that changed.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.corpus.base import Asset, Corpus  # noqa: E402
from pipelines.flow import deciding, job, listing, observing  # noqa: E402
from pipelines.flow.run import digest  # noqa: E402
from pipelines.nightly.config import NightlyConfig  # noqa: E402
from pipelines.nightly.job import relabel_nightly  # noqa: E402
from pipelines.stages.decide import png  # noqa: E402
from pipelines.tables import labels  # noqa: E402

SHARD = 64
# Small, so that a million fit on a disk; the evidence of a real photograph is 100 times as large, its label 10 times.
EVIDENCE_BYTES = 1_000
SIDE_PX = 64


class MadeUp(Corpus):
    """So many assets; those below `changed` have other bytes on the second night."""

    root = "/made/up"

    def __init__(self, images: int, changed: int) -> None:
        self.images, self.changed = images, changed

    def list(self) -> Iterator[Asset]:
        for number in range(self.images):
            tag = "2" if number < self.changed else "1"
            name = f"camera-{number % 97:02d}/{number:09d}.jpg"
            yield Asset(name, f"{self.root}/{name}", 100_000, tag)


def observe(run: Any, known: Any, *_: Any) -> observing.Observed:
    """Evidence for all that is to do, at once."""
    filler = np.random.default_rng(0).bytes(EVIDENCE_BYTES)
    result = observing.Observed()
    for start in range(0, len(known.todo), SHARD):
        records = []
        for wanted in known.todo[start : start + SHARD]:
            key = digest([wanted.asset, wanted.mtag])
            record = {"asset": wanted.asset, "uri": wanted.uri, "size_bytes": wanted.size_bytes, "mtag": wanted.mtag}
            record |= {"hints_digest": "", "digest": key, "evidence_key": key, "outcome": "ok"}
            records.append({**record, "masks": b"m", "features": filler, "height": SIDE_PX, "width": SIDE_PX})
        count, size = run.store.write_shard(records, run.run_id)
        result.observed, result.bytes = result.observed + count, result.bytes + size
    return result


def decide(run: Any, work: list[dict[str, Any]], prefix: str, *_: Any) -> list[Any]:
    """Labels for all work, at once: a stripe of one class, where it is depends on the evidence."""
    files = []
    sequence = run.labels.next_sequence()
    pictures = []
    for row in range(16):
        class_map = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        class_map[row : row + 16] = 1
        pictures.append(png(class_map))
    grid = png(np.full((SIDE_PX // 4, SIDE_PX // 4), 200, np.uint8))
    areas = [
        {"class_id": 0, "name": "background", "area": 0.75, "kept": 0.7},
        {"class_id": 1, "name": "cat", "area": 0.25, "kept": 0.2},
    ]
    for start in range(0, len(work), SHARD):
        rows = []
        for item in work[start : start + SHARD]:
            row = {**dict.fromkeys(labels.SCHEMA.names), **{k: v for k, v in item.items() if k in labels.SCHEMA.names}}
            row |= {"sequence": sequence, "removed": False, "height": SIDE_PX, "width": SIDE_PX, "run_id": run.run_id}
            row |= {"class_map": pictures[int(item["evidence_key"][0], 16)], "confidence": grid, "provenance": grid}
            row |= {"coverage": 0.9, "mean_confidence": 0.8, "keep_threshold": 0.5, "areas": areas, "schema_version": 1}
            row |= {"class_set_digest": run.classes.digest, "decide_digest": run.decide_digest, "head_digest": ""}
            rows.append(row)
        table = pa.Table.from_pylist(rows, schema=labels.SCHEMA)
        files.append(run.labels.write_file(f"{prefix}-{run.run_id}-{start:09d}.parquet", table))
    return files


def replace_models(images: int, changed: int) -> None:
    corpus = MadeUp(images, changed)
    listing.open_corpus = lambda config: corpus  # type: ignore[assignment, misc]
    observing.observe, deciding._decide = observe, decide  # type: ignore[assignment]
    job._start_ray = lambda config: None  # type: ignore[assignment]
    job.embed_prompts = lambda *_: None  # type: ignore[assignment, return-value]


def night(output: Path, images: int, changed: int) -> dict[str, Any]:
    """One night, in this process: its own numbers."""
    replace_models(images, changed)
    config = NightlyConfig.model_validate(
        {
            "corpus": "folder:/made/up",
            "classes": "cat, dog",
            "output": str(output),
            "tracking": {"enabled": False},
            "gate": {"recheck_images": 0},
            "report": {"images": 0},
            "changes": 0,
        }
    )
    before, started = written(output), time.perf_counter()
    summary = relabel_nightly(config).summary or {}
    seconds = time.perf_counter() - started
    details = json.loads((output / "runs" / summary["run_id"] / "summary.json").read_text())
    return {
        "outcome": summary["outcome"],
        "labeled": summary["labeled"],
        "seconds": round(seconds, 1),
        "steps": details["seconds"],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "bytes_written": {name: size - before.get(name, 0) for name, size in written(output).items()},
    }


def written(output: Path) -> dict[str, int]:
    """Bytes of files by the folder below the output."""
    sizes: dict[str, int] = {}
    for path in output.rglob("*"):
        if path.is_file():
            part = path.relative_to(output).parts[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--changed", type=float, default=0.01, help="share of the images that change before night 2")
    parser.add_argument("--night", nargs=2, help=argparse.SUPPRESS, metavar=("OUTPUT", "CHANGED"))
    options = parser.parse_args()
    if options.night:
        print(json.dumps(night(Path(options.night[0]), options.images, int(options.night[1]))))
        return
    import subprocess

    nights = []
    with tempfile.TemporaryDirectory(prefix="bench-million-") as scratch:
        changed = round(options.images * options.changed)
        for count in (0, changed, changed):
            # A process each: the peak of one night says nothing of the next.
            command = [
                sys.executable,
                __file__,
                "--images",
                str(options.images),
                "--night",
                f"{scratch}/out",
                str(count),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit("the night failed; its messages are above")
            nights.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(json.dumps(nights[-1]), file=sys.stderr)
    first, second = (sum(one["bytes_written"].values()) for one in nights[:2])
    print(json.dumps({"images": options.images, "changed": changed, "bytes_ratio": second / first, "nights": nights}))


if __name__ == "__main__":
    main()
