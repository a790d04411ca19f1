"""What the dataflow costs by itself: the job with observers that return at once.

    python tests/benchmarks/bench_dataflow.py [--images 3000] [--photographs ../shared/data/voc/JPEGImages]

Runs list, manifest, *observe* and the look-up after it through the project's own functions and actors, but in the place
of the models stands a stage that hands out ready-made evidence, encoded beforehand, of the size that the pocket models
give. On two corpora: `tiny`, 48 x 64 pixel JPEGs that this writes, and `photographs`, where reading and decoding weigh
what they weigh in earnest. Beside each runs a plain loop in one process that reads, decodes and writes the same.

    images/s   of the job from its first result on, all actors together; of the loop, one process
    CPU ms     user and system time an image. For the job of all its processes, driver and Ray included, less that of
               a run with few images, which is start-up; the loop's is counted after its first shard
    framework  the difference: what Ray and the tables between cost an image; and the job's CPU as a multiple of the
               loop's

CPU time hardly depends on what else the machine does, images a second do. Prints JSON on its last line.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_decide import make_evidence
from PIL import Image
from process_tree import ProcessTree

from models.evidence import encode
from pipelines import execution
from pipelines.config import LabelConfig
from pipelines.flow import job, listing, observing
from pipelines.flow.run import Run
from pipelines.stages.base import Record
from pipelines.stages.observe import ModelStage, PoolConfig, limit_threads
from pipelines.stages.read import ReadStage

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = 16  # two row groups: Parquet would store the same bytes once, and writing would come too cheap
FEW = 64  # images of the run that start-up is measured with: every actor has worked, and the writers too


class ReadyMade(ModelStage):
    """Ready-made evidence in turn, at no cost."""

    def __init__(self, evidence: Sequence[Record]) -> None:
        self.turns = itertools.cycle(evidence)

    def prepare(self, record: Record) -> Any:
        return None

    def forward(self, prepared: list[Any]) -> Any:
        return None

    def finish(self, raw: Any, records: list[Record]) -> None:
        for record in records:
            record.update(next(self.turns))
            record.pop("picture", None)


def set_up(corpus: str, count: int, output: str) -> tuple[Run, PoolConfig]:
    """A run of the job on `count` images, and its pool with the models taken out."""
    config = LabelConfig.model_validate(
        {
            "corpus": f"folder:{corpus}",
            "classes": "voc",
            "output": output,
            "limit": count,
            "execution": {"device": "cpu"},
        }
    )
    run, models = job.set_up(config)
    [pool] = job._pools(run, models)
    encoded = [encode(make_evidence(seed)) for seed in range(VARIANTS)]
    # Only the image's own size comes from its reading.
    columns = [{name: row[name] for name in row if name not in ("height", "width")} for row in encoded]
    return run, replace(pool, build=partial(ReadyMade, columns))


def dataflow(corpus: str, count: int, output: str) -> dict[str, float]:
    """The job up to where *decide* would begin, in this process and what it starts."""
    run, pool = set_up(corpus, count, output)
    rows = observing.timed(run, "list", lambda: listing.list_corpus(run))
    known = observing.look_up(run, rows)
    listing.write_manifest(run, rows, {}, False)
    execution.start_ray("", run.config.execution.object_store_mb)
    observed = observing.timed(run, "observe", lambda: observing.observe(run, known, [pool]))
    known = observing.timed(run, "look up", lambda: observing.look_up(run, rows))
    listing.write_manifest(run, rows, {asset: found[2] for asset, found in known.evidence.items()}, False)
    if observed.observed != count or len(known.evidence) != count:
        raise RuntimeError(f"{observed.observed} of {count} images were observed: {observed.failures[:3]}")
    return {"images_per_second": observed.images_per_second, "bytes_per_image": observed.bytes / count, **run.seconds}


def plain_loop(corpus: str, count: int, output: str) -> dict[str, float]:
    """One process, one image after the other: the same reading, decoding and writing, in the same shards."""
    limit_threads(1)
    run, pool = set_up(corpus, count, output)
    assert pool.read is not None
    read, model = ReadStage(pool.read), pool.build()
    rows = listing.list_corpus(run)
    size, started, cpu, first = run.layout.rows_per_shard, 0.0, 0.0, 0
    for begin in range(0, count, size):
        records = []
        for wanted in rows[begin : begin + size]:
            record = read.read_one({name: getattr(wanted, name) for name in observing.TODO.names})
            if record["outcome"] != "ok":
                raise RuntimeError(f"{record['asset']}: {record['reason']}")
            model.finish(model.forward([model.prepare(record)]), [record])
            records.append(record)
        run.store.write_shard(records)
        if not begin:  # caches are warm from here on
            started, cpu, first = time.perf_counter(), time.process_time(), len(records)
    done = count - first
    return {
        "images_per_second": done / (time.perf_counter() - started),
        "cpu_ms_per_image": 1000 * (time.process_time() - cpu) / done,
    }


def write_corpus(folder: Path, count: int) -> None:
    """Small JPEGs, all different: the same bytes would be observed once."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((64, 48)).save(folder / f"{number:06d}.jpg", quality=90)


