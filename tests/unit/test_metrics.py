"""Metrics against small cases counted by hand, and parts merged against the whole."""

import numpy as np
import pytest

from models.metrics import Calibration, Confusion, KeptShare, expand_quarter

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
