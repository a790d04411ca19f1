"""The nightly run as a process of its own, on a real Ray: two at once, one that is killed, one that goes on."""

import json
import os
import signal
import sys
from pathlib import Path

from jobs import ROOT, Job, label_rows, wait_until, write_crops

IMAGES = 12


class Nightly(Job):
    """The same job, as `relabel_nightly.py`."""

    def command(self, *arguments: object, models: bool = True) -> list[str]:
        command = super().command(*arguments, models=models)
        return [sys.executable, str(ROOT / "pipelines" / "relabel_nightly.py"), *command[2:]]


def test_one_at_a_time_also_after_a_kill(job: Job, tmp_path: Path) -> None:
    nightly = Nightly(job.models, job.scratch)
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_crops(corpus, IMAGES)
    arguments = ("--corpus", corpus, "--classes", "cat, person", "--output", output, "--execution.rows_per_shard", 4)
    first = nightly.start(*arguments)
    try:
        assert wait_until(lambda: (output / "manifest").is_dir() or first.poll() is not None)
        second = nightly(*arguments)
        assert second.code == 5, second.err[-3000:]
        assert f"process {first.pid}" in second.err
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    assert json.loads((output / "lock.json").read_text())["pid"] == first.pid

    third = nightly(*arguments)
    assert third.code == 0, third.err[-3000:]
    assert "is taken over" in third.err
    assert (third.result["outcome"], third.result["labeled"], third.result["snapshot"]) == ("published", IMAGES, 1)
    assert len(label_rows(output, ["asset"])) == IMAGES
    again = nightly(*arguments)
    assert again.code == 0, again.err[-3000:]
    assert (again.result["outcome"], again.result["reused"], again.result["snapshot"]) == ("unchanged", IMAGES, 1)
