"""A forgotten image stays out while its file is in the corpus, under its own name and under another one."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from forget_scene import everything
from jobs import ROOT, Job, label_rows, write_crops

from pipelines.tables.quarantine import QuarantineTable

IMAGES = 12


def test_a_forgotten_image_is_left_out_of_the_next_run(job: Job, tmp_path: Path) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    names = write_crops(corpus, IMAGES)
    shutil.copy(corpus / names[3], corpus / "the-same.jpg")
    arguments = ("--corpus", corpus, "--classes", "cat, person", "--output", output)
    first = job(*arguments)
    assert first.code == 0, first.err[-3000:]
    assert first.result["labeled"] == IMAGES + 1

    command = [sys.executable, str(ROOT / "pipelines/forget.py"), "--output", str(output), "--asset", names[3]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=job.env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["images"] == 2 and {"evidence", "labels", "manifest", "runs"} <= told["removed"].keys()
    assert any(str(corpus / names[3]) in line for line in told["unreachable"])
    shutil.copy(corpus / names[3], corpus / "renamed.jpg")

    second = job(*arguments)
    assert second.code == 0, second.err[-3000:]
    assert "2 images were forgotten and are left out" in second.err
    assert (second.result["reused"], second.result["labeled"], second.result["quarantined"]) == (IMAGES - 1, 0, 1)
    assert set(label_rows(output, ["asset"])) == set(names) - {names[3]}
    [refused] = QuarantineTable(str(output / "quarantine")).rows()
    assert (refused["asset"], refused["error"]) == ("renamed.jpg", "forgotten")
    digest = hashlib.sha256((corpus / names[3]).read_bytes()).hexdigest()
    told_now = everything(output)
    assert not any(name.encode() in told_now for name in (names[3], "the-same.jpg", digest))
