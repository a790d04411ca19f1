"""evaluate.py on labels that the job made: baselines are decided again from the stored evidence, MLflow is told."""

import json
from pathlib import Path

import numpy as np
import pytest
from jobs import Job, write_crops
from PIL import Image

from models.decide.config import HEAT_ONLY
from pipelines import evaluate
from pipelines.tracking import experiment_name


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Six photographs in the VOC layout; the object (8: cat, 12: dog) is a rectangle off the centre."""
    root = tmp_path / "voc"
    names = write_crops(root / "JPEGImages", 6)
    (root / "SegmentationClassAug").mkdir()
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(name.removesuffix(".jpg") for name in names))
    for number, name in enumerate(names):
        width, height = Image.open(root / "JPEGImages" / name).size
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2, : width // 2] = (8, 12)[number % 2]
        mask[-2:] = 255
        Image.fromarray(mask).save(root / f"SegmentationClassAug/{name.removesuffix('.jpg')}.png")
    return root


def test_labels_beside_what_they_must_beat(
    job: Job, layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    output = tmp_path / "out" / "labels-of-voc"
    arguments = ("--corpus", f"voc:{layout}", "--split", "val", "--weak", "tags", "--output", output)
    heat_alone = [text for name, value in HEAT_ONLY.items() for text in (f"--decide.{name}", value)]
    done = job(*arguments, *heat_alone)
    assert done.code == 0, done.err
    code = evaluate.main(["--labels", str(output), "--gold.uri", f"voc:{layout}", "--gold.split", "val"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = json.loads(printed.out.strip().splitlines()[-1])
    assert (found["images"], found["missing"]) == (6, 0)
    assert found["snapshot"] == done.result["snapshot"]
    assert {n for n, v in found["per_class_iou"].items() if v is not None} == {"background", "cat", "dog"}
    # These labels were made from heat alone, so deciding again from the evidence must give the very same numbers.
    heat = found["baselines"]["heat"]
    assert (heat["miou"], heat["miou_voc7"]) == (found["miou"], found["miou_voc7"])
    assert 0 < found["baselines"]["centre_prior"]["miou"] < 1
    assert found["baselines"]["images"] == 6

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output.parent}/mlflow.db")
    experiment = client.get_experiment_by_name(experiment_name(f"voc:{layout}"))
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.metrics["miou"] == pytest.approx(found["miou"])
    assert logged.data.metrics["baselines/heat/miou"] == pytest.approx(heat["miou"])
    assert logged.data.params["gold.split"] == "val"
    assert f"version-{found['snapshot']}" in {one.dataset.digest for one in logged.inputs.dataset_inputs}
