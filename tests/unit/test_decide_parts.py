"""The parts of decide by themselves: settings, text match, confidence policies, seeds, boxes, masks, baselines."""

import dataclasses
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak

from models.decide.baselines import centre_prior
from models.decide.boxes import box_iou, ellipse, inside_box, mask_boxes
from models.decide.confidence import dynamic_threshold, keep_threshold, probability_of_winner, winners
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.fuse import Votes
from models.decide.masks import best_masks, component_masks, region_votes, soft_iou
from models.decide.seeds import BACKGROUND, NOTHING, draw_seeds, ids_to_rows
from models.decide.text_match import class_embeddings, heat, patch_scores, presence
from models.decide.types import PROVENANCE, ClassArrays, TextBank

CONFIG = DecideConfig()
WORLD = make_world()


def test_every_setting_says_what_it_means_and_where_it_may_go():
    kinds = get_type_hints(DecideConfig)
    for field in dataclasses.fields(DecideConfig):
        assert len(str(field.metadata["help"])) > 15, field.name
        if kinds[field.name] in (int, float):
            low, high = field.metadata["range"]
            assert low <= field.default <= high and low < high, field.name
        elif get_args(kinds[field.name]) and isinstance(field.default, str):
            assert field.default in get_args(kinds[field.name]), field.name


