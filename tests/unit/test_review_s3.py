"""Exports and reviews of labels that lie in S3, on a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from label_scene import Scene, make_scene
from s3_server import S3, running

from pipelines import export, review
from pipelines.tables.human import HumanTable, paint


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def scene(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Its photographs lie on disk, its labels in s3://data/out."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    # Clients are kept by the process: those of other tests know a server that is gone, and ours will be.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    scene = make_scene(tmp_path, names=("a.jpg", "b.png"))
    fsspec.filesystem("s3").put(str(scene.output), "data/out", recursive=True)
    yield scene
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def call(capsys: pytest.CaptureFixture[str], main: Any, *arguments: object) -> dict[str, Any]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found: dict[str, Any] = json.loads(printed.out.strip().splitlines()[-1])
    return found


def masks(data: dict[str, Any]) -> dict[str, np.ndarray]:
    """Class ids [H, W] by asset, of a COCO file."""
    from pycocotools import mask as coco

    found = {image["id"]: np.zeros((image["height"], image["width"]), int) for image in data["images"]}
    for one in data["annotations"]:
        found[one["image_id"]][coco.decode(one["segmentation"]) > 0] = one["category_id"]
    return {image["asset"]: found[image["id"]] for image in data["images"]}


def test_labels_in_s3_are_exported_reviewed_and_corrected_there(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    fs, out = fsspec.filesystem("s3"), "s3://data/out"
    done = call(capsys, export.main, "--labels", out, "--to", "coco", "--min_area_px", 1)
    assert done["output"] == f"{out}/exports/coco" and (done["images"], done["skipped"]) == (2, 0)
    exported = json.loads(fs.cat_file("data/out/exports/coco/annotations/instances_train.json"))
    np.testing.assert_equal(masks(exported), scene.maps)
    names = {path.rpartition("/")[2] for path in fs.find("data/out/exports/coco/images")}
    assert names == {"a.jpg", "b.png"}
    assert call(capsys, export.main, "--labels", out, "--to", "coco", "--min_area_px", 1)["written"] is False

    sent = call(capsys, review.main, "export", "--labels", out, "--to", "coco", "--budget", 2)
    folder, file = sent["review"], "s3://data/back.json"
    assert folder.startswith(f"{out}/reviews/") and sent["specks_left_out"] > 0
    data = json.loads(fs.cat_file(f"{folder}/annotations/instances_default.json"))
    arguments = ("import", "--review", folder, "--file", file, "--annotator", "ann")
    fs.pipe_file(file, json.dumps(data).encode())
    assert call(capsys, review.main, *arguments)["unchanged_images"] == 2

    cats = next(one["id"] for one in data["categories"] if one["name"] == "cat")
    image = next(one["id"] for one in data["images"] if one["asset"] == "a.jpg")
    largest = max((one for one in data["annotations"] if one["image_id"] == image), key=lambda one: one["area"])
    largest["category_id"] = 3 - cats if largest["category_id"] == cats else cats
    fs.pipe_file(file, json.dumps(data).encode())
    back = call(capsys, review.main, *arguments)
    assert (back["corrections"], back["pixels"], back["problems"]) == (1, largest["area"], 0)
    assert fs.exists(back["listed"]) and back["listed"].startswith(folder)
    held = HumanTable(f"{out}/human").read({"a.jpg", "b.png"})
    ids, _ = paint(held["a.jpg"], scene.classes, scene.maps["a.jpg"].shape)
    assert set(held) == {"a.jpg"} and (ids >= 0).sum() == largest["area"]
    assert set(np.unique(ids[ids >= 0])) == {largest["category_id"]}
