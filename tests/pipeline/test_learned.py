"""What a corpus teaches, made by tasks of a real Ray, and a search of the index that is left."""

import json
import subprocess
import sys
from pathlib import Path

from jobs import ROOT, Job, label_rows, write_crops

IMAGES = 12


def test_all_kinds_are_made_in_tasks_and_the_index_can_be_searched(job: Job, tmp_path: Path) -> None:
    names, output = write_crops(tmp_path / "photos", IMAGES), tmp_path / "out"
    tags = [["cat", {"class": "dog", "present": False}], ["dog", {"class": "cat", "present": False}]]
    lines = [json.dumps({"path": name, "tags": tags[number % 2]}) for number, name in enumerate(names)]
    (tmp_path / "weak.jsonl").write_text("\n".join(lines))
    learn = ("--learn.min_tagged", IMAGES, "--learn.min_images", "2")
    asked = ("--decide.reference_weight", "0.3", "--decide.bias_removal", "1")
    done = job(
        "--corpus", tmp_path / "photos", "--weak-file", tmp_path / "weak.jsonl", "--classes", "cat, dog",
        "--output", output, *learn, *asked,
    )  # fmt: skip
    assert done.code == 0, done.err[-3000:]
    assert (
        f"index: {IMAGES}/{IMAGES} images" in done.err and "bias: backgrounds of images without each of 2" in done.err
    )
    (learned,) = {row["head_digest"] for row in label_rows(output, ["asset", "head_digest"]).values()}
    assert "+references:" in learned and "+bias:" in learned
    command = [sys.executable, "pipelines/search_corpus.py", "--labels", output, "--like", names[0]]
    found = subprocess.run([str(part) for part in command], cwd=ROOT, env=job.env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    nearest = json.loads(found.stdout.splitlines()[-1])["found"]
    assert len(nearest) == 10 and nearest[0]["asset"] != names[0] and "index:" not in found.stderr