def test_prompts_of_a_class_are_one_mean_direction():
    emb = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], np.float32)
    classes, words = class_embeddings(TextBank(emb, np.array([0, 0, 1, -1], np.int32)), 2)
    np.testing.assert_allclose(classes, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(words, [[0, 0, 1]])


def test_cosine_looks_at_direction_only_and_dot_at_size_too():
    features = WORLD.evidence.features * np.linspace(1, 5, WORLD.evidence.features.shape[1])[None, :, None]
    grown = replace(WORLD.evidence, features=features.astype(np.float32))
    cosine = replace(CONFIG, similarity="cosine")
    same = [patch_scores(e, WORLD.text, 4, cosine)[0] for e in (WORLD.evidence, grown)]
    np.testing.assert_allclose(*same, atol=1e-5)
    assert np.abs(same[0]).max() <= 1 + 1e-5
    dots = [patch_scores(e, WORLD.text, 4, CONFIG)[0] for e in (WORLD.evidence, grown)]
    assert dots[1].max() > 2 * dots[0].max()


@pytest.mark.parametrize("scale", ["max", "minmax", "softmax"])
def test_heat_of_every_scale_lies_in_0_to_1_and_reaches_1(scale):
    scores = np.random.default_rng(0).normal(size=(3, 6, 7)).astype(np.float32)
    out = heat(scores, scores[0] * 0.5, replace(CONFIG, heat_scale=scale))
    assert out.min() >= 0
    np.testing.assert_allclose(out.max((1, 2)), 1, atol=1e-6)
    negative = heat(-np.abs(scores), np.zeros((6, 7), np.float32), replace(CONFIG, heat_scale="max"))
    assert negative.max() == 0, "nothing speaks for the class: no heat, and no division by zero"


def test_background_words_take_heat_off_what_they_name():
    scores, words = patch_scores(WORLD.evidence, WORLD.text, 4, CONFIG)
    ground = words > 0.7
    with_words = heat(scores, words, replace(CONFIG, background_words_weight=1.0))
    without = heat(scores, words, replace(CONFIG, background_words_weight=0.0))
    assert with_words[:, ground].mean() < 0.5 * without[:, ground].mean()


def test_presence_ranks_what_is_there_before_what_is_not():
    scores, _ = patch_scores(WORLD.evidence, WORLD.text, 4, CONFIG)
    for temperature in (0.0, 0.1):
        likely = presence(WORLD.evidence, WORLD.text, scores, replace(CONFIG, presence_temperature=temperature))
        assert likely.argmin() == 3
        assert likely.min() >= 0 and likely.max() <= 1 + 1e-6


def test_the_dynamic_threshold_really_moves():
    """CW-BASS's own defaults (0.6, 0.5, 0.3, 0.8) span 0.04 of confidence; ours must span at least 0.2."""
    means = np.linspace(0, 1, 101)
    knobs = (CONFIG.dynamic_base, CONFIG.dynamic_slope, CONFIG.dynamic_low, CONFIG.dynamic_high)
    ours = np.array([dynamic_threshold(m, *knobs) for m in means])
    theirs = np.array([dynamic_threshold(m, 0.6, 0.5, 0.3, 0.8) for m in means])
    assert np.ptp(theirs) < 0.04
    assert np.ptp(ours) >= 0.2
    assert (np.diff(ours) >= 0).all()
    assert ours.min() >= CONFIG.dynamic_low and ours.max() <= CONFIG.dynamic_high


def test_threshold_policies():
    fixed = replace(CONFIG, keep_policy="fixed", keep_threshold=0.6)
    assert keep_threshold(0.1, fixed) == keep_threshold(0.9, fixed) == pytest.approx(0.6)
    dynamic = replace(CONFIG, keep_policy="dynamic")
    assert keep_threshold(0.9, dynamic) > keep_threshold(0.4, dynamic)
    strict = decide(WORLD.evidence, WORLD.text, CLASSES, weak(tags=[0]), replace(fixed, keep_threshold=1.0))
    lax = decide(WORLD.evidence, WORLD.text, CLASSES, weak(tags=[0]), replace(fixed, keep_threshold=0.0))
    assert strict.coverage < lax.coverage == 1.0
    np.testing.assert_array_equal(strict.class_map, lax.class_map)


def test_probabilities_are_those_of_the_winner():
    strength = np.array([[[0.9, 0.1, 0.5]], [[0.1, 0.2, 0.5]]], np.float32)
    np.testing.assert_array_equal(winners(strength, 0.4), [[0, -1, 0]])
    np.testing.assert_array_equal(winners(strength, None), [[0, 1, 0]])
    got = probability_of_winner(strength, winners(strength, 0.4), 0.4, 0.1)
    np.testing.assert_allclose(got[0, 0], 1 / (1 + np.exp(-5) + np.exp(-8)), rtol=1e-5)
    np.testing.assert_allclose(got[0, 2], 1 / (2 + np.exp(-1)), rtol=1e-5)
    assert (got >= 1 / 3 - 1e-6).all()
    sceptic = probability_of_winner(strength, winners(strength, 0.4), 0.7, 0.1)
    np.testing.assert_allclose(sceptic[0, 2], 1 / (2 + np.exp(2)), rtol=1e-5)
    both = probability_of_winner(strength, winners(strength, None), None, 0.1)
    np.testing.assert_allclose(both[0, 2], 0.5)


def test_ids_become_rows_and_strangers_say_nothing():
    classes = ClassArrays(np.array([7, 3], np.int32), ["a", "b"], 0)
    np.testing.assert_array_equal(
        ids_to_rows(np.array([[7, 3, 0, -1, 5, 90]], np.int32), classes), [[0, 1, BACKGROUND] + [NOTHING] * 3]
    )
    no_background = replace(classes, background_id=None)
    assert ids_to_rows(np.array([0], np.int32), no_background)[0] == NOTHING


def test_seeds_scale_with_the_grid_and_partial_wins():
    partial = np.full((100, 200), -1, np.int32)
    partial[:, 150:] = 2
    labels = weak(points=[(20, 50, 0), (180, 50, 3)], partial=partial)
    seeds = draw_seeds(labels, CLASSES, (100, 200), (25, 50), 1.0)
    assert seeds.rows[12, 5] == 0 and seeds.rows[12, 45] == 1
    assert seeds.rows[0, 0] == NOTHING and (seeds.rows[:, 38:] == 1).all()


def test_ellipse_and_boxes():
    box = np.array([10, 5, 30, 25], np.float32)
    prior = ellipse(box, (30, 40))
    assert prior[15, 20] > 0.99 and prior[15, 10] == pytest.approx(0.5, abs=0.06) and prior[5, 10] < 0.1
    assert inside_box(box, (30, 40)).sum() == 400
    assert inside_box(np.array([39.9, 29.9, 40, 30], np.float32), (30, 40)).sum() == 1
    masks = np.zeros((2, 30, 40), np.float32)
    masks[0, 5:25, 10:30] = 1
    np.testing.assert_allclose(mask_boxes(masks), [box, [0, 0, 0, 0]])
    np.testing.assert_allclose(box_iou(box, mask_boxes(masks)), [1, 0])


def test_components_take_the_masks_that_fit_them():
    masks = np.zeros((3, 20, 30), np.float32)
    masks[0, 4:14, 3:13] = masks[1, 5:15, 18:28] = 1
    masks[2] = 0.9
    warm = np.zeros((1, 20, 30), np.float32)
    warm[0, 6:12, 5:11] = 0.8  # Inside the first mask only.
    quality = np.full(3, 0.8, np.float32)
    one = component_masks(warm, masks, quality, replace(CONFIG, mask_top=1))
    np.testing.assert_allclose(one[0], masks[0])
    none = component_masks(warm, masks[1:2], quality[:1], CONFIG)
    np.testing.assert_allclose(none[0], warm[0], err_msg="no mask fits: the heat stays as it is")
    assert component_masks(warm * 0, masks, quality, CONFIG).max() == 0
    votes = region_votes(warm, masks, quality)[0]
    assert votes[8, 8] > 3 * votes[10, 22]
    overlap = soft_iou(masks, masks)
    np.testing.assert_allclose(np.diag(overlap)[:2], 1, atol=1e-5)
    assert best_masks(np.array([0.01, 0.02], np.float32), quality[:2], CONFIG) is None


def test_the_centre_prior_knows_the_tags_and_nothing_else():
    one = centre_prior(CLASSES, weak(tags=[1]), 40, 60)
    assert set(np.unique(one)) == {0, 2} and one[20, 30] == 2 and one[0, 0] == 0
    assert (one == 2).mean() == pytest.approx(0.5, abs=0.02)
    two = centre_prior(CLASSES, weak(tags=[0, 2]), 40, 60)
    assert two[20, 20] == 1 and two[20, 40] == 3
    assert not centre_prior(CLASSES, weak(), 40, 60).any()
    everywhere = centre_prior(replace(CLASSES, background_id=None), weak(tags=[0, 2]), 40, 60)
    assert (everywhere[:, :30] == 1).all() and (everywhere[:, 30:] == 3).all()


def test_a_source_that_speaks_twice_keeps_what_it_said_first():
    votes = Votes(np.full((1, 4, 4), 0.2, np.float32), 0.3)
    votes.blend("mask", np.ones((1, 4, 4), np.float32), 0.7)
    before = votes.provenance()
    assert (before == PROVENANCE.index("mask")).all()
    votes.blend("mask", np.zeros((1, 4, 4), np.float32), 0.0)
    np.testing.assert_array_equal(votes.provenance(), before)
