"""The same photographs through every layout, on disk and on a real S3 server."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import Job, label_rows, write_crops
from PIL import Image
from s3_server import S3, running

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
    """The photographs in layouts that are read in ways of their own; returns the arguments for each. That all layouts
    give the same bytes is tested without a job."""
    names = sorted(path.name for path in photos.iterdir())
    struct = [{"image": {"bytes": (photos / name).read_bytes(), "path": name}} for name in names]
    pq.write_table(pa.Table.from_pylist(struct), folder / "struct.parquet", row_group_size=3)
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
        "coco": (f"coco:{folder / 'coco.json'}", "--images.root", str(photos)),
        "jsonl": (f"jsonl:{folder / 'list.jsonl'}",),
    }


def test_layouts_give_the_same_labels(job: Job, photos: Path, tmp_path: Path) -> None:
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
