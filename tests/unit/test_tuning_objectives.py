"""What a search makes large, and how its winner is chosen and judged, on counts whose answer is known."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from models.decide.config import DecideConfig
from models.metrics import Confusion
from pipelines.config import LabelConfig, parse
from pipelines.evaluation.gold import IGNORED
from pipelines.evaluation.score import Score
from tuning.files import write_yaml
from tuning.objectives import gold_counts, numbers, parse_objective
from tuning.outcome import Half, choose, compare, front, verdict

CLASSES = 3


def random_image(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold, label = (rng.integers(0, CLASSES + 1, (20, 30)).astype(np.int16) for _ in range(2))
    return gold, label, rng.random((20, 30)) < 0.6


def test_counts_are_those_of_the_evaluation() -> None:
    total = np.zeros((2, CLASSES, CLASSES + 1), np.int64)
    score = Score(["background", "cat", "dog"])
    for seed in range(3):
        gold, label, _ = random_image(seed)
        quarter = np.random.default_rng(seed).integers(0, 256, (5, 8)).astype(np.uint8)
        keep = np.repeat(np.repeat(quarter >= 128, 4, 0), 4, 1)[:20, :30]
        total += gold_counts(gold, label, keep, CLASSES)
        score.update(
            np.where(gold == CLASSES, IGNORED, gold).astype(np.int32), label.astype(np.int32), quarter, 128 / 255
        )
    assert np.array_equal(total[0], score.all.pixels.counts)
    assert np.array_equal(total[1], score.kept.counts)
    found = numbers(total, (parse_objective("miou"),))
    assert found["miou"] == pytest.approx(score.all.pixels.mean_iou())
    assert found["kept_miou"] == pytest.approx(score.kept.mean_iou())
    assert found["kept_precision"] == pytest.approx(score.kept.accuracy())
    assert found["coverage"] == pytest.approx(score.share.coverage())


def counts(right: int, wrong: int, unkept_right: int = 0, unkept_wrong: int = 0) -> np.ndarray:
    """Of two classes, the second: so many of its pixels kept and right, kept and called background, and not kept."""
    kept = np.array([[0, 0, 0], [wrong, right, 0]], np.int64)
    return np.stack([kept + np.array([[0, 0, 0], [unkept_wrong, unkept_right, 0]]), kept])


def test_precision_at_a_coverage_that_is_reached_and_one_that_is_not() -> None:
    kept_80 = counts(72, 8, 0, 20)
    assert parse_objective("precision@coverage=0.8").value(kept_80) == pytest.approx(0.9)
    assert parse_objective("precision@coverage=0.5").value(kept_80) == pytest.approx(0.9)
    # The tenth of the pixels that is missing to 0.9 counts as wrong: 72 of 90.
    assert parse_objective("precision@coverage=0.9").value(kept_80) == pytest.approx(0.8)
    assert parse_objective("miou@coverage=0.8").value(kept_80) == pytest.approx(0.9)
    assert parse_objective("miou").value(kept_80) == pytest.approx(0.72)
    assert parse_objective("precision@coverage=0.8").value(np.zeros_like(kept_80)) == 0
    # Keeping a few sure pixels is no way to win.
    few = counts(10, 0, 62, 28)
    assert parse_objective("precision@coverage=0.8").value(few) == pytest.approx(10 / 80)


def test_agreement_looks_at_classes_alone() -> None:
    same = np.array([[[90, 0, 0], [0, 10, 0]], [[90, 0, 0], [0, 10, 0]]], np.int64)
    apart = np.array([[[90, 0, 0], [10, 0, 0]], [[90, 0, 0], [0, 10, 0]]], np.int64)
    objective = parse_objective("agreement")
    assert objective.value(same) == 1
    assert objective.value(apart) == 0.5  # masks and text differ, mirrored evidence does not
    only_background = np.array([[[100, 0, 0], [0, 0, 0]]] * 2, np.int64)
    assert objective.value(only_background) == 0


def images(correct: list[int]) -> np.ndarray:
    """Images of 100 pixels of one class, so many of them right."""
    return np.stack([counts(value, 100 - value) for value in correct])


def test_an_interval_holds_the_gain_and_tells_luck_from_merit() -> None:
    rng = np.random.default_rng(1)
    before = rng.integers(40, 60, 60)
    objective = parse_objective("miou")
    clear = Half(images(list(before)), images(list(before + rng.integers(3, 8, 60))))
    low, high = clear.interval(objective, 0) or (0, 0)
    assert 0.03 < low < clear.gain(objective) < high < 0.08
    # Images differ by far more than default and winner do: paired, it is still told.
    assert high - low < 0.02
    luck = Half(images(list(before)), images(list(before + rng.integers(-15, 16, 60))))
    low, high = luck.interval(objective, 0) or (0, 0)
    assert low < 0 < high
    assert Half(images([5]), images([6])).interval(objective, 0) is None
    assert luck.interval(objective, 7) == luck.interval(objective, 7)


@pytest.mark.parametrize(
    ("change", "answer"), [([20] * 30, "yes"), ([-20] * 30, "no"), ([40, -38] * 15, "unclear"), ([0] * 30, "no")]
)
def test_the_verdict_is_plain(change: list[int], answer: str) -> None:
    objectives = (parse_objective("miou"),)
    half = Half(images([50] * 30), images([50 + value for value in change]))
    told, sentence = verdict(False, compare(half, objectives, 0), objectives)
    assert told == answer
    assert ("NOT beaten" in sentence) == (answer == "no")
    assert verdict(True, None, objectives)[0] == "no"
    assert verdict(False, None, objectives)[0] == "unclear"


def test_without_gold_nothing_is_beaten() -> None:
    free = (parse_objective("agreement"),)
    both = np.array([[[90, 0, 0], [0, 10, 0]]] * 2, np.int64)
    half_right = np.array([[[90, 0, 0], [5, 5, 0]]] * 2, np.int64)
    half = Half(np.stack([half_right] * 9), np.stack([both] * 9))
    answer, sentence = verdict(False, compare(half, free, 0), free)
    assert answer == "unclear"
    assert "whether they are better is not known" in sentence


def trials(*values: tuple[float, ...]) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize"] * len(values[0]))
    for value in values:
        study.add_trial(optuna.trial.create_trial(values=list(value)))
    return study.trials


def test_the_winner_is_of_the_front_and_gains_in_every_objective() -> None:
    found = trials((0.5, 0.9), (0.6, 0.6), (0.9, 0.5), (0.55, 0.55))
    assert [one.number for one in front(found)] == [0, 1, 2]
    assert getattr(choose(found, (0.5, 0.5)), "number", None) == 1
    assert choose(found, (0.9, 0.9)) is None
    alone = trials((0.3,), (0.7,), (0.5,))
    assert getattr(choose(alone, (0.6,)), "number", None) == 1
    assert choose(alone, (0.7,)) is None, "the default's own score is no gain"


def test_the_yaml_is_what_label_corpus_reads(tmp_path: Path) -> None:
    config: Any = DecideConfig(mask_weight=0.25, par_dilations=(1, 3), keep_policy="fixed", grid_px=80)
    section = json.loads(json.dumps(dataclasses.asdict(config)))
    write_yaml(tmp_path / "decide.yaml", {"decide": section}, ["a comment: with a colon", "and another"])
    given = ["--config", str(tmp_path / "decide.yaml"), "--corpus", "a", "--output", "b"]
    assert parse(LabelConfig, given, {}).decide == config


def test_an_empty_confusion_is_zero_and_not_a_number() -> None:
    assert np.isnan(Confusion(2).mean_iou())
    assert parse_objective("miou").value(np.zeros((2, 2, 3), np.int64)) == 0
