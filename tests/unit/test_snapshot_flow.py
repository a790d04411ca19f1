"""The flow between two snapshots: checked against maps that are known pixel by pixel."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.nightly.diff import diff
from pipelines.nightly.flow import snapshot_flow
from pipelines.nightly.present import changes_page
from pipelines.nightly.sides import Side, Sides
from pipelines.stages.decide import png
from pipelines.tables.labels import SCHEMA, LabelTable, removal

NAMES = {0: "background", 3: "cat", 700: "dog"}


def row(
    asset: str, sequence: int, class_map: np.ndarray, names: dict[int, str] = NAMES, **columns: object
) -> dict[str, object]:
    ids, counts = np.unique(class_map, return_counts=True)
    areas = [
        {"class_id": int(i), "name": names[int(i)], "area": n / class_map.size, "kept": 0.0}
        for i, n in zip(ids, counts, strict=True)
    ]
    base = {**dict.fromkeys(SCHEMA.names), "removed": False, "schema_version": 1, **columns}
    height, width = class_map.shape
    return {**base, "asset": asset, "sequence": sequence, "areas": areas, "height": height, "width": width,
            "class_map": png(class_map.astype(np.uint16))}  # fmt: skip


def append(output: Path, name: str, rows: list[dict[str, object]]) -> int:
    return LabelTable(str(output / "labels")).append(f"{name}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))


def publish(output: Path, run: str, classes: ClassSet, maps: dict[str, np.ndarray]) -> int:
    """A snapshot of a run whose folder says what its classes are."""
    folder = output / "runs" / run
    folder.mkdir(parents=True)
    (folder / "classes.yaml").write_text(yaml.safe_dump(classes.to_dict()))
    names = {0: "background"} | {entry.id: entry.name for entry in classes.classes}
    sure = png(np.full((1, 1), 255, np.uint8))
    of_run = {"run_id": run, "class_set_digest": classes.digest, "label_key": run, "confidence": sure}
    rows = [row(asset, int(run), found, names, **of_run) for asset, found in maps.items()]
    return append(output, run, rows)


def random_map(seed: int, height: int = 9, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 3, 700], (height, width))


def test_the_flow_counts_every_pixel_of_what_changed_stayed_came_and_went(tmp_path: Path) -> None:
    maps = {name: random_map(seed) for seed, name in enumerate(["same", "moved", "gone", "grown"])}
    old = append(tmp_path, "one", [row(name, 1, found) for name, found in maps.items()])
    moved, came, grown = random_map(11), random_map(12), random_map(13, 5, 5)
    later = [row("moved", 2, moved), row("came", 2, came), row("grown", 2, grown)]
    new = append(tmp_path, "two", [*later, removal("gone", "", "vanished", 2, "r", None)])
    flow = snapshot_flow(f"{tmp_path}@{old}", f"{tmp_path}@{new}")
    assert (flow.ids, flow.names) == ([0, 3, 700], ["background", "cat", "dog"])
    index = {0: 0, 3: 1, 700: 2}
    wanted = np.zeros((4, 4), np.int64)
    for before, after in ((maps["same"], maps["same"]), (maps["moved"], moved)):
        for a, b in zip(before.ravel(), after.ravel(), strict=True):
            wanted[index[int(a)], index[int(b)]] += 1
    for found in (came, grown):
        for b in found.ravel():
            wanted[3, index[int(b)]] += 1
    for found in (maps["gone"], maps["grown"]):
        for a in found.ravel():
            wanted[index[int(a)], 3] += 1
    assert np.array_equal(flow.counts, wanted)
    assert flow.changed == {"moved": pytest.approx((maps["moved"] != moved).mean()), "grown": 1.0}
    cats = ((maps["moved"] == 3) & (moved == 3)).sum() + (maps["same"] == 3).sum()
    either = ((maps["moved"] == 3) | (moved == 3)).sum() + (maps["same"] == 3).sum()
    assert flow.iou()[1] == pytest.approx(cats / either)
    assert flow.gained()[1] - flow.lost()[1] == (moved == 3).sum() - (maps["moved"] == 3).sum()


def test_a_snapshot_against_itself_does_not_differ(tmp_path: Path) -> None:
    append(tmp_path, "one", [row("a", 1, random_map(1))])
    flow = snapshot_flow(str(tmp_path), str(tmp_path))
    assert flow.changed == {} and np.trace(flow.counts) == flow.counts.sum() == 63


def test_two_outputs_are_matched_by_the_names_of_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_map = random_map(1)
    append(tmp_path / "a", "one", [row("x", 1, class_map)])
    monkeypatch.setitem(NAMES, 700, "cat")
    monkeypatch.setitem(NAMES, 3, "dog")
    append(tmp_path / "b", "one", [row("x", 1, np.select([class_map == 3, class_map == 700], [700, 3], 0))])
    flow = snapshot_flow(str(tmp_path / "a"), str(tmp_path / "b"))
    assert flow.changed == {"x": 0.0} and flow.names == ["background", "dog", "cat"]


def test_ids_that_are_mere_positions_are_matched_by_name(tmp_path: Path) -> None:
    before = np.array([[0, 1], [2, 2]])
    publish(tmp_path, "1", ClassSet.load("cat, dog"), {"x": before, "y": before})
    # `y` is not done yet: a snapshot of two class sets, each row in the words of its own.
    publish(tmp_path, "2", ClassSet.load("bird, cat, dog"), {"x": np.array([[0, 2], [3, 1]])})
    flow = snapshot_flow(f"{tmp_path}@1", f"{tmp_path}@2")
    assert flow.names == ["background", "bird", "cat", "dog"] and flow.changed == {"x": 0.25}
    assert np.diag(flow.counts).tolist() == [2, 0, 2, 3, 0] and flow.counts[3, 1] == 1


def test_recorded_migrations_are_no_change(tmp_path: Path) -> None:
    ids = {8: "cat", 15: "person", 6: "bus", 7: "car", 4: "boat", 12: "dog"}
    old = ClassSet.from_dict([{"id": id, "name": name} for id, name in ids.items()])
    records = [
        {"rename": 8, "was": "cat"},
        {"split": 15, "was": "person", "into": [21, 22]},
        {"merge": [6, 7], "was": ["bus", "car"], "into": 23},
        {"retire": 4, "was": "boat"},
    ]
    ids = {8: "feline", 12: "dog", 21: "adult", 22: "child", 23: "vehicle"}
    classes = [{"id": id, "name": name} for id, name in ids.items()]
    new = ClassSet.from_dict({"classes": classes, "migrations": records})
    publish(tmp_path, "1", old, {"x": np.array([[0, 8, 15, 15], [6, 7, 4, 12]]), "y": np.array([[15, 6, 12]])})
    publish(tmp_path, "2", new, {"x": np.array([[0, 8, 21, 22], [23, 23, 0, 12]]), "y": np.array([[23, 23, 8]])})
    flow = snapshot_flow(f"{tmp_path}@1", f"{tmp_path}@2")
    assert flow.changed == {"x": 0.0, "y": pytest.approx(2 / 3)}
    assert [name for name in flow.names if name != "person"] == ["background", *ids.values()]
    place = flow.names.index
    assert flow.counts[place("person"), place("vehicle")] == flow.counts[place("dog"), place("feline")] == 1
    assert flow.iou()[place("vehicle")] == 0.75
    changes = diff(Sides(Side.open(f"{tmp_path}@1"), Side.open(f"{tmp_path}@2")))
    assert changes.churn == pytest.approx(2 / 11)
    assert sorted(changes.moves()) == [("dog", "feline", 1), ("person", "vehicle", 1)]
    photo = io.BytesIO()
    Image.new("RGB", (3, 1)).save(photo, "JPEG")
    page = changes_page(changes, new, {"y": photo.getvalue()}, changes.images.slice(0, 1), [], "")
    assert page.count('class="card"') == 1 and "vehicle" in page
    # The way back: what is older knows no record, and ids that last are matched by themselves.
    back = snapshot_flow(f"{tmp_path}@2", f"{tmp_path}@1")
    assert {"cat", "vehicle", "bus"} <= set(back.names) and "feline" not in back.names


def test_a_snapshot_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no published labels"):
        snapshot_flow(str(tmp_path), str(tmp_path))
    append(tmp_path, "one", [row("a", 1, random_map(1))])
    with pytest.raises(UsageError, match="no snapshot 9"):
        snapshot_flow(str(tmp_path), f"{tmp_path}@9")
