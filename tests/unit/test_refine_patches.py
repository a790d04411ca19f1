"""Affinity, Mumford-Shah and responsibilities: what each promises alone, and as steps of *decide*."""

from dataclasses import replace

import numpy as np
import pytest
from decide_scene import CLASSES, iou, make_world, weak
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decide.config import DecideConfig
from models.decide.decide import decide, frame_of
from models.decide.patches import patch_affinity, refine_on_patches
from models.refine.affinity import Affinity
from models.refine.mumford_shah import MumfordShahConfig, mumford_shah
from models.refine.par import par
from models.refine.responsibility import responsibilities, shares, surest_places

WORLD = make_world()
SIZE = 6, 9


def features(size=SIZE, depth=5, seed=0):
    return np.random.default_rng(seed).normal(size=(*size, depth)).astype(np.float32)


def sources(seed=0):
    rng = np.random.default_rng(seed)
    count = SIZE[0] * SIZE[1]
    return {
        "features": Affinity.from_features(features(seed=seed)),
        "color": Affinity.from_color(rng.random((*SIZE, 3), np.float32)),
        "regions": Affinity.from_regions(rng.integers(0, 5, SIZE)),
        "masks": Affinity.from_regions((rng.random((4, *SIZE), np.float32) > 0.6).astype(np.float32)),
        "attention": Affinity.from_attention(rng.random((3, count, count), np.float32), SIZE),
    }


@pytest.mark.parametrize("name", list(sources()))
@pytest.mark.parametrize("rounds", [0, 3, 30])
def test_balanced_affinity_is_symmetric_and_doubly_stochastic(name, rounds):
    balanced = sources(1)[name].sinkhorn(rounds)
    for walk in (balanced, balanced.power(2)):
        matrix = walk.dense()
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
        np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-4)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-4)
    maps = np.random.default_rng(2).random((2, *SIZE), np.float32)
    out = balanced.power(3).apply(maps)
    np.testing.assert_allclose(out.sum((1, 2)), maps.sum((1, 2)), rtol=1e-3)
    assert out.min() >= maps.min() - 1e-3 and out.max() <= maps.max() + 1e-3


def test_a_power_is_a_walk_and_no_power_or_strength_leaves_maps_alone():
    maps = np.random.default_rng(0).random((3, *SIZE), np.float32)
    for affinity in sources().values():
        twice = affinity.apply(affinity.apply(maps))
        np.testing.assert_allclose(affinity.power(2).apply(maps), twice, rtol=1e-4)
        flat = (affinity.power(2).dense() @ maps.reshape(3, -1).T).T.reshape(maps.shape)
        np.testing.assert_allclose(flat, twice, rtol=1e-3)
        np.testing.assert_array_equal(affinity.apply(maps, strength=0.0), maps)
        np.testing.assert_array_equal(affinity.power(0).apply(maps), maps)
    with pytest.raises(ValueError, match="power"):
        affinity.power(-1)
    with pytest.raises(ValueError, match="covers"):
        affinity.apply(np.zeros((1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="54 places"):
        Affinity(np.zeros((3, 3), np.float32), SIZE)


def test_what_nothing_flows_to_keeps_its_value():
    matrix = np.zeros((4, 4), np.float32)
    matrix[0, 1] = 3.0
    balanced = Affinity(matrix, (2, 2)).sinkhorn()
    maps = np.array([[[0.0, 1.0], [0.2, 0.7]]], np.float32)
    np.testing.assert_allclose(balanced.apply(maps), [[[1.0, 0.0], [0.2, 0.7]]], atol=1e-4)


def test_an_empty_row_stays_finite_however_long_the_rest_takes():
    # 1 / 1e6 apart, the two sides of a path balance slowly.
    matrix = np.zeros((6, 6), np.float32)
    for place, flow in enumerate((1.0, 1e-6, 1.0, 1e-6)):
        matrix[place, place + 1] = matrix[place + 1, place] = flow
    for rounds in (20, 200):
        balanced = Affinity(matrix, (2, 3)).sinkhorn(rounds).dense()
        assert np.isfinite(balanced).all() and balanced[5, 5] == 1
        np.testing.assert_allclose(balanced.sum(1), 1, atol=1e-4)


def test_no_masks_leave_maps_alone():
    maps = np.random.default_rng(0).random((2, *SIZE), np.float32)
    np.testing.assert_array_equal(Affinity.from_regions(np.zeros((0, *SIZE), np.float32)).apply(maps), maps)


def test_each_source_says_what_it_is_about():
    regions = np.repeat([[0, 0, 0, 1, 1, 1, 2, 2, 2]], 6, 0)
    maps = np.random.default_rng(0).random((1, *SIZE), np.float32)
    means = Affinity.from_regions(regions).apply(maps)[0]
    for region in range(3):
        np.testing.assert_allclose(means[regions == region], maps[0][regions == region].mean(), rtol=1e-5)
    guide = np.random.default_rng(1).random((*SIZE, 3), np.float32)
    by_par = par(maps, guide, 4, (1, 2), 0.15, 0.01)
    np.testing.assert_allclose(Affinity.from_color(guide).power(4).apply(maps), by_par, atol=1e-5)
    like = features()
    like[:, :4] = like[0, 0]
    matrix = Affinity.from_features(like).dense().reshape(*SIZE, *SIZE)
    assert matrix[0, 0, 5, 3] > 5 * matrix[0, 0, 5, 4]
    alone = Affinity.from_regions(np.zeros((1, *SIZE), np.float32)).apply(maps)
    np.testing.assert_array_equal(alone, maps)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 4), st.floats(0.02, 2.0), st.floats(0, 3.0), st.floats(0, 1.0), st.booleans())
