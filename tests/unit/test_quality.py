"""Predicted quality of labels: signs that mean something, promises that hold, and a model that comes back as saved."""

from dataclasses import replace

import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak

from models.decide.baselines import heat_only
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.quality.config import QualityConfig
from models.quality.conformal import interval_margin, risk_threshold
from models.quality.features import FEATURES, QualityBasis, class_areas, label_features
from models.quality.model import QualityModel, image_miou
from models.quality.regress import fit_regressor

WORLD = make_world()
CONFIG = DecideConfig()
RNG = np.random.default_rng(0)
NAMES = tuple("abcdef")


def records(images: int, each: int = 3, noise: float = 0.08, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Features [n, 6], true IoU and image of labels whose quality two of the features tell, one not linearly."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(images), each)
    features = rng.normal(size=(len(groups), 6)) + rng.normal(size=(images, 6))[groups]
    wild = rng.normal(0, noise, images)[groups] + rng.normal(0, noise, len(groups))
    miou = 0.5 + 0.12 * features[:, 0] + 0.15 * (features[:, 1] > 0) + wild
    return features, np.clip(miou, 0, 1), groups


def test_what_is_together_is_in_one_fold() -> None:
    video = np.repeat(np.arange(30), 4)
    truth = np.random.default_rng(3).uniform(0.2, 1, 30)[video]
    features, frame = np.eye(30)[video], np.arange(len(video))
    names, config = tuple(map(str, range(30))), QualityConfig(penalty=1.0)
    alone, grouped = (QualityModel.fit(features, truth, frame, config, names, one) for one in (None, video))
    assert np.corrcoef(alone.unseen, truth)[0, 1] > 0.9 > 0.3 > np.corrcoef(grouped.unseen, truth)[0, 1]
    assert grouped.margin > 2 * alone.margin and grouped.groups.tolist() == frame.tolist()
    with pytest.raises(ValueError, match="4 images cannot be cut into 5 folds"):
        QualityModel.fit(features, truth, frame, config, names, video // 8)


def basis() -> QualityBasis:
    areas = RNG.uniform(0.05, 0.2, (30, 4)).astype(np.float32)
    return QualityBasis.fit(RNG.normal(size=(30, 8)).astype(np.float32), areas)


def test_signs_of_a_better_label_are_better() -> None:
    given, of = weak(tags=[0, 1, 2]), basis()
    good = decide(WORLD.evidence, WORLD.text, CLASSES, given, CONFIG)
    scrambled = replace(good, class_map=np.roll(good.class_map, 60, axis=1), confidence=good.confidence // 4 + 110)
    rows = [label_features(label, WORLD.evidence, CLASSES, WORLD.text, of) for label in (good, scrambled)]
    better = dict(zip(FEATURES, rows[0] - rows[1], strict=True))
    for name in ("confidence_mean", "mask_fit", "mask_fit_least", "patch_contrast", "patch_contrast_least"):
        assert better[name] > 0.05, name
    assert better["entropy_mean"] < 0
    assert rows[0].shape == (len(FEATURES),) and rows[0].dtype == np.float32


def test_signs_of_odd_labels_are_finite() -> None:
    empty = decide(WORLD.evidence, WORLD.text, CLASSES, weak(tags=[]), CONFIG)
    assert set(empty.areas) == {0}
    no_masks = replace(WORLD.evidence, bank=replace(WORLD.evidence.bank, probs=np.zeros((0, 48, 64), np.uint8),
        iou=np.zeros(0, np.float32), stability=np.zeros(0, np.float32), source=np.zeros(0, np.uint8)))  # fmt: skip
    lone = QualityBasis.fit(np.ones((1, 8), np.float32), np.zeros((1, 4), np.float32))
    plain = decide(no_masks, WORLD.text, CLASSES, weak(tags=[3]), heat_only(CONFIG))
    for label, evidence in ((empty, WORLD.evidence), (plain, no_masks)):
        for of in (basis(), lone):
            assert np.isfinite(label_features(label, evidence, CLASSES, WORLD.text, of)).all()


def test_a_class_of_unusual_size_is_far_from_what_is_usual() -> None:
    label = decide(WORLD.evidence, WORLD.text, CLASSES, weak(tags=[0, 1, 2]), CONFIG)
    areas = class_areas(label, CLASSES)
    spread = np.exp(RNG.normal(0, 0.5, (50, 4))).astype(np.float32)
    embeddings = RNG.normal(size=(50, 8)).astype(np.float32)
    usual, odd = (QualityBasis.fit(embeddings, spread * size) for size in (areas + 1e-3, (areas + 1e-3) / 20))
    distances = [
        label_features(label, WORLD.evidence, CLASSES, WORLD.text, of)[FEATURES.index("area_distance")]
        for of in (usual, odd)
    ]
    assert distances[0] < 1.5 < 4 < distances[1]


def test_image_miou_punishes_missing_and_invented_classes() -> None:
    gold = np.array([[0, 0, 1, 1, 255]])
    assert image_miou(gold, np.array([[0, 0, 1, 1, 9]])) == 1
    assert image_miou(gold, np.array([[0, 0, 0, 0, 0]])) == pytest.approx(0.25)
    assert image_miou(gold, np.array([[0, 0, 1, 2, 0]])) == pytest.approx((1 + 0.5 + 0) / 3)
    assert np.isnan(image_miou(np.full((2, 2), 255), np.zeros((2, 2), int)))
    with pytest.raises(ValueError, match="pixels"):
        image_miou(gold, gold.T)


@pytest.mark.parametrize("kind", ["ridge", "stumps"])
def test_the_model_ranks_unseen_images(kind: str) -> None:
    features, miou, groups = records(150)
    config = QualityConfig(kind=kind)  # type: ignore[arg-type]
    model = QualityModel.fit(features, miou, groups, config, NAMES)
    fresh, truth, _ = records(200, 1, seed=9)
    out = model.predict(fresh)
    assert np.corrcoef(out[:, 0], truth)[0, 1] > 0.75
    assert (out >= 0).all() and (out <= 1).all()
    assert (out[:, 1] <= out[:, 0]).all() and (out[:, 0] <= out[:, 2]).all()
    covered = (out[:, 1] <= truth) & (truth <= out[:, 2])
    assert covered.mean() >= 0.85, "nominal 0.9, less 5 points"
    assert (out[:, 2] - out[:, 1]).mean() < 0.6, "an interval that says something"


def test_stumps_find_what_is_not_linear() -> None:
    x = RNG.uniform(-1, 1, (400, 3))
    y = (np.abs(x[:, 0]) < 0.5).astype(float)
    weight = np.ones(400)
    errors = {
        kind: np.abs(fit_regressor(x, y, weight, QualityConfig(kind=kind))(x) - y).mean()  # type: ignore[arg-type]
        for kind in ("ridge", "stumps")
    }
    assert errors["stumps"] < 0.5 * errors["ridge"]


def test_features_that_never_change_have_no_influence() -> None:
    features, miou, groups = records(40)
    features[:, 5] = 3.0
    for kind in ("ridge", "stumps"):
        model = QualityModel.fit(features, miou, groups, QualityConfig(kind=kind), NAMES)  # type: ignore[arg-type]
        moved = features.copy()
        moved[:, 5] += 1
        np.testing.assert_allclose(model.predict(features), model.predict(moved), atol=1e-6)


def test_margins_cover_new_images_however_many_records_each_has() -> None:
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(300):
        size = rng.integers(1, 8, 30)
        groups = np.repeat(np.arange(30), size)
        residuals = np.abs(rng.normal(size=30))[groups]  # Records of an image err alike.
        hits.append(abs(rng.normal()) <= interval_margin(residuals, groups, 0.9))
    assert 0.86 <= np.mean(hits) <= 0.97
    assert interval_margin(np.ones(5), np.arange(5), 0.9) == np.inf, "five images cannot promise 90 %"
    assert interval_margin(np.ones(50), np.repeat(np.arange(5), 10), 0.9) == np.inf, "nor can fifty records of them"


def test_the_promised_share_of_bad_labels_holds() -> None:
    rng = np.random.default_rng(4)
    shares, accepted = [], []
    for _ in range(300):
        truth = rng.uniform(size=120)
        predicted = truth + rng.normal(0, 0.15, 120)
        threshold = risk_threshold(predicted[:60], truth[:60] < 0.4, np.arange(60), 0.05)
        shares.append(((predicted[60:] >= threshold) & (truth[60:] < 0.4)).mean())
        accepted.append((predicted[60:] >= threshold).mean())
    assert np.mean(shares) <= 0.055
    assert np.mean(accepted) > 0.5, "and not by refusing everything"


def test_acceptance_at_its_limits() -> None:
    few = np.linspace(0, 1, 10)
    assert risk_threshold(few, np.zeros(10, bool), np.arange(10), 0.05) == np.inf, "ten images cannot promise 5 %"
    many = np.linspace(0, 1, 100)
    assert risk_threshold(many, np.zeros(100, bool), np.arange(100), 0.05) == 0
    assert risk_threshold(many, np.ones(100, bool), np.arange(100), 0.05) == pytest.approx(many[-4])
    tied = np.full(100, 0.5)
    assert risk_threshold(tied, np.arange(100) < 20, np.arange(100), 0.05) == np.inf, "ties are accepted together"


def test_a_model_comes_back_as_it_was_written() -> None:
    features, miou, groups = records(40)
    for kind in ("ridge", "stumps"):
        model = QualityModel.fit(features, miou, groups, QualityConfig(kind=kind), NAMES)  # type: ignore[arg-type]
        again = QualityModel.from_bytes(model.to_bytes())
        assert again.to_bytes() == model.to_bytes()
        np.testing.assert_array_equal(again.predict(features), model.predict(features))
        assert again.accept_threshold(0.4) == model.accept_threshold(0.4)
        assert (again.names, again.config) == (model.names, model.config)


def test_wrong_input_is_told() -> None:
    features, miou, groups = records(40)
    with pytest.raises(ValueError, match="6 features for 2 names"):
        QualityModel.fit(features, miou, groups, names=("a", "b"))
    with pytest.raises(ValueError, match="folds"):
        QualityModel.fit(features[:9], miou[:9], groups[:9], names=NAMES)
    features[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        QualityModel.fit(features, miou, groups, names=NAMES)
