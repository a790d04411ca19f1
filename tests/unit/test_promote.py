"""Promotions on a real registry: the better one is promoted, the worse refused with the reason, and rolled back."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_student import CLASSES, WIDTH, write_gold, write_student

from models.decide.config import DecideConfig
from models.students.card import load_card, load_student, save_student
from models.students.onnx import export_onnx
from pipelines import evaluate
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError, parse
from pipelines.references import resolve_student, student_digest
from pipelines.tracking import Tracker
from pipelines.tracking_store import ENVIRONMENT
from tuning import promote
from tuning.promotion.gate import Judged, PromotionGate, Side, verdict

NAMES = ",".join(entry["name"] for entry in CLASSES[1:])
#: Seed, and how much noise is added to the weights of one trained student.
STUDENTS = {"good": (40, 0.0), "better": (60, 0.001), "bad": (3, 0.5)}


def judged(metric: float | None, **classes: float | None) -> Judged:
    return Judged("run", metric, classes)


def test_the_version_and_the_mean_of_its_seeds_must_both_be_better() -> None:
    old = Side([judged(0.60), judged(0.58)])
    gate = PromotionGate(minimum_gain=0.01)
    assert verdict(gate, Side([judged(0.62), judged(0.62)]), old) == []
    (lucky,) = verdict(gate, Side([judged(0.65), judged(0.50)]), old)
    assert lucky.startswith("mean miou of 2 seeds against 2 0.5900 -> 0.5750")
    (unlucky,) = verdict(gate, Side([judged(0.59), judged(0.70)]), old)
    assert unlucky.startswith("miou 0.6000 -> 0.5900 is a gain of -0.0100; at least +0.0100 is needed")


def test_seeds_classes_and_what_was_not_measured() -> None:
    gate = PromotionGate(seeds_at_least=3, no_class_worse_than=0.05)
    new, old = Side([judged(0.7, cat=0.9, dog=0.4)]), Side([judged(0.6, cat=0.5, dog=0.5)])
    assert verdict(gate, new, old) == [
        "number of seeds 1 is below 3",
        "class dog: IoU 0.5000 -> 0.4000 falls by 0.1000; 0.0500 at most",
    ]
    assert verdict(PromotionGate(), new, None) == []
    assert verdict(PromotionGate(metric="boundary_f"), Side([judged(None)]), None) == ["boundary_f was not measured"]
    assert verdict(PromotionGate(), Side([judged(0.7), judged(None)]), old) == [
        "mean miou of 2 seeds against 1 was not measured (new value missing)"
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a registry, gold, and students whose trainings and evaluations are in the registry's store."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.setenv("MASKSTREAM_CACHE", str(root / "cache"))
        write_gold(root / "gold", 4)
        write_gold(root / "other", 2, seed=5)
        write_student(root / "first", 40)
        export_onnx(_built(root / "first"), root / "first" / "student" / "student.onnx", WIDTH)
        ids = {name: train(root, name, *how) for name, how in STUDENTS.items()}
        (root / "runs.json").write_text(json.dumps(ids))
        yield root


def train(root: Path, name: str, seed: int, noise: float, experiment: str = "shapes", run_id: str = "") -> str:
    """A student, and its training as train_student.py logs it; evaluated by evaluate.py. Returns the MLflow run.

    run_id: of one that goes on, as a search does."""
    output = Path(shutil.copytree(root / "first", root / name))
    student = _built(output)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in student.parameters():
            weight += noise * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    save_student(output / "student", student, load_card(output / "student"))
    folder = str(output)
    with Tracker(experiment, name, folder, folder, say=lambda _: None, system=False, run_id=run_id) as tracker:
        tracker.params({"seed": seed, "output": str(output), "optim": {"steps": 40}})
        tracker.tags({"job": "train_student", "output": str(output), "validation_digest": name})
        tracker.tags({"student_digest": student_digest(output / "student")})
        tracker.metrics({"miou": seed / 100, "iou": {"cat": 0.5}})
        tracker.model(str(output / "student"), WIDTH, None, "")
    assert tracker.failure is None and tracker.run_id
    assert evaluate.main(["--model", str(output), *gold(root / ("other" if name == "bad" else "gold"))]) == 0
    return tracker.run_id


def gold(folder: Path) -> list[str]:
    told = ["--gold.uri", str(folder / "masks"), "--gold.images", str(folder / "photos"), "--gold.classes", "voc"]
    return [*told, "--device", "cpu", "--page_images", "0"]


def _built(output: Path) -> Any:
    return load_student(output / "student")[0].eval()


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = promote.main([str(one) for one in arguments])
    printed = capsys.readouterr()
    lines = printed.out.strip().splitlines()
    return code, json.loads(lines[-1]) if lines else {}, printed.err


def aliases(name: str) -> dict[str, str]:
    from mlflow import MlflowClient

    return {key: str(value) for key, value in MlflowClient().get_registered_model(name).aliases.items()}


def tags(name: str, version: str) -> dict[str, str]:
    from mlflow import MlflowClient

    return dict(MlflowClient().get_model_version(name, version).tags)


def test_students_are_promoted_refused_and_rolled_back(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = json.loads((store / "runs.json").read_text())
    code, found, err = called(capsys, "--model", "shapes", "--run", runs["good"])
    assert code == 0, err
    assert (found["promoted"], found["version"], found["before"]) == (True, "1", None)
    assert list(found["numbers"]["challenger"]["seeds"]) == ["good (seed 40)", "better (seed 60)"], "siblings are found"
    assert "the first champion" in tags("shapes", "1")["promoted_because"]

    # Not evaluated on the champion's gold: nothing to compare, and the command that mends it.
    code, found, err = called(capsys, "--model", "shapes", "--run", runs["bad"])
    assert code == 4 and not found["promoted"]
    assert "no gold judged both" in found["reasons"][0] and "pipelines/evaluate.py --model" in found["reasons"][0]
    assert aliases("shapes") == {"champion": "1", "challenger": "2"}
    assert evaluate.main(["--model", str(store / "bad"), *gold(store / "gold")]) == 0
    code, found, err = called(capsys, "--model", "shapes", "--run", f"{runs['bad']},{runs['better']}")
    assert code == 4, err
    assert found["reasons"][0].startswith("miou 0.") and "at least +0.0000 is needed" in found["reasons"][0]
    assert found["version"] == "2", "it is registered once"
    refused = tags("shapes", "2")
    assert refused["refused_because"] == "; ".join(found["reasons"]) and refused["refused_by"] and refused["refused_at"]
    assert aliases("shapes") == {"champion": "1", "challenger": "2"}

    (store / "gate.yaml").write_text("minimum_gain: -0.5\nno_class_worse_than: 0.5\nseeds_at_least: 2\n")
    command = ("--model", "shapes", "--run", runs["better"], "--gate", store / "gate.yaml", "--reason", "smaller")
    code, found, err = called(capsys, *command)
    assert code == 0, (found, err)
    assert aliases("shapes") == {"champion": "3"} and found["before"] == "1"
    assert tags("shapes", "3")["promoted_because"] == "smaller" and tags("shapes", "1")["replaced_because"]
    assert json.loads(tags("shapes", "3")["gate"])["seeds_at_least"] == 2
    assert set(json.loads(tags("shapes", "3")["numbers"])) == {"metric", "judged_by", "challenger", "champion"}

    code, found, err = called(capsys, "--model", "shapes", "--rollback", "--reason", "night images")
    assert (code, found) == (0, {"model": "shapes", "rolled_back": "3", "champion": "1"})
    assert aliases("shapes") == {"champion": "1"} and tags("shapes", "3")["rolled_back_because"] == "night images"
    code, _, err = called(capsys, "--model", "shapes", "--rollback")
    assert code == 2 and "the only champion" in err


def test_the_other_winner_of_a_search_that_went_on_is_another_version(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = train(store, "trial-1", 40, 0.0, "search")
    command = ("--model", "searched", "--run", run_id)
    assert called(capsys, *command)[0] == 0
    assert train(store, "trial-2", 40, 0.5, "search", run_id) == run_id
    code, found, err = called(capsys, *command)
    assert (code, found["version"], found["champion"]) == (4, "2", "1"), err
    means = [found["numbers"][side]["mean"] for side in ("champion", "challenger")]
    assert means[0] > means[1], "each by the evaluation of its own student"
    for number in (1, 2):
        registered = resolve_student(f"models:/searched/{number}", tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
        assert student_digest(registered.path) == student_digest(store / f"trial-{number}" / "student")
    assert called(capsys, *command)[1]["version"] == "2", "it is registered once"


def test_the_champion_is_a_labeler_and_a_teacher(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = json.loads((store / "runs.json").read_text())
    assert called(capsys, "--model", "team", "--run", runs["good"])[0] == 0
    reference = "models:/team@champion"
    registry = f"sqlite:///{store / 'mlflow.db'}"
    assert load_card(resolve_student(reference, tracking_uri=registry).path).names == ("background", "cat", "dog")

    from pipelines.flow.job import set_up
    from pipelines.flow.second import Student
    from pipelines.stages.student import NetworkStageConfig, StudentStage

    told = {"corpus": "sample:", "classes": "cat, dog", "output": str(store / "out")}
    labelers = ("clip", "sam", f"student:{reference}")
    config = LabelConfig.model_validate({**told, "labelers": labelers, "tracking": {"uri": registry}})
    labeler = Student.of(set_up(config)[0], config.students[0])
    stage = StudentStage(NetworkStageConfig(reference, labeler.found.digest, labeler.registry), "cpu")
    ((maps, quality),) = stage.forward([np.zeros((32, 48, 3), np.uint8)])
    assert len(maps) == len(quality) == len(CLASSES) - 1, "all but the background"

    from pipelines.training.config import TrainConfig
    from pipelines.training.teachers import load_teachers

    told = {"output": str(store / "trained"), "labels": str(store / "out"), "teachers": (reference,)}
    classes = ClassSet.load("cat, dog")
    (teacher,) = load_teachers(TrainConfig.model_validate(told), classes, torch.device("cpu"))
    assert sum(weight.numel() for weight in teacher.state_dict().values()) > 100_000
    with pytest.raises(UsageError, match="cannot be had from the registry"):
        missing = {**told, "teachers": ("models:/team@nobody",)}
        load_teachers(TrainConfig.model_validate(missing), classes, torch.device("cpu"))


def test_validation_numbers_of_different_images_are_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = json.loads((store / "runs.json").read_text())
    (store / "gate.yaml").write_text("numbers: validation\n")
    code, found, _ = called(capsys, "--model", "v", "--run", runs["good"], "--gate", store / "gate.yaml")
    assert code == 4 and "validated on different images" in found["reasons"][0]
    code, _, err = called(capsys, "--model", "v", "--run", "0" * 32)
    assert code == 2 and "there is no run" in err


def searched(folder: Path, gain: float, seed: int = 0, default: DecideConfig | None = None, **changes: float) -> Path:
    """What tune_labels.py leaves: settings, and their numbers on images that the search never saw."""
    folder.mkdir(parents=True)
    before = asdict(default or DecideConfig())
    changed = {name: [before[name], value] for name, value in changes.items()}
    settings = json.loads(json.dumps({**before, **changes}))
    result = {
        "labels": "out/voc", "corpus": "voc:VOC2012", "seed": seed, "decide": settings, "changed": changed,
        "holdout": {
            "images": 50,
            "digest": f"images of seed {seed}",
            "default": {"miou": 0.5},
            "winner": {"miou": 0.5 + gain},
            "per_class_iou": {"default": {"cat": 0.5, "cow": 0.5}, "winner": {"cat": 0.6, "cow": 0.5 + gain - 0.04}},
        },
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "decide.yaml").write_text(yaml.safe_dump({"decide": settings}))
    return folder / "decide.yaml"


def test_settings_of_decide_are_promoted_and_used(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = ("--model", "voc-decide")
    worse = searched(tmp_path / "worse", -0.02, mask_weight=0.1)
    code, found, err = called(capsys, *name, "--decide", worse)
    assert code == 4 and found["champion"] is None, err
    assert found["reasons"] == ["miou 0.5000 -> 0.4800 is a gain of -0.0200; at least +0.0000 is needed"]
    (tmp_path / "gate.yaml").write_text("minimum_gain: 0.01\nno_class_worse_than: 0.03\nseeds_at_least: 2\n")
    better = [searched(tmp_path / f"better{seed}", 0.02, seed, mask_weight=0.7 + seed / 100) for seed in (1, 2)]
    code, found, err = called(capsys, *name, "--decide", f"{better[0]},{better[1]}", "--gate", tmp_path / "gate.yaml")
    assert (code, found["version"]) == (0, "2"), (found, err)
    assert aliases("voc-decide") == {"champion": "2"}

    output = ("--corpus", "sample:", "--output", str(tmp_path / "out"))
    given = ("--config", "models:/voc-decide@champion", *output)
    assert parse(LabelConfig, given, {}).decide.mask_weight == 0.71
    assert parse(LabelConfig, (*given, "--decide.mask_weight", "0.3"), {}).decide.mask_weight == 0.3
    registry = ("--tracking.uri", f"sqlite:///{store / 'mlflow.db'}")
    assert parse(LabelConfig, ("--config", "models:/voc-decide/1", *output, *registry), {}).decide.mask_weight == 0.1
    for wrong, told in (("models:/voc-decide@nobody", "cannot be had from the registry"),):
        with pytest.raises(SystemExit):
            parse(LabelConfig, ("--config", wrong, *output), {})
        assert told in capsys.readouterr().err

    # The next search: on other images, its default not the champion; then with the champion as its default.
    other = searched(tmp_path / "other", 0.05, seed=3, mask_weight=0.9)
    code, found, _ = called(capsys, *name, "--decide", other)
    assert code == 4 and "label with the champion" in found["reasons"][0]
    champion = DecideConfig(mask_weight=0.71)
    paired = searched(tmp_path / "paired", 0.05, seed=4, default=champion, mask_weight=0.9, mask_top=1)
    code, found, err = called(capsys, *name, "--decide", paired)
    assert code == 0 and found["before"] == "2", (found, err)
    code, found, _ = called(capsys, *name, "--rollback")
    assert code == 0 and parse(LabelConfig, given, {}).decide.mask_weight == 0.71


@pytest.mark.parametrize(
    ("seed", "changed", "told"),
    [
        (1, {}, "two of the searches have the same seed"),
        (2, {"corpus": "voc:other"}, "corpus is voc:other, not voc:VOC2012"),
        (2, {"snapshot": 7}, "snapshot is 7, not None"),
        (2, {"gold": "other"}, "gold is other"),
        (2, {"objective": ["agreement"]}, "objective is ['agreement']"),
    ],
)
def test_only_searches_for_the_same_count_as_seeds(
    seed: int, changed: dict[str, Any], told: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (searched(tmp_path / str(n), 0.02, n_seed) for n, n_seed in enumerate((1, seed)))
    result = second.parent / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), **changed}))
    code, _, err = called(capsys, "--model", "seeds", "--decide", f"{first},{second}")
    assert code == 2 and told in err


def test_what_cannot_be_promoted_is_told(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        promote.main(["--model", "x", "--rollback", "--run", "1"])
    assert "one of the three" in capsys.readouterr().err
    assert "there is no such" not in called(capsys, "--model", "x", "--decide", tmp_path / "absent.yaml")[2]
    code, _, err = called(capsys, "--model", "x", "--decide", tmp_path / "absent.yaml")
    assert code == 2 and "result.json beside it" in err
    code, _, err = called(capsys, "--model", "x", "--rollback")
    assert code == 2 and "x has no champion" in err
    code, _, err = called(capsys, "--model", "x", "--rollback", "--tracking.uri", f"sqlite:///{tmp_path}/none.db")
    assert code == 2 and "there is no MLflow registry" in err
