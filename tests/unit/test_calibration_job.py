"""calibrate.py: what a curve is worth on images it did not see, and what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak

from models.decide.calibrate import LEVELS
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.metrics import Calibration
from pipelines.config import UsageError
from tuning.calibration_job import coverage, error_of, judge, parts, sentence, through

CURVE = (0.0, 0.05, 0.1, 0.2, 0.9)


def images(n: int, power: float, seed: int = 0) -> np.ndarray:
    """Counts [n, 2, 256] of images whose odds of being right are those of their confidence to this power."""
    rng = np.random.default_rng(seed)
    p = np.clip(np.arange(LEVELS) / (LEVELS - 1), 0.02, 0.98)
    odds = (p / (1 - p)) ** power
    pixels = rng.integers(0, 40, (n, LEVELS))
    return np.stack([pixels, rng.binomial(pixels, odds / (1 + odds))], 1)


@pytest.mark.parametrize("kind", ["isotonic", "temperature"])
def test_boastful_confidence_is_mended_on_images_that_no_curve_saw(kind: str) -> None:
    found = judge(images(40, 0.4), kind, (), np.arange(40) % 5, 0)
    assert found["calibration_error"]["before"] > 0.08
    assert found["calibration_error"]["after"] < 0.02
    assert found["helps"] and found["gain_interval_95"][0] > 0.05


def test_of_honest_confidence_it_says_that_nothing_is_gained() -> None:
    found = judge(images(40, 1.0), "isotonic", (), np.arange(40) % 5, 0)
    assert not found["helps"] and abs(np.subtract(*found["calibration_error"].values())) < 0.02
    told = sentence({"kind": "isotonic", "images": 40, **found})
    assert "NOT shown to help" in told


def test_before_is_with_the_table_that_the_labels_were_made_with() -> None:
    counts = images(20, 1.0)
    bent, plain = (judge(counts, "isotonic", table, np.arange(20) % 4, 0) for table in (CURVE, ()))
    assert bent["calibration_error"]["before"] > 0.1
    assert bent["calibration_error"]["after"] == plain["calibration_error"]["after"]


def test_an_image_is_never_judged_by_a_curve_of_its_own() -> None:
    """One image of pure noise: a curve that had seen it would be nearer to it."""
    honest, noise = images(9, 1.0), images(1, -1.0, seed=3) * 200
    found = judge(np.concatenate([honest, noise]), "isotonic", (), np.arange(10) % 10, 0)
    alone = error_of(through(noise[0], ()))
    assert found["calibration_error"]["after"] > 0.8 * alone


def test_frames_and_copies_are_judged_by_curves_of_other_images() -> None:
    walks = [{"asset": f"{walk}_{number:03d}.jpg", "digest": None} for walk in "abcd" for number in range(20)]
    found = parts(walks, 4, 0)
    assert (np.diff(found) != 0).sum() <= 16 and set(found) == {0, 1, 2, 3}
    copies = [{"asset": name, "digest": digest} for name, digest in (("p", "same"), ("q", "other"), ("r", "same"))]
    first, other, copy = parts(copies, 2, 0)
    assert first == copy != other
    with pytest.raises(UsageError, match="--folds 2: only 1 different"):
        parts([copies[0], copies[2]], 2, 0)


def test_counts_by_level_are_those_of_a_finished_label() -> None:
    world, config = make_world(), DecideConfig()
    arguments = (world.evidence, world.text, CLASSES, weak())
    plain, bent = (decide(*arguments, replace(config, confidence_table=table)) for table in ((), CURVE))
    assert (plain.class_map == bent.class_map).all()
    counts = np.stack([np.bincount(plain.confidence.reshape(-1), minlength=LEVELS)] * 2)
    expected = np.bincount(bent.confidence.reshape(-1), minlength=LEVELS)
    # The label bends before it rounds, the counts after: a step or two apart where the curve is steep.
    near = through(counts, CURVE)[0]
    assert abs((near * np.arange(LEVELS)).sum() - (expected * np.arange(LEVELS)).sum()) < 2 * expected.sum()
    assert coverage(counts[None], config) == pytest.approx(plain.coverage, abs=0.02)


def test_error_of_counts_is_that_of_the_pixels() -> None:
    counts = images(1, 0.5)[0]
    levels = np.repeat(np.arange(LEVELS), counts[0]) / (LEVELS - 1)
    right = np.concatenate([np.arange(n) < r for n, r in counts.T])
    calibration = Calibration()
    calibration.update(levels, right)
    assert error_of(counts) == pytest.approx(calibration.error(), abs=1e-9)
