"""Calibrated confidence: fitted maps rise, undo a known distortion, and change nothing where they are off."""

from dataclasses import replace

import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak

from models.decide.calibrate import apply_table, isotonic_table, pool_adjacent_violators, temperature_table
from models.decide.confidence import bend_by_class
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.metrics import Calibration, TradeOff

WORLD = make_world()


def judged(power: float, n: int = 60_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Levels 0..255 whose true chance of being right has these odds to the power `power`."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(30, 250, n).astype(np.uint8)
    p = levels / 255
    odds = (p / (1 - p)) ** power
    return levels, rng.uniform(size=n) < odds / (1 + odds)


def error(levels: np.ndarray, right: np.ndarray, table: tuple[float, ...] = ()) -> float:
    calibration = Calibration()
    calibration.update(apply_table((levels / 255).astype(np.float32), table), right)
    return calibration.error()


@pytest.mark.parametrize("fit", [isotonic_table, temperature_table])
@pytest.mark.parametrize("power", [0.4, 2.5])
def test_calibration_error_falls_on_pixels_that_were_not_fitted(fit, power: float) -> None:
    counts = TradeOff()
    counts.update(*judged(power))
    table = fit(counts.pixels, counts.right)
    fresh = judged(power, seed=1)
    assert error(*fresh) > 0.05
    assert error(*fresh, table) < 0.015
    assert (np.diff(table) >= 0).all() and min(table) >= 0 and max(table) <= 1


def test_what_is_calibrated_stays_as_it_is() -> None:
    counts = TradeOff()
    counts.update(*judged(1.0))
    steps = np.linspace(0, 1, 17)
    inside = (steps > 0.15) & (steps < 0.95)
    for fit in (isotonic_table, temperature_table):
        np.testing.assert_allclose(np.array(fit(counts.pixels, counts.right))[inside], steps[inside], atol=0.04)


def test_pooling_is_the_nearest_rising_sequence() -> None:
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(2)
    values, weight = rng.normal(size=80).cumsum() + np.linspace(0, 5, 80), rng.uniform(0.1, 3, 80)
    expected = isotonic_regression(values, weights=weight).x
    np.testing.assert_allclose(pool_adjacent_violators(values, weight), expected, atol=1e-9)


def test_a_few_levels_are_enough_and_none_is_an_error() -> None:
    pixels, right = np.zeros(256), np.zeros(256)
    pixels[128], right[128] = 100, 30
    assert isotonic_table(pixels, right) == (0.3,) * 17
    with pytest.raises(ValueError, match="judged"):
        isotonic_table(np.zeros(256), np.zeros(256))
    with pytest.raises(ValueError, match="more of a level"):
        temperature_table(pixels, pixels * 2)
    with pytest.raises(ValueError, match="256"):
        isotonic_table(pixels[:10], right[:10])


def test_a_table_bends_the_confidence_of_a_label_and_no_class_of_it() -> None:
    config, given = DecideConfig(), weak(tags=[0, 1, 2], points=[(60, 55, 0)])
    plain = decide(WORLD.evidence, WORLD.text, CLASSES, given, config)
    straight = decide(WORLD.evidence, WORLD.text, CLASSES, given, replace(config, confidence_table=(0.0, 1.0)))
    np.testing.assert_array_equal(plain.confidence, straight.confidence)
    bent = decide(WORLD.evidence, WORLD.text, CLASSES, given, replace(config, confidence_table=(0.0, 0.2, 0.6)))
    np.testing.assert_array_equal(plain.class_map, bent.class_map)
    assert bent.mean_confidence < plain.mean_confidence - 0.1
    assert bent.confidence.max() == 255, "what a person marked stays certain"
    order = np.argsort(plain.confidence.ravel(), kind="stable")
    unmarked = order[plain.confidence.ravel()[order] < 255]
    assert (np.diff(bent.confidence.ravel()[unmarked].astype(int)) >= -1).all(), "the order of pixels survives"


def test_off_is_bit_by_bit_the_same() -> None:
    values = np.random.default_rng(3).uniform(size=(7, 5)).astype(np.float32)
    assert apply_table(values, ()) is values
    assert DecideConfig().confidence_table == ()


@pytest.mark.parametrize("table", [(0.5,), (0.0, 0.6, 0.5), (0.1, 1.2), (-0.1, 0.5)])
def test_tables_that_would_mix_up_pixels_are_refused(table: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="table"):
        apply_table(np.zeros(3, np.float32), table)


def test_the_surest_share_of_each_class_is_kept() -> None:
    rng = np.random.default_rng(4)
    classes = np.repeat([0, 1, 2], [4000, 1000, 50])
    levels = np.clip(rng.normal([220, 120, 60], 25, (5050, 3))[np.arange(5050), classes], 0, 255).astype(np.uint8)
    bent = bend_by_class(levels, classes, 0.4, 153)
    for value in range(3):
        own, of = levels[classes == value], bent[classes == value]
        kept = of >= 153
        assert kept.mean() == pytest.approx(0.4, abs=0.06)
        assert own[kept].min() > own[~kept].max(), "the surest ones, and nothing else"
        assert (np.diff(of[np.argsort(own, kind="stable")].astype(int)) >= 0).all()
    certain = np.full(10, 255, np.uint8)
    np.testing.assert_array_equal(bend_by_class(certain, np.zeros(10, int), 0.5, 153), certain)
    assert (bend_by_class(np.zeros(10, np.uint8), np.zeros(10, int), 0.5, 0) >= 0).all()


def test_the_per_class_policy_keeps_pixels_of_every_class_and_changes_none() -> None:
    given, config = weak(tags=[0, 1, 2]), DecideConfig(keep_policy="per-class", keep_class_share=0.5)
    plain = decide(WORLD.evidence, WORLD.text, CLASSES, given, DecideConfig())
    found = decide(WORLD.evidence, WORLD.text, CLASSES, given, config)
    np.testing.assert_array_equal(found.class_map, plain.class_map)
    assert found.mean_confidence == plain.mean_confidence
    quarter = plain.class_map[::4, ::4]
    for class_id, area in found.areas.items():
        own = plain.confidence[quarter == class_id]
        expected = (own >= np.median(own)).mean()  # More than half where many are equally sure.
        assert found.kept_areas[class_id] / area == pytest.approx(expected, abs=0.12), class_id
