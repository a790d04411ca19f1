"""evaluate.py on published tables written by hand: what it prints, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from published import publish, rectangle, write_gold

from pipelines import evaluate
from pipelines.classes import ClassSet
from pipelines.tables.labels import LabelTable


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    try:
        given = [*map(str, arguments), "--baselines", "false", "--tracking.enabled", "false"]
        code = evaluate.main(given)
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    lines = printed.out.strip().splitlines()
    return code, json.loads(lines[-1]) if lines else {}, printed.err


@pytest.fixture
def output(tmp_path: Path) -> Path:
    publish(tmp_path / "out", {"a.jpg": rectangle(5, 2), "deep/b.jpg": rectangle(0, 2), "c.jpg": rectangle(2, 2)})
    return tmp_path / "out"


def test_one_json_line_with_the_numbers(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # VOC's ids: 8 is a cat, 12 a dog. c.jpg has no gold, d no label.
    write_gold(tmp_path / "gold", {"a": rectangle(8, 8), "b": rectangle(0, 12), "d": rectangle(8, 8)})
    code, found, err = run(capsys, "--labels", output, "--gold.uri", tmp_path / "gold", "--gold.classes", "voc")
    assert code == 0
    assert (found["images"], found["missing"], found["missing_names"]) == (2, 1, ["d"])
    assert {n: v for n, v in found["per_class_iou"].items() if v is not None} == {
        "background": 1.0, "cat": 0.5, "dog": 0.5,
    }  # fmt: skip
    assert found["miou"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["miou_voc7"] == 0.5
    assert found["coverage"] == 0.5
    assert found["kept"]["miou"] == 1.0
    assert found["kept_share"] == {"background": 1.0, "cat": 0.5, "dog": 0.0}
    assert "sheep" in found["unmatched"]["gold"]
    assert found["baselines"] is None
    assert "2 images, 1 without a label" in err
    (stored,) = (output / "evaluations").glob("*/evaluation.json")
    assert json.loads(stored.read_text())["miou"] == found["miou"]


def test_an_older_snapshot_can_be_asked_for(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gold(tmp_path / "gold", {"a": rectangle(5, 5)})
    before = LabelTable(str(output / "labels")).version()
    publish(output, {"a.jpg": rectangle(5, 5)}, run_id="r2")
    arguments = ("--labels", output, "--gold.uri", tmp_path / "gold")
    assert run(capsys, *arguments)[1]["per_class_iou"]["cat"] == 1.0
    code, old, _ = run(capsys, *arguments, "--snapshot", before)
    assert (code, old["snapshot"], old["per_class_iou"]["cat"]) == (0, before, 0.5)


def test_what_cannot_be_compared_is_refused(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = tmp_path / "gold"
    write_gold(gold, {"a": [[8] * 8] * 5})
    arguments = ("--labels", output, "--gold.uri", gold)
    code, found, err = run(capsys, *arguments, "--gold.classes", "voc")
    assert (code, found) == (1, {})
    assert "a.jpg: the label covers (4, 8) pixels, its gold mask (5, 8)" in err
    code, _, err = run(capsys, *arguments, "--gold.classes", "zebra")
    assert (code, "no class of the gold masks" in err) == (2, True)
    code, _, err = run(capsys, "--labels", tmp_path / "nothing", "--gold.uri", gold)
    assert (code, "has no published labels" in err) == (2, True)
    code, _, err = run(capsys, *arguments, "--gold.splt", "val")
    assert (code, "gold.split" in err) == (2, True)
    (gold / "a.png").rename(gold / "z.png")
    code, _, err = run(capsys, *arguments)
    assert (code, "none of the 1 gold masks" in err) == (2, True)


def test_two_labels_for_one_mask_are_refused(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gold(tmp_path / "gold", {"a": rectangle(5, 5)})
    publish(output, {"other/a.jpg": rectangle(5, 5)}, run_id="r2")
    code, _, err = run(capsys, "--labels", output, "--gold.uri", tmp_path / "gold")
    assert (code, "two labels belong to the gold mask 'a'" in err) == (2, True)


def test_labels_of_two_class_sets_are_compared_by_name_or_refused(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gold(tmp_path / "gold", {"a": rectangle(8, 12), "c": rectangle(12, 12)})
    arguments = ("--labels", output, "--gold.uri", tmp_path / "gold", "--gold.classes", "voc")
    publish(
        output, {"c.jpg": rectangle(40, 40)}, "r2", ClassSet.from_dict([{"id": 40, "name": "dog"}, {"name": "cat"}])
    )
    code, found, err = run(capsys, *arguments)
    assert (code, found.get("miou")) == (0, 1.0), err  # other ids, the same names
    publish(output, {"c.jpg": rectangle(1, 1)}, "r3", ClassSet.load("dog"))
    code, _, err = run(capsys, *arguments)
    assert (code, "know other classes than the newest ones" in err) == (2, True)
