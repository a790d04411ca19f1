"""Metrics against small cases counted by hand, and parts merged against the whole."""

import numpy as np
import pytest

from models.metrics import BoundaryF, Calibration, Confusion, KeptShare, expand_quarter

GOLD = np.array([[0, 0, 1, 1], [0, 2, 2, 255]], np.uint8)
LABEL = np.array([[0, 1, 1, 1], [0, 2, 0, 2]], np.uint8)


def counted() -> Confusion:
    confusion = Confusion(4)
    confusion.update(GOLD, LABEL)
    return confusion


def test_iou_by_hand():
    iou = counted().iou()
    np.testing.assert_allclose(iou[:3], [2 / 4, 2 / 3, 1 / 2])
    assert np.isnan(iou[3]), "a class that never occurs has no IoU"
    assert counted().mean_iou() == pytest.approx(np.mean([1 / 2, 2 / 3, 1 / 2]))
    assert counted().mean_iou([1, 3]) == pytest.approx(2 / 3)
    assert np.isnan(counted().mean_iou([3]))
    np.testing.assert_allclose(counted().recall()[:3], [2 / 3, 1, 1 / 2])
    assert counted().accuracy() == pytest.approx(5 / 7)


def test_a_class_that_is_only_predicted_lowers_no_mean_but_its_rivals():
    confusion = Confusion(3)
    confusion.update(np.zeros((1, 4), np.uint8), np.array([[0, 0, 2, 2]], np.uint8))
    assert confusion.mean_iou() == pytest.approx(0.5)


def test_labels_outside_the_class_range_are_wrong_not_missing():
    confusion = Confusion(2)
    confusion.update(np.zeros((1, 4), np.uint8), np.array([[0, 0, 7, 200]], np.uint16))
    assert confusion.iou()[0] == pytest.approx(0.5)
    assert confusion.accuracy() == pytest.approx(0.5)


def test_only_kept_pixels_are_judged():
    confusion = Confusion(3)
    confusion.update(GOLD, LABEL, keep=LABEL == GOLD)
    assert confusion.mean_iou() == 1.0


def test_parts_merge_to_the_whole():
    rng = np.random.default_rng(0)
    gold, label = rng.integers(0, 5, (2, 6, 8, 8))
    conf, keep = rng.random((6, 8, 8)), rng.random((6, 8, 8)) > 0.3
    whole = Confusion(5), Calibration(), KeptShare(5)
    parts = [(Confusion(5), Calibration(), KeptShare(5)) for _ in range(2)]
    for i in range(6):
        for c, e, k in (whole, parts[i % 2]):
            c.update(gold[i], label[i])
            e.update(conf[i], gold[i] == label[i])
            k.update(gold[i], keep[i])
    merged = [a.merge(b) for a, b in zip(*parts, strict=True)]
    np.testing.assert_array_equal(merged[0].counts, whole[0].counts)
    assert merged[1].error() == pytest.approx(whole[1].error())
    np.testing.assert_array_equal(merged[2].kept, whole[2].kept)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="covers"):
        Confusion(2).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_calibration_error_of_honest_and_of_boastful_confidence():
    rng = np.random.default_rng(1)
    confidence = rng.random(200_000)
    honest, boastful = Calibration(), Calibration()
    right = rng.random(200_000) < confidence
    honest.update(confidence, right)
    boastful.update(np.ones(200_000), right)
    assert honest.error() < 0.01
    assert boastful.error() == pytest.approx(0.5, abs=0.01)
    assert np.isnan(Calibration().error())


def test_kept_share_by_class():
    share = KeptShare(4)
    share.update(GOLD, np.array([[1, 1, 1, 0], [0, 0, 0, 1]], bool))
    np.testing.assert_allclose(share.per_class()[:3], [2 / 3, 1 / 2, 0])
    assert np.isnan(share.per_class()[3])
    assert share.coverage() == pytest.approx(3 / 7)


