"""evaluate.py --model: a student that learned to tell red from green, measured on pictures with gold masks."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from small_student import write_gold, write_student

from pipelines import evaluate
from pipelines.evaluation.model import image_iou, read_ahead

COUNT = 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield write_student(tmp_path_factory.mktemp("student"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gold(tmp_path_factory.mktemp("gold") / "set", COUNT)


@pytest.fixture
def output(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "out"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    try:
        code = evaluate.main([*map(str, arguments), "--tracking.enabled", "false", "--device", "cpu"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    lines = printed.out.strip().splitlines()
    return code, json.loads(lines[-1]) if lines else {}, printed.err


def flags(gold: Path) -> tuple[object, ...]:
    return "--gold.uri", gold / "masks", "--gold.images", gold / "photos", "--gold.classes", "voc"


def test_one_json_line_with_the_numbers_and_a_page(
    output: Path, gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, err = run(capsys, "--model", output, *flags(gold))
    assert code == 0, err
    assert found["images"] == COUNT
    assert found["miou"] > 0.75, "a student that has learned to tell red from green"
    assert found["per_class_iou"].keys() == {"background", "cat", "dog"}
    assert found["miou"] == pytest.approx(np.mean(list(found["per_class_iou"].values())), abs=1e-4)
    assert found["miou_voc7"] == pytest.approx(
        np.mean([found["per_class_iou"]["cat"], found["per_class_iou"]["dog"]]), abs=1e-4
    )
    assert found["boundary_f"] == pytest.approx(np.mean(list(found["per_class_boundary_f"].values())), abs=1e-4)
    assert found["boundary_f"] > 0.8
    assert 0 <= found["calibration_error"] < 0.3
    speed = found["images_per_second"]
    assert speed["model"] > speed["total"] > 0
    assert "sheep" in found["unmatched"]["gold"] and found["unmatched"]["model"] == []
    assert "evaluate: 6/6 images" in err and "boundary F" in err
    (stored,) = (output / "evaluations").glob("*/evaluation.json")
    assert json.loads(stored.read_text())["miou"] == found["miou"]
    page = Path(found["page"])
    assert page == stored.with_name("worst.html")
    html = page.read_text()
    assert html.count('class="card"') == COUNT
    assert "Worst images of" in html


def test_the_numbers_are_those_of_the_predictions(output: Path, gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted here by other means: one mean over all judged pixels, picture by picture."""
    from models.students.predict import Predictor

    predictor = Predictor.load(output / "student", "cpu")
    right = judged = 0
    for file in sorted((gold / "photos").iterdir()):
        mask = np.array(Image.open(gold / "masks" / file.name))
        found = predictor(np.array(Image.open(file))).class_map
        right, judged = right + (found == mask)[mask != 255].sum(), judged + (mask != 255).sum()
    assert run(capsys, "--model", output / "student", *flags(gold))[1]["accuracy"] == pytest.approx(
        right / judged, abs=1e-3
    )


