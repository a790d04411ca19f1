"""Instances: in heat maps by two thresholds (DTH-CP), and in class maps by points (P2Seg)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from models.decide.instances import instances
from models.prompts.components import component_boxes
from models.prompts.dual_threshold import dual_threshold


def blobs(size, centres, width=30.0):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.max([np.exp(-((y - v) ** 2 + (x - u) ** 2) / width) for u, v in centres], 0).astype(np.float32)


def test_two_thresholds_part_what_one_merges_and_cover_what_one_cuts():
    heat = blobs((30, 50), [(15, 15), (30, 15)])
    assert len(component_boxes(heat, 0.1)) == 1
    boxes, ids = dual_threshold(heat, 0.7, 0.1)
    assert boxes.shape == (2, 4) and set(np.unique(ids)) == {0, 1, 2}
    np.testing.assert_array_equal(ids > 0, heat > 0.1)
    assert ids[15, 15] != ids[15, 30]
    narrow = component_boxes(heat, 0.7)
    assert (boxes[:, 2:] - boxes[:, :2]).mean() > 1.5 * (narrow[:, 2:] - narrow[:, :2]).mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 999), st.floats(0.1, 0.6), st.floats(0, 0.4))
def test_as_many_instances_as_high_components(height, width, seed, low, more):
    heat = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 1).astype(np.float32)
    high = low + more
    boxes, ids = dual_threshold(heat, high, low)
    parts, count = ndimage.label(heat > high)
    assert len(boxes) == count == ids.max()
    assert not ids[heat <= low].any()
    sizes = [(parts[ids == n] > 0).sum() for n in range(1, count + 1)]
    assert sizes == sorted(sizes, reverse=True)
    for number in range(1, count + 1):
        mine = ids == number
        assert ndimage.label(mine)[1] == 1
        assert len(np.unique(parts[mine & (parts > 0)])) == 1
        rows, columns = np.nonzero(mine)
        np.testing.assert_array_equal(boxes[number - 1], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    again, _ = dual_threshold(heat, high, low)
    np.testing.assert_array_equal(boxes, again)


def test_a_warm_place_without_a_hot_one_is_no_instance_and_thresholds_have_an_order():
    boxes, ids = dual_threshold(np.full((5, 6), 0.5, np.float32), 0.7, 0.25)
    assert boxes.shape == (0, 4) and not ids.any()
    with pytest.raises(ValueError, match="below"):
        dual_threshold(np.zeros((2, 2), np.float32), 0.2, 0.3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 8), st.booleans(), st.booleans())
def test_every_pixel_has_an_instance_of_its_class_and_points_keep_theirs(seed, count, complete, edges):
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 25)), int(rng.integers(1, 25))
    class_map = rng.integers(0, 3, shape) if seed % 2 else (ndimage.gaussian_filter(rng.random(shape), 2) > 0.5) * 7
    points = (rng.random((count, 2)) * [shape[1], shape[0]]).astype(np.float32)
    own = class_map[points[:, 1].astype(int), points[:, 0].astype(int)]
    cost = rng.random(shape, np.float32) if edges else None
    got = instances(class_map, points, own, 0, cost, complete)
    np.testing.assert_array_equal(got > 0, class_map > 0)
    for number in np.unique(got[got > 0]):
        [of_class] = np.unique(class_map[got == number])
        assert number > count or of_class == own[number - 1]
    cells = [(int(y), int(x)) for x, y in points]
    for number, cell in enumerate(cells):
        if own[number] > 0:
            assert got[cell] == cells.index(cell) + 1
    if complete:
        named = set(own.tolist())
        assert all(number <= count for number in np.unique(got[np.isin(class_map, list(named - {0}))]))


def test_ways_go_around_edges_and_straight_lines_do_not():
    """Two bars with a gap between them but for a bridge at the top; the left bar's point lies low, by the gap."""
    region = np.zeros((30, 21), np.int32)
    region[:, :10] = region[:, 11:] = region[0] = 1
    points = np.array([[2.5, 0.5], [11.5, 28.5]], np.float32)
    got = instances(region, points, np.array([1, 1]))
    assert (got[15:, 11:] == 2).all() and (got[:, :10] == 1).all()
    # Without the gap an edge in the picture does the same.
    edge = np.zeros((30, 21), np.float32)
    edge[:, 10] = 1
    by_edge, plain = (instances(np.ones_like(region), points, np.array([1, 1]), cost=c) for c in (edge, None))
    assert (by_edge[:, :10] == 1).mean() > (plain[:, :10] == 1).mean() + 0.15


def test_parts_without_a_point():
    class_map = np.zeros((10, 20), np.int32)
    class_map[2:5, 2:5] = class_map[2:5, 8:11] = class_map[6:9, 14:17] = 3
    point = np.array([[3.5, 3.5], [19.5, 9.5]], np.float32), np.array([3, 3])  # The second lies on no 3.
    got = instances(class_map, *point)
    assert {int(got[3, 3]), int(got[3, 9]), int(got[7, 15])} == {1, 3, 4}
    assert set(np.unique(instances(class_map, *point, complete=True))) == {0, 1}
    assert instances(np.zeros((3, 3), np.int32), np.zeros((0, 2), np.float32), np.zeros(0, int), None).min() == 1
