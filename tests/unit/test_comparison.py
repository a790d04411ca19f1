"""compare.py on small real tables and students: what differs, what is put together, what is counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from published import CLASSES, publish, rectangle, write_gold
from small_student import write_gold as write_photographs
from small_student import write_student

from pipelines import evaluate
from pipelines.classes import ClassSet
from pipelines.evaluation.gold import IGNORED
from pipelines.stages.decide import png
from pipelines.tables.labels import SCHEMA, LabelTable
from pipelines.tables.lookup import Lookup
from pipelines.training.config import TrainConfig
from tuning import compare
from tuning.comparison.classes import translate, unite
from tuning.comparison.flow import Flow
from tuning.comparison.numbers import Row, Spread, _gold
from tuning.comparison.settings import class_changes, groups
from tuning.comparison.sides import Side, common_start, short_names


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    try:
        code, result = compare.run([*map(str, arguments), "--tracking.enabled", "false"])
    except SystemExit as stop:
        code, result = int(stop.code or 0), None
    return code, result or {}, capsys.readouterr().err


def told(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(result["numbers"]).read_text())
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Snapshot 1: three images. Snapshot 2: of one of them, the cat on the left is a dog now."""
    publish(tmp_path / "out", {"a.jpg": rectangle(5, 2), "b.jpg": rectangle(0, 2), "c.jpg": rectangle(2, 2)})
    publish(tmp_path / "out", {"a.jpg": rectangle(2, 2), "d.jpg": rectangle(5, 5)}, "r2")
    return tmp_path / "out"


