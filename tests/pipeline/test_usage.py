"""What a user meets before and beside the labels: plans, mistakes, pools, strictness."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from jobs import Job, label_rows, write_crops

IMAGES = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_crops(folder, IMAGES)
    return folder


def test_a_dry_run_tells_the_plan_and_the_cost_and_changes_nothing(job: Job, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = job("--corpus", photos, "--classes", "cat", "--output", output, "--dry-run")
    assert done.code == 0, done.err[-2000:]
    for stage in ("read", "observe", "write evidence", "decide"):
        assert stage in done.out
    assert f"to observe             {IMAGES}" in done.out
    assert "s each" in done.out and "MiB" in done.out
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corpus", "/no/such/folder", "--classes", "cat"), "/no/such/folder"),
        (("--corpus", "sample:", "--classes", "cat, cat"), "cat"),
        (("--corpus", "sample:", "--classes", "nowhere.yaml"), "nowhere.yaml"),
        (("--corpus", "sample:", "--clases", "cat"), "did you mean classes"),
        (("--corpus", "sample:", "--classes", "cat", "--decide.mask_top", "many"), "decide.mask_top"),
        (("--corpus", "sample:", "--classes", "cat", "--observe.sam.model", "/no/sam.pth"), "/no/sam.pth"),
        (("--corpus", "sample:", "--classes", "cat", "--execution.device", "cuda"), "execution.device"),
    ],
)
def test_a_mistake_ends_with_2_and_names_itself(
    job: Job, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = job(*arguments, "--output", tmp_path / "out", models="sam.pth" not in " ".join(arguments))
    assert done.code == 2, done.err[-2000:]
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_pools_of_their_own_give_the_same_labels(job: Job, photos: Path, tmp_path: Path) -> None:
    rows = []
    for pools in ("joint", "split"):
        output = tmp_path / pools
        done = job("--corpus", photos, "--classes", "cat, cup", "--output", output, "--pools", pools)
        assert done.code == 0, done.err[-3000:]
        assert done.result["observed"] == IMAGES
        rows.append({a: (r["class_map"], r["confidence"], r["label_key"]) for a, r in label_rows(output).items()})
    assert rows[0] == rows[1]


def test_weak_labels_reach_the_row_and_bad_ones_are_listed_or_stop_the_run(
    job: Job, photos: Path, tmp_path: Path
) -> None:
    lines = [
        {"path": "crop-0000.jpg", "tags": ["cat"], "points": [{"x": 5, "y": 6, "class": "cat"}]},
        {"path": "crop-0001.jpg", "tags": ["dgo"], "points": [{"x": 5000, "y": 6, "class": "cat"}]},
    ]
    sidecar = tmp_path / "weak.jsonl"
    sidecar.write_text("\n".join(json.dumps(line) for line in lines))
    arguments = ("--corpus", photos, "--classes", "cat, dog", "--weak-file", sidecar)
    done = job(*arguments, "--output", tmp_path / "out")
    assert done.code == 0, done.err[-3000:]
    rows = label_rows(tmp_path / "out")
    assert json.loads(rows["crop-0000.jpg"]["weak"])["points"][0]["class"] == "cat"
    problems = " ".join(rows["crop-0001.jpg"]["weak_problems"])
    assert "dgo" in problems and "5000" in problems
    assert rows["crop-0002.jpg"]["weak_problems"] == []

    strict = job(*arguments, "--output", tmp_path / "strict", "--strict")
    assert strict.code == 1
    assert "dgo" in strict.err
    assert not label_rows(tmp_path / "strict")


def test_a_changed_photograph_is_observed_again_and_a_vanished_one_loses_its_label(job: Job, tmp_path: Path) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    names = write_crops(folder, 6)
    arguments = ("--corpus", folder, "--classes", "cat", "--output", output)
    assert job(*arguments).code == 0
    before = label_rows(output)
    (folder / names[0]).unlink()
    write_crops(folder / "more", 1, seed=9)
    (folder / names[1]).write_bytes((folder / "more" / "crop-0000.jpg").read_bytes())
    done = job(*arguments)
    assert done.code == 0, done.err[-3000:]
    assert done.result["observed"] == 1
    assert done.result["reused"] == 4
    after = label_rows(output)
    assert set(after) == (set(before) - {names[0]}) | {"more/crop-0000.jpg"}
    assert after[names[1]]["cause"] == "new evidence"
    assert after["more/crop-0000.jpg"]["cause"] == "new image"
    assert after[names[1]]["digest"] == after["more/crop-0000.jpg"]["digest"]
    assert after[names[2]] == before[names[2]]


def test_sam_asked_by_class_heat_is_stored_beside_the_evidence_and_taken_from_there(
    job: Job, photos: Path, tmp_path: Path
) -> None:
    arguments = ("--corpus", photos, "--output", tmp_path / "out", "--heat.kind", "box")
    first = job(*arguments, "--classes", "cat, cup")
    assert first.code == 0, first.err[-3000:]
    assert first.result["observed"] == first.result["labeled"] == IMAGES
    assert f"heat: {IMAGES} images on" in first.err
    # Another decision asks for nothing; it needs what is stored of both kinds.
    decided = ("--classes", "cat, cup", "--decide.heat_mask_weight", "1", "--from-evidence")
    again = job(*arguments, *decided)
    assert again.code == 0, again.err[-3000:]
    assert again.result["labeled"] == IMAGES
    files = list((tmp_path / "out" / "evidence").glob("*/data-*.parquet"))
    asked = [table for table in map(pq.read_table, files) if table["guide"].null_count]
    assert sum(table.num_rows for table in asked) == IMAGES
    assert {i for table in asked for row in table["mask_class"].to_pylist() for i in row} == {1, 2}
    # A new class is asked about, on evidence that is there.
    more = job(*arguments, "--classes", "cat, cup, dog")
    assert more.code == 0, more.err[-3000:]
    assert more.result["observed"] == 0 and more.result["labeled"] == IMAGES
    assert f"heat: {IMAGES} images on" in more.err