def test_quarter_maps_expand_to_odd_sizes():
    quarter = np.arange(6).reshape(2, 3)
    full = expand_quarter(quarter, 7, 10)
    assert full.shape == (7, 10)
    assert full[6, 9] == quarter[1, 2] and full[3, 3] == quarter[0, 0]


def square(offset: int = 0, side: int = 80, fill: int = 1) -> np.ndarray:
    """A square of one class in the middle of background, moved to the right."""
    ids = np.zeros((side, side), np.int32)
    ids[25:55, 25 + offset : 55 + offset] = fill
    return ids


def boundary_f(gold: np.ndarray, label: np.ndarray, **options: int) -> BoundaryF:
    measure = BoundaryF(3, **options)
    measure.update(gold, label)
    return measure


def test_boundaries_within_the_tolerance_are_right_and_beyond_it_wrong():
    assert boundary_f(square(), square()).mean() == 1.0
    assert boundary_f(square(), square(3)).mean() == 1.0
    assert boundary_f(square(), square(4)).mean() < 1.0
    assert boundary_f(square(), square(4), tolerance_px=4).mean() == 1.0
    assert boundary_f(square(), square(1), tolerance_px=0).mean() < 0.7
    moved = boundary_f(square(), square(10))
    assert 0.3 < moved.mean() < 0.7  # the upper and lower sides still coincide in part
    assert boundary_f(square(), np.roll(square(10), 10, 0)).mean() < 0.2
    assert np.isnan(moved.per_class()[2])


def test_boundary_f_by_hand():
    gold, label = np.zeros((2, 20), np.int32), np.zeros((2, 20), np.int32)
    gold[:, 10:] = 1  # one edge: 2 boundary pixels on each side
    label[:, 12:16] = 1  # two edges: one of them 2 px away, the other 6
    precision, recall = 2 / 4, 1.0
    expected = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(boundary_f(gold, label).per_class()[:2], [expected, expected])
    nothing = boundary_f(gold, np.zeros_like(gold))
    np.testing.assert_array_equal(nothing.per_class()[:2], [0, 0])
    assert np.isnan(boundary_f(np.ones((5, 5), int), np.zeros((5, 5), int)).mean()), "no boundary in the gold"


def test_the_border_of_the_image_is_no_boundary():
    touching = np.zeros((40, 40), np.int32)
    touching[:, :20] = 1
    measure = boundary_f(touching, touching)
    assert measure.gold[:2].tolist() == [40, 40], "one column on each side of the one edge, none along the frame"


def test_boundary_parts_merge_to_the_whole():
    rng = np.random.default_rng(3)
    gold, label = rng.integers(-1, 4, (2, 6, 16, 16))
    whole, parts = BoundaryF(3, ignore=-1), [BoundaryF(3, ignore=-1) for _ in range(2)]
    for i in range(6):
        whole.update(gold[i], label[i])
        parts[i % 2].update(gold[i], label[i])
    np.testing.assert_array_equal(parts[0].merge(parts[1]).per_class(), whole.per_class())
    assert 0 < whole.mean() < 1


def test_an_unjudged_band_around_an_object_leaves_it_its_boundary_and_a_wide_one_does_not():
    gold = square()
    gold[23:57, 23:57] = 255
    gold[27:53, 27:53] = 1  # the annotator left 4 px undecided, the edge is in their midst
    measure = boundary_f(gold, square())
    assert measure.mean() == 1.0 and measure.gold[1] > 100
    assert boundary_f(gold, square(8)).mean() < 0.8
    gold[15:65, 15:65] = 255
    gold[27:53, 27:53] = 1
    measure = boundary_f(gold, square())
    assert np.isnan(measure.mean()) and measure.label.sum() == 0, "nobody judged that boundary"


def test_boundary_refusals():
    with pytest.raises(ValueError, match="covers"):
        boundary_f(square(), square()[:-1])
    with pytest.raises(ValueError, match="tolerance_px"):
        BoundaryF(2, tolerance_px=-1)
