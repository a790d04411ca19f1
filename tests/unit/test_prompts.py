"""Prompt geometry: boxes of components, distance points (GPRN), heat-map points (GenSAM)."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.prompts.components import component_boxes
from models.prompts.distance import distance_points
from models.prompts.heatmap import heatmap_points

masks = hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(1, 12))
def test_distance_points_lie_inside_with_falling_depth(mask, count):
    points, depth = distance_points(mask, count)
    assert len(points) == len(depth) <= count
    assert (len(points) > 0) == bool(mask.any())
    assert all(mask[int(y), int(x)] for x, y in points)
    assert (np.diff(depth) <= 0).all()
    assert len({(x, y) for x, y in points.tolist()}) == len(points)


def test_the_first_distance_point_is_the_middle_and_the_frame_is_a_rim():
    mask = np.zeros((21, 21), bool)
    mask[5:16, 5:16] = True
    np.testing.assert_allclose(distance_points(mask, 1)[0], [[10.5, 10.5]])
    np.testing.assert_allclose(distance_points(np.ones((9, 9), bool), 1)[0], [[4.5, 4.5]])


def test_distance_points_reach_both_parts_of_a_mask():
    mask = np.zeros((20, 40), bool)
    mask[4:16, 2:14] = mask[6:14, 28:36] = True
    points, _ = distance_points(mask, 2)
    assert sorted(x > 20 for x, _ in points) == [False, True]


def test_a_uniform_heat_map_gives_no_points():
    for value in (0.0, 0.5, 1.0):
        points, positive = heatmap_points(np.full((20, 30), value, np.float32))
        assert points.shape == (0, 2) and positive.shape == (0,)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 1000))
def test_heatmap_points_are_balanced_and_hot_where_positive(height, width, seed):
    heat = np.random.default_rng(seed).random((height, width), np.float32)
    points, positive = heatmap_points(heat, max_points=5)
    again, _ = heatmap_points(heat, max_points=5)
    np.testing.assert_array_equal(points, again)
    assert positive.sum() == (~positive).sum() <= 5
    assert (points >= 0).all() and (points < [width, height]).all()


def test_heatmap_points_find_the_hot_and_the_cold_place():
    y, x = np.mgrid[:60, :80]
    heat = np.exp(-((y - 15) ** 2 + (x - 60) ** 2) / 200).astype(np.float32)
    points, positive = heatmap_points(heat)
    assert np.hypot(*(points[positive].mean(0) - [60, 15])) < 6
    assert (points[~positive][:, 0] < 40).any()


def test_component_boxes_hold_their_parts_largest_first():
    heat = np.zeros((40, 50), np.float32)
    heat[2:6, 3:9] = 0.5
    heat[20:35, 10:30] = 0.9
    heat[39, 49] = 1.0  # A speck.
    boxes = component_boxes(heat, threshold=0.25)
    np.testing.assert_allclose(boxes, [[10, 20, 30, 35], [3, 2, 9, 6]])
    wide = component_boxes(heat, threshold=0.25, margin=0.5)
    np.testing.assert_allclose(wide, [[0, 12.5, 40, 40], [0, 0, 12, 8]])
    assert component_boxes(heat, threshold=1.0).shape == (0, 4)
