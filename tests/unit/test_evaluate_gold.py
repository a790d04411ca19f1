"""Gold masks: found, read, matched by class name, counted right. All on masks small enough to count by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.gold import IGNORED, Gold, match, open_gold, read_names
from pipelines.evaluation.score import Score

VOC = ClassSet.load("voc")


def write_mask(path: Path, ids: list[list[int]], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(ids, np.uint8))
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def voc_layout(root: Path) -> Path:
    for name in ("one", "two", "three"):
        write_mask(root / f"SegmentationClassAug/{name}.png", [[0, 8], [255, 12]], palette=True)
        (root / "JPEGImages").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / f"JPEGImages/{name}.jpg")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("one\nthree\n")
    return root


def opened(uri: str, split: str | None = None, **options: object) -> Gold:
    given = {"classes": None, "default": VOC, "ignore": 255, "only": None, "exclude": (), **options}
    return open_gold(uri, split, **given)  # type: ignore[arg-type]


def test_voc_split_list_and_exclusion(tmp_path: Path) -> None:
    root = voc_layout(tmp_path)
    assert set(opened(f"voc:{root}").masks) == {"one", "two", "three"}
    gold = opened(f"voc:{root}", "val")
    assert set(gold.masks) == {"one", "three"}
    assert gold.read("one").tolist() == [[0, 8], [255, 12]]  # palette indices, not colours
    assert gold.name_of("JPEGImages/three.jpg") == "three"
    assert gold.name_of("JPEGImages/two.jpg") is None
    (tmp_path / "names.txt").write_text("one.jpg\n\nthree 1\n")
    names = list(read_names(str(tmp_path / "names.txt")))
    assert names == ["one", "three"]
    assert set(opened(f"voc:{root}", None, exclude=names).masks) == {"two"}
    assert set(opened(f"voc:{root}", None, only=["two"]).masks) == {"two"}


def test_folder_of_masks_in_subfolders(tmp_path: Path) -> None:
    write_mask(tmp_path / "a/same.png", [[1]])
    write_mask(tmp_path / "b/same.png", [[2]])
    write_mask(tmp_path / "b/own.png", [[3]])
    gold = opened(str(tmp_path))
    assert gold.name_of("a/same.jpg") == "a/same"
    assert gold.name_of("elsewhere/own.webp") == "b/own"
    assert gold.name_of("elsewhere/same.jpg") is None  # two masks have that name


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    root = voc_layout(tmp_path / "voc")
    with pytest.raises(UsageError, match=r"no split 'vla'; its splits: val"):
        opened(f"voc:{root}", "vla")
    with pytest.raises(UsageError, match=r"names 1 images without a mask, such as 'four'"):
        opened(f"voc:{root}", None, only=["four"])
    with pytest.raises(UsageError, match="no gold mask"):
        opened(f"voc:{root}", "val", exclude=["one", "three"])
    (root / "SegmentationClassAug/three.png").unlink()
    with pytest.raises(UsageError, match=r"1 images of the split have no gold mask, such as 'three'"):
        opened(f"voc:{root}", "val")
    Image.new("RGB", (2, 2)).save(root / "SegmentationClassAug/rgb.png")
    with pytest.raises(ValueError, match="not one class id a pixel"):
        opened(f"voc:{root}").read("rgb")
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_names(str(tmp_path / "absent.txt")))


def test_classes_are_matched_by_name_not_by_id() -> None:
    label = ClassSet.from_dict(
        [{"id": 900, "name": "Dog"}, {"id": 3, "name": "feline", "synonyms": ["cat"]}, {"id": 4, "name": "unicorn"}]
    )
    matching = match(VOC, label, ignore=255)
    assert matching.names == ("background", "cat", "dog")
    assert "sheep" in matching.only_gold
    assert matching.only_label == ("unicorn",)
    gold = matching.gold(np.array([0, 8, 12, 17, 255, 99, -5]))
    assert gold.tolist() == [0, 1, 2, 0, IGNORED, IGNORED, IGNORED]  # a sheep is background to these labels
    assert matching.label(np.array([0, 3, 900, 4, 40000])).tolist() == [0, 1, 2, 3, 3]


def test_class_sets_without_background_and_without_anything_in_common() -> None:
    camvid = ClassSet.load("camvid")
    assert camvid.background is None
    matching = match(camvid, camvid, ignore=255)
    assert len(matching.names) == 11
    assert matching.gold(np.array([0, 10, 11])).tolist() == [0, 10, IGNORED]  # 11 is void
    with pytest.raises(UsageError, match="no class of the gold masks"):
        match(VOC, ClassSet.load("zebra, giraffe"), ignore=255)
    doubled = ClassSet.from_dict([{"id": 1, "name": "cat", "synonyms": ["dog"]}])
    with pytest.raises(UsageError, match="two gold classes match the label class 'cat'"):
        match(VOC, doubled, ignore=255)


def test_scores_counted_by_hand() -> None:
    names = ("background", "cat", "dog", "boat")
    score = Score(names)
    gold = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, IGNORED, 2, 2, 2]])
    label = np.array([[0, 0, 0, 0, 1, 1, 0, 4], [0, 0, 0, 1, 1, 2, 2, 2]])
    # One confidence for four pixels: the left half is sure, the right one is not.
    score.update(gold, label, np.array([[200, 100]], np.uint8), keep_threshold=200 / 255)
    found = score.result()
    assert found["per_class_iou"] == {
        "background": pytest.approx(7 / 9, abs=1e-5),  # 7 right, 1 taken by cat, 1 pixel of cat called background
        "cat": pytest.approx(2 / 5, abs=1e-5),  # 2 right, 2 lost, 1 too many; what is not judged does not count
        "dog": 1.0,
        "boat": None,
    }
    assert found["miou"] == pytest.approx((7 / 9 + 2 / 5 + 1) / 3, abs=1e-5)
    assert found["miou_voc7"] == pytest.approx((2 / 5 + 1) / 2, abs=1e-5)
    assert found["accuracy"] == pytest.approx(12 / 15, abs=1e-5)
    assert found["coverage"] == pytest.approx(8 / 15, abs=1e-5)
    assert found["kept_share"] == {"background": 1.0, "cat": 0.0, "dog": 0.0, "boat": None}
    assert found["kept"]["per_class_iou"] == {"background": 0.875, "cat": None, "dog": None, "boat": None}
    assert found["kept"]["miou_voc7"] is None
    expected = (8 * abs(200 / 255 - 7 / 8) + 7 * abs(100 / 255 - 5 / 7)) / 15
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-4)


def test_miou_voc7_is_null_without_those_classes() -> None:
    score = Score(("background", "boat"))
    score.update(np.ones((4, 4), int), np.ones((4, 4), int), np.full((1, 1), 9, np.uint8), 0.0)
    assert score.result()["miou"] == 1.0
    assert score.result()["miou_voc7"] is None


def test_a_folder_that_is_not_there_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*/mask$"):
        open_gold(f"{tmp_path}/mask", None, None, ClassSet.load("cat"), 255, None, ())
