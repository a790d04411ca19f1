"""What people are shown and what they say: formats there and back, what counts, what contradicts, what comes first."""

import json
import shutil
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from label_scene import Scene, make_scene
from PIL import Image
from scipy import ndimage

from models.acquire import pick_regions, region_scores
from pipelines import review
from pipelines.classes import ClassSet
from pipelines.forgetting.aliases import Listing
from pipelines.forgetting.memory import Forgotten
from pipelines.lock import OutputLock
from pipelines.reviewing.config import RankConfig
from pipelines.reviewing.corrections import said
from pipelines.reviewing.rank import Candidate, Region, thumbnail, vary
from pipelines.reviewing.review import Drawn, Review, Shape, sent_path
from pipelines.tables.human import HumanTable, paint

CLASSES = ClassSet.load("cat, dog")
TOOLS = ("label-studio", "cvat", "coco", "fiftyone")
SQUARE = (slice(20, 41), slice(30, 57))  # where the person finds a dog


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), names=("a.jpg", "on its side.jpg", "c d.png"))


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    found = review.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return json.loads(printed.out.strip().splitlines()[-1]) if printed.out.strip() else {"err": printed.err}


def send(
    capsys: pytest.CaptureFixture[str], scene: Scene, tool: str, folder: object, budget: int = 3, smallest_px: int = 1
) -> dict[str, Any]:
    arguments = ("--labels", scene.output, "--to", tool, "--budget", budget, "--output", folder)
    return call(capsys, "export", *arguments, "--min_area_px", smallest_px)


def as_drawn(tool: str, folder: Path, wanted: dict[str, np.ndarray], classes: ClassSet = CLASSES) -> bytes:
    """What the tool gives back when every image looks like `wanted`: its own export format, written by its library."""
    if tool == "label-studio":
        from label_studio_sdk.converter import brush

        tasks = json.loads((folder / "tasks.json").read_text())
        for number, task in enumerate(tasks, 1):
            ids = wanted[task["data"]["asset"]]
            results = []
            for class_id, name in ((entry.id, entry.name) for entry in classes.classes):
                value = {"format": "rle", "rle": brush.mask2rle((ids == class_id).astype(np.uint8) * 255)}
                size = {"original_height": ids.shape[0], "original_width": ids.shape[1]}
                value["brushlabels"] = [name]
                results.append(
                    {"type": "brushlabels", "from_name": "label", "to_name": "image", **size, "value": value}
                )
            look = [r for r in task["predictions"][0]["result"] if r["type"] == "rectanglelabels"]
            when = f"2026-11-0{number}T10:00:00.000000Z"
            done = {"completed_by": {"id": 7, "email": "ann@example.org"}, "updated_at": when, "result": results + look}
            task["annotations"] = [{"was_cancelled": True, "result": []}, done]
        return json.dumps(tasks).encode()
    if tool == "cvat":
        from pipelines.exports.writer import Target
        from pipelines.reviewing.cvat import CvatReviewWriter

        sent = Review.read(str(folder))
        writer = CvatReviewWriter(Target(str(folder / "back")), sent)
        for image in sent.images.values():
            writer.add(image, writer.encode(image, wanted[image.asset]))
        writer.close()
        return (folder / "back/annotations.xml").read_bytes()
    from pycocotools import mask as coco

    data = json.loads(
        (folder / ("labels.json" if tool == "fiftyone" else "annotations/instances_default.json")).read_text()
    )
    # FiftyOne writes masks of crowds as run lengths, uncompressed, and all others as inexact polygons.
    assert {one["iscrowd"] for one in data["annotations"]} == {int(tool == "fiftyone")}
    data["annotations"] = []
    for image in data["images"]:
        for category, entry in zip(data["categories"], classes.classes, strict=False):
            whole = np.asfortranarray(wanted[image["asset"]] == entry.id, np.uint8)
            rle = coco.encode(whole)
            shape = {"size": rle["size"], "counts": rle["counts"].decode()}
            if tool == "fiftyone":
                edges = np.flatnonzero(np.diff(whole.reshape(-1, order="F"), prepend=0)) if whole.any() else []
                shape["counts"] = np.diff([0, *edges, whole.size]).tolist()
            annotation = {"image_id": image["id"], "category_id": category["id"], "segmentation": shape}
            data["annotations"].append({"id": len(data["annotations"]) + 1, **annotation, "area": int(whole.sum())})
    return json.dumps(data).encode()


