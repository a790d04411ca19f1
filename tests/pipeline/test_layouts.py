"""The same photographs through every layout, on disk and on a real S3 server, and as a submitted job."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import ROOT, Job, label_rows, wait_until, write_crops
from PIL import Image
from s3_server import S3, free_port, running

IMAGES = 20
CLASSES = ("--classes", "cat, person, cup")
# What a label row says of the image, whatever address the image has.
SAME = ("digest", "height", "width", "class_map", "confidence", "provenance", "keep_threshold", "label_key")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "JPEGImages"
    write_crops(folder, IMAGES)
    return folder


def by_digest(output: Path) -> dict[str, dict[str, object]]:
    rows = label_rows(output)
    return {row["digest"]: {name: row[name] for name in SAME} for row in rows.values()}


def write_layouts(photos: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """The photographs in every layout; returns the arguments for each."""
    names = sorted(path.name for path in photos.iterdir())
    struct = [{"image": {"bytes": (photos / name).read_bytes(), "path": name}} for name in names]
    pq.write_table(pa.Table.from_pylist(struct), folder / "struct.parquet", row_group_size=3)
    plain = [{"image": (photos / name).read_bytes()} for name in names]
    pq.write_table(pa.Table.from_pylist(plain), folder / "bytes.parquet")
    voc = folder / "voc"
    shutil.copytree(photos, voc / "JPEGImages")
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "all.txt").write_text("\n".join(Path(name).stem for name in names))
    sizes = {name: Image.open(photos / name).size for name in names}
    images = [
        {"id": n, "file_name": name, "width": sizes[name][0], "height": sizes[name][1]} for n, name in enumerate(names)
    ]
    coco = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (folder / "coco.json").write_text(json.dumps(coco))
    lines = [json.dumps({"uri": str(photos / name)}) for name in names]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return {
        "parquet of structs": (f"parquet:{folder / 'struct.parquet'}",),
        "parquet of bytes, detected": (str(folder / "bytes.parquet"),),
        "voc": (f"voc:{voc}", "--split", "all"),
        "coco": (f"coco:{folder / 'coco.json'}", "--images.root", str(photos)),
        "jsonl": (f"jsonl:{folder / 'list.jsonl'}",),
    }


def test_every_layout_gives_the_same_labels(job: Job, photos: Path, tmp_path: Path) -> None:
    first = job("--corpus", photos, *CLASSES, "--output", tmp_path / "folder")
    assert first.code == 0, first.err[-3000:]
    expected = by_digest(tmp_path / "folder")
    assert len(expected) == IMAGES
    for number, (layout, arguments) in enumerate(write_layouts(photos, tmp_path).items()):
        output = tmp_path / f"out-{number}"
        done = job("--corpus", *arguments, *CLASSES, "--output", output)
        assert done.code == 0, f"{layout}: {done.err[-3000:]}"
        assert done.result["labeled"] == IMAGES, layout
        assert by_digest(output) == expected, layout


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3")) as found:
        yield found


def test_corpus_and_output_on_s3(
    job: Job, photos: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("s3", **s3.options)
    fs.put(str(photos), "data/photos", recursive=True)
    arguments = ("--corpus", "s3://data/photos", *CLASSES, "--output", "s3://data/out/labels of photos")
    done = job(*arguments, **s3.env)
    assert done.code == 0, done.err[-3000:]
    assert (done.result["observed"], done.result["labeled"]) == (IMAGES, IMAGES)
    assert fs.exists(done.result["report"].removeprefix("s3://"))
    again = job(*arguments, **s3.env)
    assert again.code == 0, again.err[-3000:]
    assert again.result["reused"] == IMAGES

    local = job("--corpus", photos, *CLASSES, "--output", tmp_path / "local")
    assert local.code == 0, local.err[-3000:]
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    from pipelines.tables.labels import LabelTable

    batches = LabelTable("s3://data/out/labels of photos/labels").newest(SAME)
    remote = {row["digest"]: row for batch in batches for row in batch.to_pylist()}
    assert remote == by_digest(tmp_path / "local")


def test_ray_job_submit(job: Job, photos: Path, tmp_path: Path) -> None:
    output, temporary = tmp_path / "out", Path(f"/tmp/ms-{os.getpid()}")
    port, dashboard, agent = free_port(), free_port(), free_port()
    # The job's `python` is the one that the head finds first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**job.env, "RAY_TMPDIR": str(temporary), "RAY_AUTH_MODE": "disabled", "PATH": path}
    ray = str(Path(sys.executable).parent / "ray")
    head = subprocess.Popen(
        [
            ray, "start", "--head", "--block", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", "--include-dashboard=true",
            f"--temp-dir={temporary}",
            "--object-store-memory=300000000", "--disable-usage-stats",
        ],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:

        def up() -> bool:
            listed = subprocess.run([ray, "job", "list", "--address", address], env=env, capture_output=True)
            return listed.returncode == 0

        assert wait_until(up, 90, 2), "the head did not come up"
        command = job.command("--corpus", photos, *CLASSES, "--output", output)
        command[:2] = ["python", "pipelines/label_corpus.py"]
        submit = [ray, "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", *command]
        for _ in range(30):
            done = subprocess.run(submit, env=env, capture_output=True, text=True, timeout=300, cwd=ROOT)
            # The head answers some seconds before its agent can take a job.
            if "No available agent" not in done.stdout + done.stderr:
                break
            time.sleep(2)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        [line] = [line for line in done.stdout.splitlines() if line.startswith('{"run_id"')]
        assert json.loads(line)["labeled"] == IMAGES
        assert len(label_rows(output, ["asset"])) == IMAGES
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)