def in_child(step: str, corpus: Path, count: int, output: Path) -> tuple[dict[str, float], float]:
    """Run one of the steps above in a process of its own: (its numbers, CPU seconds of it and what it started)."""
    command = [sys.executable, __file__, "--step", step, str(corpus), str(count), str(output)]
    with ProcessTree(0.25, memory=False) as tree:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{step} on {count} images failed; its messages are above")
    return json.loads(done.stdout.strip().splitlines()[-1]), tree.cpu_seconds


def measure(name: str, corpus: Path, count: int, folder: Path) -> dict[str, Any]:
    few = min(FEW, count // 2)
    _, start_up = in_child("dataflow", corpus, few, folder / f"{name}-few")
    flow, cpu = in_child("dataflow", corpus, count, folder / f"{name}-flow")
    loop, _ = in_child("loop", corpus, count, folder / f"{name}-loop")
    flow_ms, loop_ms = 1000 * (cpu - start_up) / (count - few), loop["cpu_ms_per_image"]
    print(
        f"{name:<13}job {flow['images_per_second']:>7.0f} images/s {flow_ms:>7.2f} CPU ms;  "
        f"loop {loop['images_per_second']:>7.0f} images/s {loop_ms:>7.2f} CPU ms;  "
        f"framework {flow_ms - loop_ms:.2f} CPU ms an image, {flow_ms / loop_ms:.2f} times the loop's CPU",
        flush=True,
    )
    return {
        "images": count,
        "images_per_second": round(flow["images_per_second"], 1),
        "cpu_ms_per_image": round(flow_ms, 3),
        "loop_images_per_second": round(loop["images_per_second"], 1),
        "loop_cpu_ms_per_image": round(loop_ms, 3),
        "framework_cpu_ms_per_image": round(flow_ms - loop_ms, 3),
        "cpu_ratio": round(flow_ms / loop_ms, 3),
        "rate_ratio": round(flow["images_per_second"] / loop["images_per_second"], 3),
        "start_up_cpu_seconds": round(start_up, 1),
        "evidence_bytes_per_image": round(flow["bytes_per_image"]),
        "seconds": {step: round(flow[step], 2) for step in ("list", "observe", "look up")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT.parent / "shared" / "data" / "voc" / "JPEGImages"
    parser.add_argument("--images", type=int, default=3000, help="images in each corpus; few are mostly start-up")
    parser.add_argument("--photographs", type=Path, default=default, help="a folder with at least so many")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS, metavar=("NAME", "CORPUS", "IMAGES", "OUTPUT"))
    options = parser.parse_args()
    if options.step:
        name, corpus, count, output = options.step
        print(json.dumps({"dataflow": dataflow, "loop": plain_loop}[name](corpus, int(count), output)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-dataflow-") as scratch:
        folder = Path(scratch)
        write_corpus(folder / "images", options.images)
        corpora = {"tiny": folder / "images", "photographs": options.photographs.resolve()}
        result = {name: measure(name, corpus, options.images, folder) for name, corpus in corpora.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
