"""Every export is read back by the library of its own ecosystem and compared with the label table, pixel by pixel."""

import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import yaml
from label_scene import Scene, label_row, make_scene
from PIL import Image
from scipy import ndimage

from models import torchvision_cpu
from pipelines import export
from pipelines.exports import huggingface
from pipelines.exports.regions import Points, Region, merge_smallest, outline, put, regions
from pipelines.exports.snapshot import safe_name
from pipelines.flow.stop import Interrupted
from pipelines.forgetting.aliases import Listing, names_below
from pipelines.forgetting.files import clean_json
from pipelines.forgetting.names import Names
from pipelines.tables.labels import SCHEMA

torchvision_cpu.ensure()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


def run(capsys: pytest.CaptureFixture[str], scene: Scene, *arguments: object, code: int = 0) -> dict[str, Any]:
    found = export.main(["--labels", str(scene.output), *map(str, arguments)])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return json.loads(printed.out.strip().splitlines()[-1]) if printed.out.strip() else {"err": printed.err}


def kept(scene: Scene, asset: str) -> np.ndarray:
    """The class map where confidence is at least the row's threshold, -1 elsewhere."""
    ids = scene.maps[asset].astype(int)
    quarter = np.linspace(250, 20, -(-ids.shape[1] // 4)).astype(np.uint8) >= round(0.5 * 255)
    return np.where(np.repeat(quarter, 4)[: ids.shape[1]], ids, -1)


def test_coco_loads_in_pycocotools_and_faster_coco_eval(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster
    from pycocotools.coco import COCO

    out = tmp_path / "coco"
    summary = run(capsys, scene, "--to", "coco", "--output", out, "--min_area_px", 1)
    assert (summary["images"], summary["skipped"], summary["specks_left_out"]) == (len(scene.maps), 0, 0)
    coco = COCO(str(out / "annotations/instances_train.json"))
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert len(modes) == 1 and modes != {0o600}, "who may read one of the files may read all"
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1)) and min(coco.imgs) == 1 and min(coco.cats) == 1
    assert {c["name"] for c in coco.cats.values()} == {"cat", "dog"}
    for image in coco.imgs.values():
        found = np.zeros((image["height"], image["width"]), int)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"] > 0
            ys, xs = np.nonzero(mask)
            assert annotation["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert not found[mask].any(), "objects overlap"
            found[mask] = annotation["category_id"]
        np.testing.assert_array_equal(found, scene.maps[image["asset"]])
        with Image.open(out / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert picture.getexif().get(0x0112, 1) == 1
    faster = FasterCOCO(str(out / "annotations/instances_train.json"))
    results = faster.loadRes([{**a, "score": 0.9} for a in faster.dataset["annotations"]])
    judge = COCOeval_faster(faster, results, "segm", print_function=lambda *_: None)
    judge.run()
    assert judge.stats[0] == pytest.approx(1.0)


def test_panoptic_ids_and_segments_agree(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, scene, "--to", "coco-panoptic", "--output", tmp_path, "--images", "none", "--keep", "row")
    data = json.loads((tmp_path / "annotations/panoptic_train.json").read_text())
    images = {image["id"]: image for image in data["images"]}
    assert {c["isthing"] for c in data["categories"]} == {1} and len(data["annotations"]) == len(scene.maps)
    for annotation in data["annotations"]:
        rgb = np.asarray(Image.open(tmp_path / "annotations/panoptic_train" / annotation["file_name"])).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        category = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(category)
        for segment in annotation["segments_info"]:
            assert (ids == segment["id"]).sum() == segment["area"]
        found = np.vectorize(lambda i, of=category: of.get(i, 0))(ids)
        asset = images[annotation["image_id"]]["file_name"]
        np.testing.assert_array_equal(found, np.maximum(kept(scene, asset), 0))
        assert Path(images[annotation["image_id"]]["uri"]).is_file()


def test_yolo_polygons_drawn_as_trainers_draw_them(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, scene, "--to", "yolo", "--output", tmp_path, "--val", 0.5, "--min_area_px", 1)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data["names"] == {0: "cat", 1: "dog"}
    # As ultralytics resolves it: a `path`, if there is one, and else the folder of the file.
    root = Path(data.get("path") or tmp_path)
    assert root.is_absolute() and all((root / data[split]).is_dir() for split in ("train", "val"))
    assets = {entry["name"]: entry["asset"] for entry in json.loads((tmp_path / "assets.json").read_text())}
    labels = sorted((tmp_path / "labels").glob("*/*.txt"))
    assert {path.parent.name for path in labels} == {"train", "val"} and len(labels) == len(scene.maps)
    for path in labels:
        truth = scene.maps[assets[path.stem]]
        assert list((tmp_path / "images" / path.parent.name).glob(f"{path.stem}.*"))
        found = np.zeros(truth.shape, np.uint8)
        for line in path.read_text().splitlines():
            number, *shares = line.split()
            corners = np.array(shares, np.float64).reshape(-1, 2)
            assert len(corners) >= 3 and corners.min() >= 0 and corners.max() <= 1
            x, y = corners.T
            assert abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) > 0, "a polygon without an area"
            points = (corners * truth.shape[::-1]).astype(np.int32)
            mask = cv2.fillPoly(np.zeros(truth.shape, np.uint8), [points], 1)
            found[mask > 0] = data["class_ids"][int(number)]
        np.testing.assert_array_equal(found, truth)


def test_specks_are_no_objects_unless_they_are_asked_for(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {asset: ids.astype(int) for asset, ids in scene.maps.items()}
    large, small = {}, 0
    for asset, ids in whole.items():
        large[asset] = ids.copy()
        for class_id in (1, 2):
            parts, count = ndimage.label(ids == class_id, np.ones((3, 3)))
            specks = [part for part in range(1, count + 1) if (parts == part).sum() < 20]
            large[asset][np.isin(parts, specks)] = 0
            small += len(specks)
    assert small > 10

    def coco(*more: object) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        from pycocotools.coco import COCO

        out = tmp_path / "-".join(map(str, more)) / "coco"
        summary = run(capsys, scene, "--to", "coco", "--output", out, "--images", "none", *more)
        found = COCO(str(out / "annotations/instances_train.json"))
        masks = {i["asset"]: np.zeros((i["height"], i["width"]), int) for i in found.imgs.values()}
        for one in found.anns.values():
            masks[found.imgs[one["image_id"]]["asset"]][found.annToMask(one) > 0] = one["category_id"]
        return masks, summary

    masks, summary = coco("--max_regions", 10_000)
    assert summary["specks_left_out"] == small and min(map(len, masks.values())) > 0
    np.testing.assert_equal(masks, large)
    np.testing.assert_equal(coco("--instances", "classes")[0], whole)
    assert export.main(["--labels", str(scene.output), "--to", "yolo", "--output", str(tmp_path / "yolo")]) == 0
    printed = capsys.readouterr()
    assert f"{small} parts of fewer than 20 pixels left out; --min_area_px 1" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["objects"] == sum(
        ndimage.label(ids == class_id, np.ones((3, 3)))[1] for ids in large.values() for class_id in (1, 2)
    )
    assert run(capsys, scene, "--to", "coco-panoptic", "--output", tmp_path / "all")["specks_left_out"] == 0


def test_voc_loads_in_torchvision(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torchvision.datasets import VOCSegmentation

    run(capsys, scene, "--to", "voc", "--output", tmp_path, "--keep", "row")
    dataset = VOCSegmentation(str(tmp_path), year="2012", image_set="trainval")
    assets = {entry["name"]: entry["asset"] for entry in json.loads((tmp_path / "assets.json").read_text())}
    assert len(dataset) == len(scene.maps)
    for (photo, mask), path in zip(dataset, dataset.images, strict=True):
        want = kept(scene, assets[Path(path).stem])
        np.testing.assert_array_equal(np.asarray(mask), np.where(want < 0, 255, want))
        assert photo.size == mask.size and mask.mode == "P"
        assert tuple(mask.getpalette()[3:6]) == scene.classes.classes[0].color
    lines = (tmp_path / "VOCdevkit/VOC2012/labelmap.txt").read_text().splitlines()[1:]
    colors = {tuple(map(int, line.split(":")[1].split(","))) for line in lines}
    shown = {color for path in dataset.masks for _, color in Image.open(path).convert("RGB").getcolors()}
    assert shown <= colors, "every colour of the masks has a name"
    from pipelines.corpus.voc import VocCorpus

    assert len(list(VocCorpus(str(tmp_path / "VOCdevkit/VOC2012"), "train").list())) == len(scene.maps)


def test_parquet_loads_in_datasets_and_the_card_parses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    classes = {"background": False, "classes": [{"id": 0, "name": "a *b* | c"}, {"id": 300, "name": "tree"}]}
    scene = make_scene(tmp_path / "scene", classes, ("a.jpg", "b.png", "c.jpg"))
    assert all(set(np.unique(ids)) == {0, 300} for ids in scene.maps.values())
    out = tmp_path / "hf"
    summary = run(capsys, scene, "--to", "huggingface", "--output", out, "--rows_per_file", 2, "--keep", "row")
    assert summary["train"] == 3
    assert sorted(path.name for path in (out / "data").iterdir()) == ["train-00000.parquet", "train-00001.parquet"]
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "BYTES_PER_FILE", 1)
        run(capsys, scene, "--to", "huggingface", "--output", tmp_path / "small")
    assert len(list((tmp_path / "small/data").iterdir())) == 3, "a file ends where its bytes are many"
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    for row in rows:
        want = kept(scene, row["asset"])
        np.testing.assert_array_equal(np.asarray(row["label"]), np.where(want < 0, 255, want))
        assert row["image"].size == row["label"].size and sorted(row["classes"]) == sorted({*np.unique(want)} - {-1})
    card = DatasetCard.load(out / "README.md")
    assert card.data.task_categories == ["image-segmentation"] and card.data.size_categories == ["n<1K"]
    assert r"| 0 | a \*b\* \| c |" in card.text
    assert json.loads((out / "id2label.json").read_text())["0"] == "a *b* | c"


def republish(scene: Scene) -> None:
    import pyarrow as pa

    sequence = scene.labels.next_sequence()
    rows = [label_row(scene, name, n, sequence=sequence) for n, name in enumerate(scene.maps)]
    scene.labels.append(f"part-{sequence}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))


def test_a_second_run_does_nothing_new_labels_replace_and_what_is_gone_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(tmp_path, names=("a.jpg", "b.jpg", "c.jpg"))
    assert run(capsys, scene, "--to", "voc")["written"] is True
    out = scene.output / "exports/voc"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = run(capsys, scene, "--to", "voc")
    assert (again["written"], again["images"]) == (False, 3)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

    republish(scene)
    (scene.corpus / "a.jpg").unlink()
    (scene.corpus / "b.jpg").write_bytes(b"other bytes")
    left = run(capsys, scene, "--to", "voc", code=1)
    assert (left["images"], left["skipped"], left["snapshot"]) == (1, 2, again["snapshot"] + 1)
    assert [path.name for path in (out / "VOCdevkit/VOC2012/JPEGImages").iterdir()] == ["c.jpg"]
    reasons = [entry["reason"] for entry in json.loads((out / "export.json").read_text())["skipped"]]
    assert "cannot be read any more" in reasons[0] and "bytes changed" in reasons[1]

    told = run(capsys, scene, "--to", "coco", "--output", scene.corpus, code=2)
    assert "holds other files" in told["err"] and (scene.corpus / "c.jpg").is_file()
    assert "no such version" in run(capsys, scene, "--to", "coco", "--snapshot", 99, code=2)["err"]


def test_a_folder_has_one_format_and_files_of_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(tmp_path, names=("a.jpg", "b.jpg", "c.jpg"))
    out = tmp_path / "export"

    def yolo(*more: object, code: int = 0) -> dict[str, Any]:
        return run(capsys, scene, "--to", "yolo", "--output", out, *more, code=code)

    def files() -> set[str]:
        return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}

    yolo()
    whole = files()
    (out / "images/train/mine.jpg").write_bytes(b"of the user")
    assert "an export to yolo" in run(capsys, scene, "--to", "coco", "--output", out, code=2)["err"]
    assert files() == whole | {"images/train/mine.jpg"}

    def stop(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.exports.yolo.YoloWriter.close", stop)
        yolo("--val", 0.999, code=143)
    assert yolo("--limit", 1)["images"] == 1
    assert {path for path in files() if path.startswith(("images", "labels"))} == {
        "images/train/a.jpg", "labels/train/a.txt", "images/train/mine.jpg"
    }  # fmt: skip

    mark = (out / "export.json").read_bytes()
    names = names_below(Names({"a.jpg"}, set(), set()), [Listing(str(out), "", ("a",), ())], "export.json")
    assert b"a.jpg" in mark and b"a.jpg" not in clean_json(mark, names), "forgetting finds the names of its files"


@pytest.mark.parametrize("to", ["coco", "coco-panoptic", "yolo", "voc", "huggingface"])
def test_after_a_kill_other_settings_begin_anew_and_leave_nothing_stale(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(tmp_path, names=("a.jpg", "b.jpg", "c.jpg"))
    out = tmp_path / "out/exports" / to

    def files() -> set[str]:
        return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}

    def killed() -> None:
        mark = json.loads((out / "export.json").read_text())
        mark |= {"known": False, "complete": False, "files": {}}  # as it is while an export is at work
        (out / "export.json").write_text(json.dumps(mark))

    run(capsys, scene, "--to", to, "--val", 0.999, "--rows_per_file", 1)
    killed()
    (out / "data").mkdir(exist_ok=True)
    (out / "data/mine.txt").write_text("of the user")
    (out / "notes.txt").write_text("of the user")
    assert export.main(["--labels", str(scene.output), "--to", to, "--limit", "1"]) == 0
    assert "val 0.999, now 0.0; rows_per_file 1, now 512; limit None, now 1) was killed" in capsys.readouterr().err
    found = files()
    run(capsys, scene, "--to", to, "--limit", 1, "--output", tmp_path / "fresh")
    fresh = {str(path.relative_to(tmp_path / "fresh")) for path in (tmp_path / "fresh").rglob("*") if path.is_file()}
    assert found == fresh | {"data/mine.txt", "notes.txt"}

    killed()
    mark = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**mark, "snapshot": 99}))
    told = run(capsys, scene, "--to", to, code=2)["err"]
    assert "snapshot 99, now 1" in told and "remove the folder, or give another --output" in told and files() == found


def test_an_export_lives_on_any_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fsspec

    scene = make_scene(tmp_path, names=("a.jpg", "b.jpg"))
    for _ in range(2):
        run(capsys, scene, "--to", "coco", "--output", "memory://exports/coco set")
    found = fsspec.filesystem("memory").find("/exports/coco set")
    assert {name.rpartition("/")[2] for name in found} >= {
        "instances_train.json",
        "a.jpg",
        "export.json",
        "assets.json",
    }


@pytest.mark.parametrize("seed", range(8))
def test_outlines_give_any_connected_region_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = (rng.random((24, 31)) < (0.25, 0.5, 0.7, 0.9)[seed % 4]).astype(np.int32)
    for part in regions(ids, {0}, whole=False):
        corners = outline(part)
        points = (corners / (31, 24) * (31, 24)).astype(np.int32)
        mask = cv2.fillPoly(np.zeros(ids.shape, np.uint8), [points], 1).astype(bool)
        want = np.zeros(ids.shape, bool)
        put(want, part)
        np.testing.assert_array_equal(mask, want)


def test_too_many_parts_are_joined_without_losing_a_pixel() -> None:
    ids = np.zeros((40, 40), np.int32)
    ids[::4, ::4], ids[20:30, 20:30] = 1, 2
    found = merge_smallest(regions(ids, {0}, whole=False), 5, ids.shape)
    assert len(found) <= 5 < len(regions(ids, {0}, whole=False))
    back = np.zeros_like(ids)
    for part in found:
        mask = np.zeros(ids.shape, bool)
        put(mask, part)
        assert not back[mask].any()
        back[mask] = part.class_id
    np.testing.assert_array_equal(back, ids)
    assert all(isinstance(part, Region) and part.area for part in found)


def test_names_are_safe_unique_and_stable() -> None:
    taken: set[str] = set()
    assets = ("a/b.jpg", "A/B.png", "a b/ü.jpg", "../x.jpg", "p.parquet#row=7", "é.jpg")
    names = [safe_name(asset, taken) for asset in assets]
    assert names == ["a__b", "A__B-2", "a_b___", "x", "p.parquet_row_7", "_"]
    assert len(safe_name("long" * 100, taken)) < 140


def test_points_divide_what_touches_and_leave_no_pixel_out() -> None:
    """Two objects of a class that touch, one apart that nobody named, and one of another class."""
    ids = np.zeros((40, 60), np.int32)
    ids[5:20, 5:45] = 8
    ids[30:35, 50:58] = 8
    ids[30:38, 5:20] = 12
    points = Points(np.array([[10, 12], [40, 12], [12, 34]], np.float32), np.array([8, 8, 12], np.int32))
    found = regions(ids, {0}, whole=False, points=points)
    assert [part.class_id for part in found] == [8, 8, 8, 12]
    drawn = np.zeros(ids.shape, int)
    for part in found:
        drawn[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] += part.mask
    assert (drawn == (ids > 0)).all()
    halves = [part for part in found if part.top == 5]
    assert sorted(part.left for part in halves) == [5, pytest.approx(25, abs=1)]
    assert len(regions(ids, {0}, whole=False)) == 3


def test_the_points_of_a_label_name_objects_in_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_scene(tmp_path, names=("plain.jpg",))
    ids = np.zeros_like(scene.maps["plain.jpg"])
    ids[10:30, 10:90] = 1
    weak = {"points": [{"x": 20.0, "y": 20.0, "class": "cat"}, {"x": 80.0, "y": 20.0, "class": "cat"},
                       {"x": 50.0, "y": 50.0, "class": "cat", "positive": False}]}  # fmt: skip
    scene.maps["plain.jpg"] = ids
    row = label_row(scene, "plain.jpg", 0, weak=json.dumps(weak), sequence=2, label_key="new")
    scene.labels.append("part-2.parquet", pa.Table.from_pylist([row], schema=SCHEMA))
    counts = {}
    for what in ("components", "points"):
        folder = tmp_path / what
        run(capsys, scene, "--to", "coco", "--instances", what, "--images", "none", "--val", 0, "--output", folder)
        told = json.loads((folder / "annotations" / "instances_train.json").read_text())
        counts[what] = [one["area"] for one in told["annotations"]]
    assert counts["components"] == [1600]
    assert sorted(counts["points"]) == [pytest.approx(800, abs=30)] * 2 and sum(counts["points"]) == 1600


def test_a_part_that_points_leave_too_little_of_is_a_speck_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(tmp_path, names=("plain.jpg",))
    ids = np.zeros_like(scene.maps["plain.jpg"])
    ids[10:30, 10:90] = 1
    weak = {"points": [{"x": 10.5, "y": 10.5, "class": "cat"}, {"x": 12.5, "y": 11.5, "class": "cat"}]}
    scene.maps["plain.jpg"] = ids
    row = label_row(scene, "plain.jpg", 0, weak=json.dumps(weak), sequence=2, label_key="new")
    scene.labels.append("part-2.parquet", pa.Table.from_pylist([row], schema=SCHEMA))
    told = ("--instances", "points", "--images", "none", "--val", 0, "--output", tmp_path / "few")
    result = run(capsys, scene, "--to", "coco", *told)
    assert (result["annotations"], result["specks_left_out"]) == (1, 1)