def test_flips_and_windows_are_passed_on(output: Path, gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(capsys, "--model", output, *flags(gold))[1]
    flipped = run(capsys, "--model", output, *flags(gold), "--predict.flip")[1]
    windows = run(capsys, "--model", output, *flags(gold), "--predict.window_px", 32)[1]
    assert len({one["miou"] for one in (plain, flipped, windows)}) == 3
    assert min(flipped["miou"], windows["miou"]) > 0.5


def test_the_voc_layout_brings_its_photographs(
    output: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voc = tmp_path / "voc"
    shutil.copytree(gold / "photos", voc / "JPEGImages")
    shutil.copytree(gold / "masks", voc / "SegmentationClassAug")
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("00\n03\n")
    page = tmp_path / "pages/own.html"
    code, found, err = run(
        capsys, "--model", output, "--gold.uri", f"voc:{voc}", "--gold.split", "val", "--page", page, "--page_images", 1
    )
    assert (code, found["images"]) == (0, 2), err
    assert Path(found["page"]) == page
    assert page.read_text().count('class="card"') == 1


def test_bad_usage_says_what_to_change(
    output: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = ("--gold.uri", gold / "masks", "--gold.classes", "voc")
    (tmp_path / "few").mkdir()
    shutil.copy(gold / "photos/00.png", tmp_path / "few")
    cases = [
        (flags(gold), "give --labels, for published labels, or --model"),
        (("--labels", output, "--model", output, *flags(gold)), "one of the two"),
        (("--model", output, "--snapshot", 3, *flags(gold)), "--snapshot means nothing with --model"),
        (("--labels", output, "--page", "x.html", *flags(gold)), "--page, --gold.images means nothing with --labels"),
        (("--model", output, *masks), "--gold.images: say in which folder"),
        (("--model", output, *masks, "--gold.images", tmp_path / "absent"), "there is no folder"),
        (("--model", output, *masks, "--gold.images", tmp_path / "few"), "5 of 6 masks have no photograph"),
        (("--model", tmp_path / "absent", *flags(gold)), "no such file or folder"),
        (("--model", tmp_path, *flags(gold)), "there is no student"),
        (("--model", output, "--gold.uri", gold / "masks", "--gold.classes", "zebra"), "no class of the gold masks"),
    ]
    for arguments, message in cases:
        code, found, err = run(capsys, *arguments)
        assert (code, found) == (2, {}), err
        assert message in err


def test_pictures_that_do_not_fit_are_named(
    output: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(gold, tmp_path / "other"))
    Image.new("RGB", (40, 40)).save(other / "photos/02.png")
    code, _, err = run(capsys, "--model", output, *flags(other))
    assert (code, "02.png covers (40, 40) pixels, its gold mask" in err) == (1, True), err
    (other / "photos/02.png").write_bytes(b"no image")
    code, _, err = run(capsys, "--model", output, *flags(other))
    assert (code, "02.png: no known image format" in err) == (1, True), err
    (output / "student/model.safetensors").write_bytes(b"damaged")
    code, _, err = run(capsys, "--model", output, *flags(gold))
    assert (code, "model.safetensors" in err) == (1, True), err


def identity() -> "onnx.ModelProto":
    """Something that MLflow can log; evaluations use the files that lie beside it."""
    shape = ["batch", 3, "height", "width"]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("images", "logits")]
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "student", ends[:1], ends[1:])
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])


def test_a_registered_student_is_evaluated_and_mlflow_is_told(
    output: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from pipelines.tracking import Tracker, experiment_name

    monkeypatch.setenv("MASKSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'tracking.db'}")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(output / "student", tmp_path / "student")
    onnx.save(identity(), tmp_path / "student" / "student.onnx")
    with Tracker("students", "training", str(output), str(tmp_path)) as tracker:
        tracker.model(str(tmp_path / "student"), 64, "small", "a student")
    client = MlflowClient()
    client.set_registered_model_alias("small", "champion", "1")

    code = evaluate.main([*map(str, ("--model", "models:/small@champion", *flags(gold))), "--device", "cpu"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = json.loads(printed.out.strip().splitlines()[-1])
    assert found["miou"] == run(capsys, "--model", output, *flags(gold))[1]["miou"]
    assert Path(found["page"]).is_relative_to(tmp_path / "out")
    experiment = client.get_experiment_by_name(experiment_name(str(gold / "masks")))
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.metrics["miou"] == pytest.approx(found["miou"])
    assert logged.data.metrics["per_class_iou/cat"] == pytest.approx(found["per_class_iou"]["cat"])
    assert logged.data.metrics["images_per_second/total"] == pytest.approx(found["images_per_second"]["total"])
    assert logged.data.tags["model.digest"] == found["digest"]
    assert logged.data.params["model"] == "models:/small@champion"
    artifacts = {artifact.path for artifact in client.list_artifacts(logged.info.run_id)}
    assert {"worst.html", "evaluation.json", "worst"} <= artifacts


def test_iou_of_one_image() -> None:
    gold, found = np.array([[0, 0, 1, 1], [-1, -1, -1, 2]]), np.array([[0, 0, 1, 0], [1, 1, 1, 3]])
    mean, per_class = image_iou(gold, found, 3)
    assert per_class == {0: pytest.approx(2 / 3), 1: pytest.approx(1 / 2), 2: 0.0}
    assert mean == pytest.approx(np.mean([2 / 3, 1 / 2, 0]))
    assert image_iou(np.full((2, 2), -1), np.zeros((2, 2), int), 3) == (1.0, {})


def test_reading_ahead_keeps_the_order_and_passes_errors_on() -> None:
    assert list(read_ahead(lambda n: n * 2, range(100))) == list(range(0, 200, 2))
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda n: 1 // n, [1, 0, 1]))