def test_mumford_shah_energy_never_rises(seed, count, temperature, smoothness, anchor, by_color):
    rng = np.random.default_rng(seed)
    start = rng.random((count, *SIZE), np.float32) + 0.01
    start /= start.sum(0)
    smoother = sources(seed)["color" if by_color else "features"]
    config = MumfordShahConfig(12, temperature, smoothness, anchor)
    masks, energies = mumford_shah(features(seed=seed), start, smoother, config)
    assert len(energies) == 12
    assert (np.diff(energies) <= 1e-5 * (1 + np.abs(energies[:-1]))).all()
    np.testing.assert_allclose(masks.sum(0), 1, atol=1e-5)


def two_halves():
    """Features of two materials, noisy, and a start that is right in most places."""
    rng = np.random.default_rng(3)
    right = np.zeros((10, 12), bool)
    right[:, 6:] = True
    field = np.where(right[..., None], [1.0, 0, 0], [0, 1.0, 0]) + rng.normal(0, 0.45, (10, 12, 3))
    start = np.clip(np.where(right, 0.6, 0.4) + rng.normal(0, 0.15, right.shape), 0.05, 0.95)
    guide = np.where(right[..., None], 0.8, 0.2) + rng.normal(0, 0.02, (10, 12, 3))
    return right, field.astype(np.float32), np.stack([start, 1 - start]).astype(np.float32), guide.astype(np.float32)


def test_mumford_shah_beats_its_start_and_one_turn_without_borders():
    right, field, start, guide = two_halves()

    def wrong(config):
        masks, _ = mumford_shah(field, start, Affinity.from_color(guide), config)
        return ((masks[0] > 0.5) != right).mean()

    first, argmax = wrong(MumfordShahConfig(steps=0)), wrong(MumfordShahConfig(1, smoothness=0.0))
    assert wrong(MumfordShahConfig()) < min(first, argmax)
    assert mumford_shah(field, start, Affinity.from_color(guide), MumfordShahConfig(steps=0))[0] is start
    with pytest.raises(ValueError, match="differ"):
        mumford_shah(field[:5], start, Affinity.from_color(guide), MumfordShahConfig())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
def test_one_mark_a_class_recovers_the_partition(scale):
    rng = np.random.default_rng(0)
    truth = np.repeat([[0, 0, 1, 1, 1, 2, 2, 2, 2]], 6, 0)
    field = (np.eye(3)[truth] * 4 + rng.normal(0, 0.2, (*SIZE, 3))) * scale
    seeds = np.full(SIZE, -1, np.int32)
    seeds[1, 0], seeds[3, 4], seeds[5, 8] = 0, 1, 2
    given = responsibilities(field.astype(np.float32), seeds, 4)
    np.testing.assert_array_equal(given[:3].argmax(0), truth)
    assert (given[3] == 0).all(), "limited to the classes that have marks"
    assert given.min() >= 0 and given.max() <= 1
    np.testing.assert_allclose(shares(given).sum(0), 1, atol=1e-4)