def test_two_snapshots(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, err = run(capsys, f"{output}@1", output)
    assert code == 0, err
    numbers = told(result)
    assert [side["facts"]["snapshot"] for side in numbers["sides"]] == [1, 2]
    (flow,) = numbers["flows"]
    assert (flow["images"], flow["changed_images"]) == (3, 1)
    assert (flow["pixels"], flow["changed_pixels"]) == (3 * 32, 16)
    assert flow["moves"] == [{"before": "cat", "after": "dog", "pixels": 16}]
    assert result["changed_pixels"] == [16] and result["images"] == 3
    assert numbers["settings"] == {}
    assert "1 images only in out@2: d.jpg" in err and "cat" in err
    assert "each over all of a side's own images (out@1 3, out@2 4)" in err
    assert numbers["per_class"]["what"] == "mean share of an image, over each side's own images"
    assert flow["causes"] == [], "these rows do not say what they came from"
    assert Path(result["page"]).parent.parent == output / "comparisons"
    html = Path(result["page"]).read_text()
    assert html.count('class="card"') == 1 and "None that could change a result." in html


def test_judged_anew_as_evaluate_does(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """d.jpg is only in the second: it is judged on no side."""
    gold = tmp_path / "gold"
    write_gold(gold, {"a": rectangle(8, 12), "c": rectangle(12, 0), "d": rectangle(8, 8)})
    flags = ("--gold.uri", gold, "--gold.classes", "voc", "--page", tmp_path / "page.html")
    code, result, err = run(capsys, f"{output}@1", f"{output}@2", *flags)
    assert code == 0, err
    write_gold(tmp_path / "both", {"a": rectangle(8, 12), "c": rectangle(12, 0)})
    for place, version in enumerate((1, 2)):
        given = ("--labels", output, "--snapshot", version, "--gold.uri", tmp_path / "both", "--gold.classes", "voc")
        evaluate.main([*map(str, given), "--baselines", "false", "--tracking.enabled", "false"])
        expected = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        newest = max((output / "evaluations").iterdir())
        newest.rename(newest.with_name(f"{newest.name}-{version}"))  # its name only has the second
        pairs = {"mIoU": "miou", "right pixels": "accuracy", "calibration error": "calibration_error",
                 "kept pixels": "coverage", "boundary F, 3 px": "boundary_f", "judged images": "images"}  # fmt: skip
        for name, key in pairs.items():
            assert result["metrics"][name][place] == pytest.approx(expected[key], abs=1e-5), name
    assert result["page"] == str(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "only out@1 is right" in html and "Coverage against precision" in html
    # The next time, without gold, what was stored is shown.
    _, again, err = run(capsys, f"{output}@1", f"{output}@2", "--page", tmp_path / "again.html")
    assert again["metrics"]["mIoU"] == result["metrics"]["mIoU"], err
    assert "Stored evaluations on" in err


def test_labels_that_came_from_the_same_are_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their pixels are counted from their areas; here these lie, so that it shows who was asked."""
    output = tmp_path / "out"
    publish(output, {"a.jpg": rectangle(5, 2), "b.jpg": rectangle(5, 2)})
    table = LabelTable(str(output / "labels"))
    rows = [row for batch in table.newest(SCHEMA.names) for row in batch.to_pylist()]
    for sequence, name in ((10**17, "again"), (10**17 + 1, "once more")):
        for row in rows:
            key = "same" if row["asset"] == "a.jpg" else name
            areas = [{"class_id": 5, "name": "cat", "area": 1.0, "kept": 0.5}]
            row.update(sequence=sequence, label_key=key, height=4, width=8, areas=areas)
        table.append(f"{name}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    code, result, err = run(capsys, f"{output}@2", f"{output}@3")
    assert code == 0, err
    assert "1 of 2 images that all have are opened" in err
    (flow,) = told(result)["flows"]
    assert (flow["images"], flow["pixels"], flow["changed_pixels"]) == (2, 64, 0)


def test_what_people_corrected_is_named_as_a_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    publish(output, {"a.jpg": rectangle(5, 2), "b.jpg": rectangle(5, 2), "c.jpg": rectangle(5, 2)})
    table = LabelTable(str(output / "labels"))
    rows = {row["asset"]: row for batch in table.newest(SCHEMA.names) for row in batch.to_pylist()}
    said = {
        "a.jpg": {"human_digest": "h", "cause": "human"},
        "b.jpg": {"decide_digest": "other", "cause": "new decision"},
        "c.jpg": {"decide_digest": "other", "cause": "new decision"},
    }
    for sequence, name in ((10**17, "before"), (10**17 + 1, "after")):
        for asset, row in rows.items():
            row.update(sequence=sequence, label_key=name + asset, human_digest="", decide_digest="d")
            if name == "after":
                row.update(said[asset], class_map=png(np.array(rectangle(2 if asset != "c.jpg" else 5, 2), np.uint8)))
        table.append(f"{name}.parquet", pa.Table.from_pylist(list(rows.values()), schema=SCHEMA))
    code, result, err = run(capsys, f"{output}@2", f"{output}@3")
    assert code == 0, err
    (flow,) = told(result)["flows"]
    assert flow["causes"] == [
        {"cause": "human: corrections", "images": 1, "changed_pixels": 16},
        {"cause": "new decision: decide-config", "images": 1, "changed_pixels": 16},
    ]
    assert "human: corrections" in err and "own images" not in err
    assert "human: corrections" in Path(result["page"]).read_text()


def test_classes_of_several_sets_are_compared_by_name(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ClassSet.from_dict([{"id": 40, "name": "dog", "prompts": ["hound"]}, {"id": 3, "name": "zebra"}])
    publish(output, {name: rectangle(40, 3) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")}, "r3", other)
    code, result, err = run(capsys, f"{output}@2", output)
    assert code == 0, err
    numbers = told(result)
    assert numbers["class_changes"]["out@3"] == [
        "zebra is new", "cat is gone", "dog: id 2 → 40", "dog: prompts dog → hound",
    ]  # fmt: skip
    moves = {(m["before"], m["after"]): m["pixels"] for m in numbers["flows"][0]["moves"]}
    assert moves == {
        ("dog", "zebra"): 48, ("cat", "dog"): 16, ("cat", "zebra"): 16, ("background", "dog"): 16,
    }  # fmt: skip


def test_students_on_masks_and_on_photographs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = write_photographs(tmp_path / "gold", 3)
    for seed, steps in ((0, 1), (1, 12), (2, 3)):
        folder = tmp_path / f"runs/seed-{seed}"
        write_student(folder, steps)
        settings = TrainConfig(output=str(folder), labels="out", seed=seed).model_dump(mode="json")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    runs = sorted((tmp_path / "runs").iterdir())
    flags = ("--gold.uri", gold / "masks", "--gold.images", gold / "photos", "--gold.classes", "voc")
    code, result, err = run(capsys, *runs, *flags)
    assert code == 0, err
    numbers = told(result)
    assert [(group["name"], len(group["runs"])) for group in result["groups"]] == [("runs (3 seeds)", 3)]
    assert numbers["settings"] == {"seed": ["0", "1", "2"]} and set(numbers["elsewhere"]) == {"output"}
    (miou,) = numbers["tables"][next(iter(numbers["tables"]))]["mIoU"]
    assert len(miou["values"]) == 3
    assert miou["sd"] == pytest.approx(np.std(miou["values"], ddof=1))
    evaluate.main([*map(str, ("--model", runs[1], *flags, "--device", "cpu")), "--tracking.enabled", "false"])
    expected = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert miou["values"][1] == pytest.approx(expected["miou"], abs=1e-5)
    assert len(numbers["flows"]) == 2 and "two answers" in Path(result["page"]).read_text()

    code, result, err = run(capsys, *runs[:2], "--gold.images", gold / "photos", "--page", tmp_path / "p.html")
    assert (code, result.get("images")) == (0, 3), err
    code, result, err = run(capsys, *runs[:2], "--page", tmp_path / "p.html")
    assert (code, result.get("images")) == (0, 0)
    assert "--gold.images (photographs alone)" in err


def test_bad_usage_names_what_to_change(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "gold").mkdir()
    cases: list[tuple[tuple[object, ...], str]] = [
        ((output,), "two or more runs or snapshots"),
        ((output, output), "is given twice; an older snapshot is OUT@VERSION"),
        ((output, f"{output}@9"), "the newest snapshot of"),
        ((output, f"{output}@0"), "snapshot 0 of"),
        ((output, tmp_path / "nowhere"), "nor is this the id of an MLflow run"),
        ((output, tmp_path / "empty"), "holds neither labels"),
        ((output, "0123456789abcdef" * 2), "--tracking.uri names the store that has it"),
        ((output, f"{output}@1", "--gold.uri", tmp_path / "gold"), "there is no gold mask in"),
        ((output, f"{output}@1", "--gold.splt", "val"), "did you mean gold.split"),
    ]
    for arguments, message in cases:
        code, found, err = run(capsys, *arguments)
        assert (code, found) == (2, {}), (arguments, err)
        assert message in err, (arguments, err)


def side(name: str, **settings: str) -> Side:
    return Side(name, name, "student", settings, {}, {})


def test_only_the_seed_puts_runs_together() -> None:
    sides = [
        side("a/seed-0", seed="0", lr="1", output="x"), side("b", seed="0", lr="2"),
        side("a/seed-1", seed="1", lr="1", output="y"), side("a/again", seed="1", lr="1"), side("c", lr="1"),
    ]  # fmt: skip
    assert [(one.name, one.members) for one in groups(sides)] == [
        ("a (2 seeds)", (0, 2)), ("b", (1,)), ("a/again", (3,)), ("c", (4,)),
    ]  # fmt: skip


def test_names() -> None:
    assert short_names(["/x/y/a/seed-0", "/x/y/b/seed-0"]) == ["a/seed-0", "b/seed-0"]
    assert short_names(["/x/out@1", "/x/out@2", "run"]) == ["/x/out@1", "/x/out@2", "run"]
    assert short_names(["night", "night"]) == ["night", "night (2)"]
    assert common_start(["a/seed-0", "a/seed-1"]) == "a"


def test_united_classes_and_flow() -> None:
    felines = ClassSet.from_dict([{"id": 7, "name": "feline", "synonyms": ["cat"]}, {"id": 9, "name": "tree"}])
    common = unite([CLASSES, felines])
    assert common.names[:-1] == ["background", "dog", "cat", "tree"]
    assert translate(common.table(felines), np.array([0, 7, 9, 300, 8])).tolist() == [0, 2, 3, 4, 4]
    flow = Flow(len(common.names))
    flow.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 3]]))
    flow.same({0: 6}, 2)
    assert [(m.before, m.after, m.pixels) for m in flow.moves()] == [(0, 1, 1), (1, 3, 1)]
    assert flow.moves()[0].of_before == 1 / 8 and flow.moves()[0].of_after == 1 / 2
    assert (flow.images, flow.changed_images, flow.changed_share) == (3, 1, 2 / 10)
    assert flow.busiest() == [0, 1, 3]
    assert class_changes(CLASSES, CLASSES) == []


def test_rows_by_asset_whatever_the_order_and_the_cache(output: Path) -> None:
    table = LabelTable(str(output / "labels"))
    for cache_mb in (0, 256):
        lookup = Lookup(table, ("run_id",), ["a.jpg", "b.jpg", "d.jpg"], cache_mb=cache_mb)
        assert sorted(lookup.assets) == ["a.jpg", "b.jpg", "d.jpg"]
        assert [lookup[asset]["run_id"] for asset in ("a.jpg", "b.jpg", "d.jpg", "a.jpg")] == ["r2", "r1", "r2", "r2"]
    assert Lookup(table, ("run_id",), ["a.jpg"], version=1)["a.jpg"]["run_id"] == "r1"
    with pytest.raises(KeyError, match=r"'d\.jpg' has no row in version 1"):
        Lookup(table, ("run_id",), ["d.jpg"], version=1)


def test_what_the_difference_layer_says() -> None:
    from pipelines.evaluation.gold import match
    from tuning.comparison.cards import Differing, judge_all

    common = unite([CLASSES])
    found = [np.array([[0, 1, 1, 1, 2]], np.int32), np.array([[0, 0, 2, 2, 0]], np.int32)]
    plain = Differing(common, ["A", "B"], None, 5)
    assert plain.difference(found, None).tolist() == [[0, 1, 3, 3, 1]]
    matching = match(CLASSES, common.classes, 255)
    gold = np.array([[0, 1, 2, 0, IGNORED]], np.int32)
    # Gold counts in the order of its own class set, which is by id: dog 1, cat 2.
    judged = judge_all(matching, gold, found)
    assert Differing(common, ["A", "B"], matching, 5).difference(found, judged).tolist() == [[0, 1, 2, 3, 4]]
    three = [*found, np.array([[0, 2, 1, 1, 1]], np.int32)]
    assert Differing(common, ["A", "B", "C"], None, 5).difference(three, None).tolist() == [[0, 2, 1, 1, 2]]


def test_a_verdict_is_more_than_chance() -> None:
    def row(*groups: tuple[float, ...], tests: int = 1) -> Row:
        return Row("mIoU", 1, tuple(Spread(values) for values in groups), tests)

    seeds = (0.50, 0.51, 0.52)
    assert row(seeds, (0.60, 0.61, 0.62)).verdict(1) == "better"
    assert row(seeds, (0.60, 0.61, 0.62), tests=1000).verdict(1) == "", "one of a thousand looks may do that"
    assert row(seeds, (0.535,)).verdict(1) == "", "2.5 standard deviations: a fourth seed of the same may do that"
    assert row(seeds, (0.40,)).verdict(1) == "worse"
    assert row((0.5, 0.5), (0.6, 0.6)).verdict(1) == "", "equal seeds say nothing of what seeds differ by"
    assert row((0.5,), (0.6,)).verdict(1) == ""


def test_evaluations_of_other_masks_do_not_stand_beside_each_other() -> None:
    one = {"gold": "masks", "split": None, "gold_digest": "a"}
    assert _gold(one) == _gold(dict(one)) != _gold({**one, "gold_digest": "b"})
