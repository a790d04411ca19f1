"""A run that is killed goes on from where it was, and ends as if nothing had happened."""

import os
import random
import re
import signal
import subprocess
from functools import partial
from pathlib import Path

import psutil
from jobs import Job, label_rows, wait_until, write_crops

from pipelines.tables.labels import LINEAGE

IMAGES = 240
SHARD = 8


def index_files(output: Path) -> int:
    return len(list(output.glob("evidence/*/index-*")))


def reached(process: "subprocess.Popen[str]", output: Path, files: int) -> bool:
    """Whether so many shards are there, or the run ended before."""
    return index_files(output) >= files or process.poll() is not None


def kill_driver(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def actors_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The observing actors of the cluster that this driver started."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [child for child in family if "ObservePool" in " ".join(child.cmdline())]


def test_killed_driver_actor_driver_ends_like_an_unbroken_run(job: Job, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_crops(corpus, IMAGES, size=160)
    moments = random.Random(20261122)

    def arguments(output: Path) -> tuple[object, ...]:
        return (
            "--corpus", corpus, "--classes", "cat, person, cup", "--output", output,
            "--execution.rows_per_shard", SHARD,
        )  # fmt: skip

    broken = tmp_path / "broken"
    done_before: list[int] = []
    for victim in ("driver", "actor", "driver"):
        process = job.start(*arguments(broken))
        target = index_files(broken) + moments.randint(2, 6)
        assert wait_until(partial(reached, process, broken, target))
        assert process.poll() is None, f"the run ended before it could be killed: {process.communicate()[1][-2000:]}"
        if victim == "actor":
            actors = actors_of(process)
            assert actors, "no observing actor is running"
            moments.choice(actors).kill()
            target = index_files(broken) + moments.randint(2, 6)
            assert wait_until(partial(reached, process, broken, target))
        kill_driver(process)
        done_before.append(index_files(broken) * SHARD)
        assert done_before[-1] < IMAGES

    last = job(*arguments(broken))
    assert last.code == 0, last.err[-3000:]
    assert last.result["labeled"] == IMAGES
    assert last.result["observed"] <= IMAGES - done_before[-1] + SHARD
    bound = int(re.search(r"a kill costs at most ([\d,]+) images", last.err).group(1).replace(",", ""))  # type: ignore[union-attr]
    assert bound <= 8 * SHARD * (os.cpu_count() or 1)

    whole = tmp_path / "whole"
    unbroken = job(*arguments(whole))
    assert unbroken.code == 0, unbroken.err[-3000:]
    one, other = label_rows(broken), label_rows(whole)
    assert len(one) == IMAGES and one.keys() == other.keys()
    for asset, row in one.items():
        assert {k: v for k, v in row.items() if k not in LINEAGE} == {
            k: v for k, v in other[asset].items() if k not in LINEAGE
        }


def test_sigterm_stops_cleanly_and_the_same_command_goes_on(job: Job, tmp_path: Path) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_crops(corpus, 200, size=160)
    arguments = ("--corpus", corpus, "--classes", "cat", "--output", output, "--execution.rows_per_shard", SHARD)
    process = job.start(*arguments)
    assert wait_until(partial(reached, process, output, 2))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err[-2000:]
    assert "the same command goes on" in err
    done = job(*arguments)
    assert done.code == 0, done.err[-3000:]
    assert done.result["labeled"] == 200
    assert not list(output.rglob("*.tmp"))
    assert done.result["observed"] < 200


def test_a_budget_publishes_what_is_done_and_says_what_is_left(job: Job, tmp_path: Path) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_crops(corpus, 30)
    arguments = ("--corpus", corpus, "--classes", "cat, person", "--output", output, "--execution.rows_per_shard", 4)
    first = job(*arguments, "--budget-images", 12)
    assert first.code == 3, first.err[-3000:]
    assert (first.result["observed"], first.result["labeled"]) == (12, 12)
    assert "18 without a label" in first.err
    assert len(label_rows(output, ["asset"])) == 12
    rest = job(*arguments)
    assert rest.code == 0, rest.err[-3000:]
    assert (rest.result["observed"], rest.result["labeled"], rest.result["reused"]) == (18, 18, 12)

    more = job("--corpus", corpus, "--classes", "cat, person, cup", *arguments[4:])
    assert more.code == 0, more.err[-3000:]
    assert (more.result["observed"], more.result["labeled"]) == (0, 30)