@pytest.mark.parametrize("tool", TOOLS)
def test_there_and_back_keeps_every_corrected_pixel(
    tool: str, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "review", tmp_path / "labels"
    sent = send(capsys, scene, tool, folder)
    assert (sent["images"], sent["skipped"]) == (3, 0) and sent["regions"] > 0
    for image in Review.read(str(folder)).images.values():
        with Image.open(folder / ("data" if tool == "fiftyone" else "images") / image.file) as picture:
            assert picture.size == (image.width, image.height), "upright, as the label"
    wanted = {asset: ids.astype(np.int32).copy() for asset, ids in scene.maps.items()}
    wanted["a.jpg"][SQUARE] = 2
    wanted["c d.png"][wanted["c d.png"] == 1] = 0
    file = tmp_path / "back"
    file.write_bytes(as_drawn(tool, folder, wanted))
    shutil.copytree(scene.output, output)
    arguments = ("--review", folder, "--file", file, "--labels", output, "--annotator", "ann@example.org")
    back = call(capsys, "import", *arguments)
    assert (back["corrections"], back["images"], back["unchanged_images"], back["problems"]) == (2, 2, 1, 0)
    held = HumanTable(str(output / "human")).read(set(wanted))
    assert set(held) == {"a.jpg", "c d.png"} and held["a.jpg"][0]["annotator"] == "ann@example.org"
    for asset, corrections in held.items():
        ids, problems = paint(corrections, scene.classes, wanted[asset].shape)
        changed = wanted[asset] != scene.maps[asset]
        assert problems == [] and changed.any()
        np.testing.assert_array_equal(ids, np.where(changed, wanted[asset], -1))
    assert back["pixels"] == sum((wanted[a] != scene.maps[a]).sum() for a in wanted)
    again = call(capsys, "import", *arguments)
    assert (again["corrections"], again["known_before"], again["conflicts"]) == (0, 2, 0)


@pytest.mark.parametrize("classes", ["cat, dog", {"background": False, "classes": ["cat", "dog"]}])
@pytest.mark.parametrize("tool", TOOLS)
def test_specks_are_not_shown_and_what_is_not_shown_is_not_corrected(
    tool: str, classes: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(tmp_path, classes, names=("a.jpg", "b.png"))
    base = 0 if scene.classes.background else None
    shown, small = {}, 0
    for asset, ids in scene.maps.items():
        shown[asset] = ids.astype(np.int32)
        for entry in scene.classes.classes:
            parts, count = ndimage.label(ids == entry.id, np.ones((3, 3)))
            specks = [part for part in range(1, count + 1) if (parts == part).sum() < 20]
            shown[asset][np.isin(parts, specks)] = -1 if base is None else base
            small += len(specks)
    folder = tmp_path / "review"
    review.main(["export", "--labels", str(scene.output), "--to", tool, "--budget", "2", "--output", str(folder)])
    printed = capsys.readouterr()
    assert small > 10 and json.loads(printed.out.splitlines()[-1])["specks_left_out"] == small
    assert f"{small:,} parts of fewer than 20 pixels are not shown" in printed.err

    file = tmp_path / "back"
    file.write_bytes(as_drawn(tool, folder, shown, scene.classes))
    arguments = ("--review", folder, "--file", file, "--annotator", "ann")
    back = call(capsys, "import", *arguments)
    assert (back["corrections"], back["pixels"], back["unchanged_images"], back["problems"]) == (0, 0, 2, 0)
    # Where the person does paint, nothing but that is said.
    other, first = scene.classes.classes[1].id, shown["a.jpg"].copy()
    shown["a.jpg"][SQUARE] = other
    file.write_bytes(as_drawn(tool, folder, shown, scene.classes))
    assert call(capsys, "import", *arguments)["corrections"] == 1
    ids = paint(HumanTable(str(scene.output / "human")).read({"a.jpg"})["a.jpg"], scene.classes, first.shape)[0]
    assert (ids[SQUARE][scene.maps["a.jpg"][SQUARE] != other] == other).all()
    ids[SQUARE] = -1
    assert (ids == -1).all()


def test_label_studio_reads_the_tasks_and_its_configuration(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from label_studio_sdk.converter import brush
    from label_studio_sdk.label_interface import LabelInterface

    send(capsys, scene, "label-studio", tmp_path / "mine")
    interface = LabelInterface((tmp_path / "mine/label_config.xml").read_text())
    interface.validate()
    for task in json.loads((tmp_path / "mine/tasks.json").read_text()):
        assert task["data"]["image"].startswith("/data/local-files/?d=mine/images/")
        assert interface.validate_prediction(task["predictions"][0])
        ids = [result["id"] for result in task["predictions"][0]["result"]]
        assert len(set(ids)) == len(ids)
        truth = scene.maps[task["data"]["asset"]]
        for result in task["predictions"][0]["result"]:
            if result["type"] == "brushlabels":
                mask = brush.decode_rle(result["value"]["rle"]).reshape(*truth.shape, 4)[..., 3] > 0
                np.testing.assert_array_equal(mask, truth == scene.classes.index(result["value"]["brushlabels"][0]) + 1)


def test_people_who_disagree_and_changed_bytes_are_listed_and_nothing_is_lost(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "review", tmp_path / "labels"
    send(capsys, scene, "coco", folder)
    shutil.copytree(scene.output, output)
    file = tmp_path / "back.json"

    def say(who: str, value: int, **more: Any) -> dict[str, Any]:
        wanted = {asset: ids.astype(np.int32).copy() for asset, ids in scene.maps.items()}
        wanted["a.jpg"][SQUARE] = value
        data = json.loads(as_drawn("coco", folder, wanted))
        data["info"]["contributor"] = who
        data["info"]["date_created"] = f"2026-11-0{value}T00:00:00"
        data.update(more)
        file.write_text(json.dumps(data))
        return data

    arguments = ("--review", folder, "--file", file, "--labels", output)
    say("ann", 1)
    assert call(capsys, "import", *arguments)["conflicts"] == 0
    say("bob", 2)
    listed = json.loads(Path(call(capsys, "import", *arguments)["listed"]).read_text())["conflicts"]
    assert [(c["asset"], c["annotator"]) for c in listed] == [("a.jpg", "bob")]
    assert listed[0]["pixels"] == (np.isin(scene.maps["a.jpg"][SQUARE], (0,))).sum()
    held = HumanTable(str(output / "human")).read({"a.jpg"})["a.jpg"]
    assert [one["annotator"] for one in held] == ["ann", "bob"]
    ids, _ = paint(held, scene.classes, scene.maps["a.jpg"].shape)
    assert (ids[SQUARE][scene.maps["a.jpg"][SQUARE] != 2] == 2).all()

    data = say("cid", 1)
    data["categories"][0]["name"] = "tree"
    file.write_text(json.dumps(data))
    told = call(capsys, "import", *arguments, code=1)
    assert any("'tree' is no class" in text for text in json.loads(Path(told["listed"]).read_text())["problems"])
    file.write_text("{}")
    assert "no COCO file" in call(capsys, "import", *arguments, code=2)["err"]
    data["info"] = {}
    file.write_text(json.dumps(data))
    assert "--annotator" in call(capsys, "import", *arguments, code=2)["err"]


def test_what_an_import_listed_of_a_forgotten_image_is_forgotten_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines import forget

    scene = make_scene(tmp_path, names=("jane.jpg", "jane.png", "joe.jpg"))
    folder, file = scene.output / "reviews/one", tmp_path / "back.json"
    send(capsys, scene, "coco", folder)
    wanted = {asset: ids.astype(np.int32).copy() for asset, ids in scene.maps.items()}
    for who, value in (("ann", 1), ("bob", 2)):
        for asset in ("jane.png", "joe.jpg"):
            wanted[asset][SQUARE] = value
        data = json.loads(as_drawn("coco", folder, wanted))
        data["annotations"].append(
            {"id": 999, "image_id": data["images"][0]["id"], "category_id": 1, "segmentation": []}
        )
        data["images"] += [{"id": 99, "file_name": "jane-9.png"}]
        data["annotations"].append({"id": 1000, "image_id": 99, "category_id": 1, "segmentation": []})
        for number, image in enumerate(data["images"][:3], 2000):  # of every image something cannot be read
            data["annotations"].append({"id": number, "image_id": image["id"], "category_id": 1, "segmentation": []})
        file.write_text(json.dumps(data))
        told = call(capsys, "import", "--review", folder, "--file", file, "--annotator", who, code=1)
    before = Path(told["listed"]).read_text()
    assert {one["asset"] for one in json.loads(before)["conflicts"]} == {"jane.png", "joe.jpg"}
    assert "jane.png: annotation" in before and "1 images were not in the review" in before and "jane-9" not in before
    assert forget.main(["--output", str(scene.output), "--asset", "jane.png"]) == 0
    listed = [path.read_text() for path in folder.glob("imported-*.json")]
    assert len(listed) == 2 and all("joe.jpg: annotation" in text and "jane.jpg: annotation" in text for text in listed)
    assert {one["asset"] for one in json.loads(Path(told["listed"]).read_text())["conflicts"]} == {"joe.jpg"}
    holding = [path for path in scene.output.rglob("*") if path.is_file() and b"jane.png" in path.read_bytes()]
    assert holding == []


def test_what_a_person_says_with_objects_on_top_of_each_other() -> None:
    classes, when = ClassSet.load("cat, dog"), datetime(2026, 1, 1, tzinfo=UTC)
    before = np.zeros((6, 8), np.int32)
    before[:, :4] = 1
    left, right, low = (np.zeros((6, 8), bool) for _ in range(3))
    left[:, :4], right[:, 3:6], low[5] = True, True, True

    def drew(*layers: tuple[str, np.ndarray]) -> Drawn:
        return Drawn("x", "ann", when, tuple(Shape("a mask", lambda layer=layer: layer) for layer in layers))

    dog_first = drew(("dog", right), ("cat", left))
    found = said(dog_first, before, classes, "changed", ())
    assert (found.ids[:, 3:6] == 2).all(), "a new object wins over one that was there, wherever it is in the list"
    assert (found.ids[:, :3] == -1).all() and (found.ids[:, 6:] == -1).all() and found.changed == 18
    everything = said(dog_first, before, classes, "all", ())
    assert (everything.ids[:, :3] == 1).all() and (everything.ids[:, 6:] == 0).all()
    looked = said(dog_first, before, classes, "regions", [Region(6, 0, 2, 3, 0.5)])
    assert (looked.ids[:3, 6:] == 0).all() and (looked.ids[3:, 6:] == -1).all()
    both = said(drew(("cat", left), ("dog", right), ("cat", low)), before, classes, "changed", ())
    assert both.contested == 2 and (both.ids[5, 4:] == 1).all()
    unknown = said(drew(("tree", left)), before, classes, "changed", ())
    assert unknown.problems == ("'tree' is no class of the labels",) and (unknown.ids == -1).all()
    no_background = ClassSet.load(
        {"background": False, "classes": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    )
    assert (said(drew(), before + 1, no_background, "all", ()).ids == -1).all()


def spoilt(tool: str, data: bytes) -> bytes:
    """The same work, with every dog as a shape that only the tool knows, or that has no label."""
    if tool == "cvat":
        root = ElementTree.fromstring(data)
        for image in root.iter("image"):
            for shape in [one for one in image if one.get("label") == "dog"]:
                shape.tag = "box"
        return ElementTree.tostring(root)
    content = json.loads(data)
    if tool == "label-studio":
        for number, result in enumerate(r for task in content for r in task["annotations"][1]["result"]):
            if result["value"].get("brushlabels") == ["dog"]:
                kinds = ({"type": "ellipselabels"}, {"value": {**result["value"], "brushlabels": []}})
                result.update(kinds[number % 2])
    else:
        for annotation in content["annotations"]:
            if annotation["category_id"] == 2:
                annotation["segmentation"] = []
    return json.dumps(content).encode()


@pytest.mark.parametrize("tool", TOOLS)
def test_where_a_shape_cannot_be_read_empty_places_say_nothing(
    tool: str, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output, file = tmp_path / "review", tmp_path / "labels", tmp_path / "back"
    send(capsys, scene, tool, folder)
    shutil.copytree(scene.output, output)
    wanted = {asset: ids.astype(np.int32).copy() for asset, ids in scene.maps.items()}
    wanted["a.jpg"][SQUARE] = 1
    file.write_bytes(spoilt(tool, as_drawn(tool, folder, wanted)))
    arguments = ("--review", folder, "--file", file, "--labels", output, "--annotator", "ann")
    told = call(capsys, "import", *arguments, "--accept", "all", code=1)
    assert told["problems"] >= 3
    for asset, corrections in HumanTable(str(output / "human")).read(set(wanted)).items():
        ids, _ = paint(corrections, scene.classes, wanted[asset].shape)
        np.testing.assert_array_equal(ids, np.where(wanted[asset] == 1, 1, -1))


def test_a_task_of_another_review_and_an_image_of_another_size_are_refused(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, file = tmp_path / "labels", tmp_path / "back"
    shutil.copytree(scene.output, output)
    wanted = {asset: np.zeros_like(ids, np.int32) for asset, ids in scene.maps.items()}
    for tool in ("label-studio", "coco", "cvat"):
        folder = tmp_path / tool
        send(capsys, scene, tool, folder)
        data = as_drawn(tool, folder, wanted)
        if tool == "cvat":
            root = ElementTree.fromstring(data)
            for image in root.iter("image"):
                image.set("width", "17")
            data = ElementTree.tostring(root)
        else:
            content = json.loads(data)
            if tool == "coco":
                for image in content["images"]:
                    image["height"] *= 2
            else:
                content[0]["data"]["digest"] = "others"
                content[1]["data"]["snapshot"] += 1
                content[2]["data"].pop("digest")
            data = json.dumps(content).encode()
        file.write_bytes(data)
        arguments = ("--review", folder, "--file", file, "--labels", output, "--annotator", "ann")
        told = call(capsys, "import", *arguments, "--empty", "background", code=1)
        assert (told["corrections"], told["problems"]) == (0, 3), tool


def test_an_import_needs_no_old_snapshot_and_knows_what_was_forgotten_and_who_is_at_work(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, output, folder = tmp_path / "first", tmp_path / "moved", tmp_path / "review"
    shutil.copytree(scene.output, first)
    call(capsys, "export", "--labels", first, "--to", "coco", "--budget", 3, "--output", folder)
    wanted = {asset: np.full(ids.shape, 2, np.int32) for asset, ids in scene.maps.items()}
    file = tmp_path / "back.json"
    file.write_bytes(as_drawn("coco", folder, wanted))
    first.rename(output)
    arguments = ("--review", folder, "--file", file, "--annotator", "ann")
    assert "no published labels" in call(capsys, "import", *arguments, code=2)["err"]
    names = {image.asset: image.name for image in Review.read(str(folder)).images.values()}
    listing = Listing(str(folder), "", (names["a.jpg"],), ())
    assert listing.is_of_image(sent_path(names["a.jpg"])), "forgetting finds what was sent out"
    (folder / sent_path(names["a.jpg"])).unlink()
    Forgotten().remember(str(output), [("asset", "c d.png")])
    with OutputLock(str(output), 60):
        assert "is at work" in call(capsys, "import", *arguments, "--labels", output, code=5)["err"]
    told = call(capsys, "import", *arguments, "--labels", output, code=1)
    assert (told["corrections"], told["problems"]) == (1, 2)
    assert set(HumanTable(str(output / "human")).known()) == {"on its side.jpg"}
    listed = Path(told["listed"]).read_text()
    assert "is gone" in listed and "1 images were forgotten" in listed and names["c d.png"] not in listed


def test_one_mask_at_a_time_is_held() -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def read() -> tuple[str, np.ndarray]:
        assert sum(one() is not None for one in held) <= 1
        mask = np.ones((6, 8), bool)
        held.append(weakref.ref(mask))
        return "cat", mask

    drawn = Drawn("x", "ann", datetime(2026, 1, 1, tzinfo=UTC), (Shape("a mask", read),) * 5)
    said(drawn, np.zeros((6, 8), np.int32), ClassSet.load("cat, dog"), "changed", ())
    assert len(held) == 5


def test_regions_are_mixed_and_doubtful_and_an_empty_class_changes_nothing() -> None:
    rows = np.zeros((40, 60), int)
    rows[:, 30:] = 3
    doubt = np.full(rows.shape, 0.55)
    scores = region_scores(rows, doubt, 4)
    assert scores[:, :25].max() < 1e-5 and scores[20, 30] > 0.9, "pure regions are worth nothing"
    np.testing.assert_array_equal(scores, region_scores(rows * 7, doubt, 4))
    assert region_scores(rows, np.ones(rows.shape), 4).max() < 1e-5, "what is sure (or said by people) is not asked"
    sure_below = np.where(np.arange(40)[:, None] < 20, 0.55, 0.99) * np.ones(rows.shape)
    found = pick_regions(region_scores(rows, sure_below, 4), 4, 10)
    assert found[0][0] < 20 and [score for *_, score in found] == sorted((s for *_, s in found), reverse=True)
    for i, (y, x, _) in enumerate(found):
        assert all(max(abs(y - v), abs(x - u)) > 8 for v, u, _ in found[:i]), "regions do not overlap"


def test_duplicates_are_asked_once_and_classes_take_turns() -> None:
    def one(name: str, value: float, classes: tuple[int, ...], digest: str = "") -> Candidate:
        return Candidate(name, digest or name, name, value, classes)

    found = [
        one("a", 1.0, (1,)),
        one("b", 0.99, (1,)),
        one("c", 0.9, (2,)),
        one("d", 0.98, (1,), "a"),
        one("e", 0.5, ()),
    ]
    grey = np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8)
    picture = Image.fromarray(grey).resize((400, 300), Image.Resampling.BICUBIC)
    alike = {"a": thumbnail(picture), "b": thumbnail(picture.resize((320, 240)).point(lambda v: v * 0.8))}
    alike["c"] = thumbnail(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert [c.asset for c in vary(found, {}, 3, RankConfig())] == ["a", "c", "b"]
    assert [c.asset for c in vary(found, {}, 4, RankConfig(balance=False))] == ["a", "b", "c", "e"]
    assert [c.asset for c in vary(found, alike, 4, RankConfig())] == ["a", "c", "e"]


def test_the_same_random_order_for_the_same_seed_and_errors_before_any_work(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def order(seed: int, name: str) -> list[str]:
        more = ("--order", "random", "--seed", seed, "--output", tmp_path / name)
        call(capsys, "export", "--labels", scene.output, "--to", "coco", "--budget", 2, *more)
        return [image.asset for image in Review.read(str(tmp_path / name)).images.values()]

    orders = [order(seed, f"r{n}") for n, seed in enumerate((1, 1, 2, 3, 4))]
    assert orders[0] == orders[1] and len({tuple(found) for found in orders}) > 1
    (tmp_path / "not.txt").write_text("on its side.jpg\nc d\na b.jpg\n")
    more = ("--exclude", tmp_path / "not.txt", "--output", tmp_path / "rest")
    call(capsys, "export", "--labels", scene.output, "--to", "coco", "--budget", 3, *more)
    assert [image.asset for image in Review.read(str(tmp_path / "rest")).images.values()] == ["a.jpg"]
    told = call(
        capsys, "export", "--labels", scene.output, "--to", "coco", "--budget", 1, "--output", tmp_path / "r0", code=2
    )
    assert "a folder of its own" in told["err"]
    assert "holds no review.json" in call(capsys, "import", "--review", tmp_path, "--file", "x", code=2)["err"]
    assert review.main(["show"]) == 2
