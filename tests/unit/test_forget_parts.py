"""Parts of forgetting: tables that are read meanwhile, files called after an image, snapshots that are gone."""

import json
import shutil
import tracemalloc
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from test_forget import Killed, stopped_at

from pipelines import storage, tracking_pending
from pipelines.forget import main
from pipelines.forgetting import delta, pending
from pipelines.forgetting.files import is_of_image
from pipelines.forgetting.identity import Known, identify
from pipelines.forgetting.names import Names
from pipelines.forgetting.reach import Unreachable, snapshots_with, students_around
from pipelines.tables import labels
from pipelines.tables.labels import LabelTable
from pipelines.tables.snapshots import roll_back
from pipelines.tracking_store import About, Operation

A = Names({"a.jpg"}, set(), set())
BINS = ("00001.bin", "00002.bin")
BOTH = Names({"a.jpg", "b.jpg"}, set(), set())


def write_rolled_back(url: str) -> LabelTable:
    """Good labels, then bad ones, then the good ones again; the log has a checkpoint of the bad ones."""
    table = LabelTable(url)
    base = {**dict.fromkeys(labels.SCHEMA.names), "removed": False}
    for number, run_id in enumerate(("good", "bad")):
        rows = [{**base, "asset": f"{n}.jpg", "sequence": number, "run_id": run_id} for n in "abc"]
        file = table.write_file(f"part-{run_id}.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))
        if number:
            table.replace(["part-good.parquet"], [file], 1)
        else:
            table.commit([file])
    deltalake.DeltaTable(url).create_checkpoint()
    roll_back(table, 1, "back", "they are bad")
    return table


def read(table: LabelTable, version: int) -> set[tuple[str, str]]:
    assert len(table.files(version)) == 1
    columns = ["asset", "run_id"]
    found = [row for batch in table.newest(columns, version) for row in batch.to_pylist()]
    return {(row["asset"], row["run_id"]) for row in found}


def clean(table: LabelTable, names: Names) -> None:
    paths = storage.tree(table.url)
    delta.clean(table.url, paths, delta.look(table.url, paths, names), names)


def test_readers_see_every_version_as_it_was_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rolled_back(str(tmp_path / "before"))
    expected = {1: "good", 2: "bad", 3: "good"}
    for step in range(100):
        table = LabelTable(str(tmp_path / f"killed-{step}"))
        shutil.copytree(tmp_path / "before", table.url)
        with monkeypatch.context() as patch:
            stopped_at(step, patch)
            try:
                clean(table, A)
                break
            except Killed:
                pass
        for version, run_id in expected.items():
            assert read(table, version) - {("a.jpg", run_id)} == {("b.jpg", run_id), ("c.jpg", run_id)}, step
        clean(table, BOTH)  # it goes on, and forgets another image with it
        for version, run_id in expected.items():
            assert read(table, version) == {("c.jpg", run_id)}, step
        assert len(list(Path(table.url).glob("*.parquet"))) == 2
    assert step > 10
    assert all(read(table, v) == {("b.jpg", run_id), ("c.jpg", run_id)} for v, run_id in expected.items())


@pytest.mark.parametrize(
    ("path", "forgotten", "stays", "own"),
    [
        ("masks/sub/a.jpg", "a.jpg", "sub/a.jpg", False),
        ("masks/a.jpg", "a.jpg", "sub/a.jpg", True),
        ("masks/sub/a1.png", "a1.jpg", "sub/a1.tif", False),
        ("masks/sub/a1.png", "sub/a1.jpg", "a1.jpg", True),
        ("masks/sub_a1.png", "sub/a1.jpg", "sub_a1.jpg", False),
        ("masks/sub_a1.png", "sub_a1.jpg", "sub/a1.jpg", True),
        ("masks/sub__a1.jpg.png", "sub/a1.jpg", "a1.jpg", True),
    ],
)
def test_a_file_belongs_to_the_image_whose_name_fits_it_best(
    path: str, forgotten: str, stays: str, own: bool, tmp_path: Path
) -> None:
    rows = [{**dict.fromkeys(labels.SCHEMA.names), "asset": n, "sequence": 1, "digest": n} for n in (forgotten, stays)]
    LabelTable(str(tmp_path)).write_file("part.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))
    names = identify(Known(str(tmp_path), ["part.parquet"]), [forgotten], []).names
    assert is_of_image(path, names) is own


def test_only_names_that_hold_the_images_where_it_can_be_mentioned_are_kept_in_mind(tmp_path: Path) -> None:
    held = ["a.jpg", "my a.jpg", "data.jpg", "x/data.jpg", "é&a.jpg", "a.jpg.png", "a.jpgé", "b.jpg"]
    rows = [{**dict.fromkeys(labels.SCHEMA.names), "asset": n, "sequence": 1, "digest": n} for n in held]
    LabelTable(str(tmp_path)).write_file("part.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))
    names = identify(Known(str(tmp_path), ["part.parquet"]), ["a.jpg"], []).names
    assert names.others == {"my a.jpg", "é&a.jpg", "a.jpg.png", "a.jpgé"}
    assert not any(names.mentioned(json.dumps(name)) or names.mentioned(name) for name in held[1:])


def test_a_snapshot_whose_files_are_gone_perhaps_had_the_image(tmp_path: Path) -> None:
    table = write_rolled_back(str(tmp_path / "out/labels"))
    for version in (1, 2):
        record = {"run_id": "r", "learned": {"labels": str(tmp_path / "out")}, "snapshot": version, "plan_digest": ""}
        storage.write_bytes(str(tmp_path / f"student-{version}/training.json"), json.dumps(record).encode())
    (tmp_path / "out/labels/part-bad.parquet").unlink()
    found = snapshots_with(str(tmp_path / "out"), A)
    assert found == {1: True, 2: False, 3: True} and table.version() == 3
    told = Unreachable(students_around(str(tmp_path / "out"), found)).lines()
    assert "student-1: learned from snapshot 1, which had" in told[0]
    assert "student-2: learned from snapshot 2, which perhaps had" in told[1]
    assert snapshots_with(str(tmp_path / "out"), Names({"z.jpg"}, set(), set())) == {2: False}


def test_python_holds_only_what_is_about_the_image_however_large_the_corpus_is(tmp_path: Path) -> None:
    count = 200_000
    numbers = [f"{n:08}" for n in range(count)]
    columns = {"asset": [f"{n}.jpg" for n in numbers], "uri": [f"/p/{n}.jpg" for n in numbers], "digest": numbers}
    storage.write_parquet(str(tmp_path / "part.parquet"), pa.table({**columns, "sequence": range(count)}))
    del numbers, columns
    tracemalloc.start()
    try:
        found = identify(Known(str(tmp_path), ["part.parquet"]), ["00000007.jpg"], [])
        assert tracemalloc.get_traced_memory()[1] < 20 * count
    finally:
        tracemalloc.stop()
    assert found.names == Names({"00000007.jpg"}, {"/p/00000007.jpg"}, {"00000007"})


def test_an_export_s_list_says_whose_file_is_whose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    called = {"IMG 1.jpg": "IMG_1", "IMG_1.jpg": "IMG_1-2"}
    rows = [{**dict.fromkeys(labels.SCHEMA.names), "asset": n, "sequence": 1, "digest": n * 9} for n in called]
    LabelTable(str(tmp_path / "labels")).append("part.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))
    export = tmp_path / "exports/coco"
    listed = [{"name": name, "asset": asset} for asset, name in called.items()]
    storage.write_bytes(str(export / "assets.json"), json.dumps(listed).encode())
    images = [{"id": n, "file_name": f"{name}.jpg", "asset": a} for n, (a, name) in enumerate(called.items())]
    storage.write_bytes(str(export / "instances.json"), json.dumps({"images": images, "annotations": []}).encode())
    skipped = {"skipped": [{"asset": "IMG_1.jpg", "reason": "odd"}, {"asset": "IMG 1.jpg", "reason": "odd"}]}
    storage.write_bytes(str(export / "export.json"), json.dumps(skipped).encode())
    for name in called.values():
        storage.write_bytes(str(export / f"images/{name}.jpg"), b"the picture")
    assert main(["--output", str(tmp_path), "--asset", "IMG_1.jpg"]) == 0
    assert [path.name for path in (export / "images").iterdir()] == ["IMG_1.jpg"]
    assert json.loads((export / "instances.json").read_text())["images"] == images[:1]
    assert json.loads((export / "assets.json").read_text()) == listed[:1]
    assert json.loads((export / "export.json").read_text())["skipped"] == skipped["skipped"][1:]


def test_what_waits_for_mlflow_can_be_told_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = [json.dumps([["a.jpg", "cat"], [name, "dog"]]).encode() for name in ("b.jpg", "c.jpg")]
    told = [("overlays/00_a.jpg.png", b"PNG of a"), ("1.json", page[0]), ("2.json", page[1])]
    operations = [Operation("file", {"name": name}, content) for name, content in told]
    folders = 0
    for step in range(50):
        address = tracking_pending.save(str(tmp_path / str(step)), About("k", "e", "n"), operations)
        with monkeypatch.context() as patch:
            stopped_at(step, patch)
            try:
                assert pending.clean(address, A, lambda: None) == 3
                break
            except Killed:
                folders += 1
        kept = {o.values["name"]: o.content for o in tracking_pending.load(address)[1]}
        assert kept.items() <= {**dict(told), "1.json": kept["1.json"], "2.json": kept["2.json"]}.items()
        assert b"b.jpg" in (kept["1.json"] or b"") and b"c.jpg" in (kept["2.json"] or b"")
        pending.clean(address, A, lambda: None)
        assert {path.name for path in Path(address).iterdir()} == {"about.json", "operations.jsonl", *BINS}
        assert not any(b"a.jpg" in path.read_bytes() or b"PNG" in path.read_bytes() for path in Path(address).iterdir())
    assert folders == 4
    # One that was never whole can never be told.
    (Path(address) / "about.json").unlink()
    assert pending.clean(address, A, lambda: None) == 1 and not Path(address).exists()