def test_marks_in_any_form_and_size_take_one_path():
    field = features((6, 9))
    small = np.full(SIZE, -1, np.int32)
    small[2, 3], small[4, 7] = 0, 1
    large = np.kron(small, np.ones((7, 7), np.int32)).astype(np.int32)
    one, other = responsibilities(field, small, 2), responsibilities(field, large, 2)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_surest_places_are_the_hottest_and_the_cold():
    heat = np.zeros((2, 4, 5), np.float32)
    heat[0, 1, 1], heat[0, 1, 2], heat[1, 1, 2], heat[1, 3, 4] = 1.0, 0.9, 0.95, 0.4
    marks = surest_places(heat, 0.5)
    assert marks[1, 1] == 0 and marks[1, 2] == 1 and marks[3, 4] == -1 and marks[0, 0] == 2
    assert (surest_places(heat, None) != 2).all()
    assert (surest_places(np.zeros((1, 2, 2), np.float32), None) == -1).all()


ON = {
    "affinity": {"affinity_strength": 1.0},
    "color": {"affinity_strength": 1.0, "affinity_source": "color"},
    "masks": {"affinity_strength": 1.0, "affinity_source": "masks"},
    "mumford_shah": {"mumford_shah_steps": 3},
    "responsibility": {"responsibility_weight": 0.6},
}


@pytest.mark.parametrize("name", list(ON))
def test_each_refiner_keeps_a_good_label_good_and_changes_the_heat(name):
    config = replace(DecideConfig(), **ON[name])
    label = decide(WORLD.evidence, WORLD.text, CLASSES, weak(tags=[0, 1, 2]), config)
    assert min(iou(label, WORLD.truth, 1), iou(label, WORLD.truth, 2)) > 0.7
    heat = np.random.default_rng(0).random((2, *WORLD.evidence.features.shape[:2]), np.float32)
    frame, rows = frame_of(WORLD.evidence, config), np.array([0, 1])
    for classes in (CLASSES, replace(CLASSES, background_id=None)):
        out = refine_on_patches(heat, rows, frame, WORLD.evidence, classes, weak(), config)
        assert out.shape == heat.shape and out.dtype == np.float32
        assert out.min() >= 0 and out.max() <= 1 + 1e-6 and not np.allclose(out, heat, atol=1e-2)
    for count in (0, 1):
        empty = np.zeros((count, *heat.shape[1:]), np.float32)
        out = refine_on_patches(empty, rows[:count], frame, WORLD.evidence, CLASSES, weak(), config)
        assert out.shape == empty.shape and np.isfinite(out).all()


def test_refiners_that_are_off_change_not_a_bit():
    off = replace(DecideConfig(), affinity_source="masks", affinity_power=5)
    for labels in (weak(tags=[0, 1, 2]), weak(), weak(points=[(48, 54, 0)])):
        one, other = (decide(WORLD.evidence, WORLD.text, CLASSES, labels, c) for c in (DecideConfig(), off))
        np.testing.assert_array_equal(one.class_map, other.class_map)
        np.testing.assert_array_equal(one.confidence, other.confidence)
    heat = np.random.default_rng(0).random((2, 15, 20), np.float32)
    frame = frame_of(WORLD.evidence, off)
    out = refine_on_patches(heat, np.array([0, 1]), frame, WORLD.evidence, CLASSES, weak(), off)
    assert out is heat


def test_a_point_outweighs_heat_in_the_wrong_place():
    """Heat of the cat lies on the dog; a point on each and on the ground says what is what."""
    config = replace(DecideConfig(), responsibility_weight=1.0)
    size = WORLD.evidence.features.shape[:2]
    heat = np.zeros((2, *size), np.float32)
    heat[0, 4:8, 12:17] = 1.0
    points = weak(points=[(48, 54, 0), (120, 50, 1), (10, 110, -1)])
    frame = frame_of(WORLD.evidence, config)
    out = refine_on_patches(heat, np.array([0, 1]), frame, WORLD.evidence, CLASSES, points, config)
    cat, dog = out[:, 6, 6], out[:, 6, 15]
    assert cat[0] > 2 * cat[1] and dog[1] > 2 * dog[0]


def test_the_affinity_of_patches_has_their_grid():
    frame = frame_of(WORLD.evidence, DecideConfig())
    for source in ("features", "color", "masks"):
        assert patch_affinity(frame, WORLD.evidence, source).size == WORLD.evidence.features.shape[:2]
