"""Random views: picture, target and weight keep their common geometry."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.students.augment import (
    FILL_RGB,
    IGNORE,
    AugmentConfig,
    View,
    augment,
    draw_view,
    jitter,
    view_map,
    view_picture,
)

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
NO_COLOUR = AugmentConfig(brightness=0, contrast=0, saturation=0)


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four rectangles of pure colours, whose index is the target; the weight is a ramp from left to right."""
    target = np.zeros((height, width), np.int16)
    target[height // 3 :] += 1
    target[:, width // 2 :] += 2
    weight = np.tile(np.linspace(1, 255, width).astype(np.uint8), (height, 1))
    return COLORS[target], target, weight


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(16, 96), st.integers(0, 10_000))
def test_the_target_names_the_colour_that_the_picture_shows(height: int, width: int, size: int, seed: int) -> None:
    picture, target, weight = scene(height, width)
    seen, named, weighed = augment(picture, target, weight, size, NO_COLOUR, np.random.default_rng(seed))
    assert seen.shape == (size, size, 3) and named.shape == weighed.shape == (size, size)
    assert (seen.dtype, named.dtype, weighed.dtype) == (np.uint8, np.int16, np.uint8)
    outside = named == IGNORE
    assert (weighed[outside] == 0).all() and (seen[outside] == FILL_RGB).all()
    expected = COLORS[np.maximum(named, 0)].astype(int)
    # Away from the borders between rectangles, where pixels mix, every colour is pure.
    inner = ~outside
    for axis in (0, 1):
        for shift in (-4, -3, -2, -1, 1, 2, 3, 4):
            inner &= np.roll(named, shift, axis) == named
    assert (np.abs(seen.astype(int) - expected).max(-1)[inner] < 128).all(), "nearer to another colour"


def test_a_view_is_a_function_of_its_seed() -> None:
    picture, target, weight = scene(60, 80)
    one, same, other = (
        augment(picture, target, weight, 48, AugmentConfig(), np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert not (one[0] == other[0]).all()


def test_the_flip_mirrors_all_three() -> None:
    picture, target, weight = scene(40, 40)
    view = View(0.0, 0.0, 1.0, False)
    mirrored = dataclasses.replace(view, flip=True)
    assert (view_picture(picture, view, 40)[:, ::-1] == view_picture(picture, mirrored, 40)).all()
    assert (view_map(target, view, 40, IGNORE)[:, ::-1] == view_map(target, mirrored, 40, IGNORE)).all()
    assert (view_picture(picture, view, 40) == picture).all()
    assert (view_map(weight, view, 40, 0) == weight).all()


def test_off_is_the_middle_as_it_is() -> None:
    picture, target, weight = scene(60, 100)
    seen, named, _ = augment(picture, target, weight, 60, AugmentConfig(enabled=False), np.random.default_rng(0))
    assert (seen == picture[:, 20:80]).all() and (named == target[:, 20:80]).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 200), st.integers(10, 200), st.integers(16, 128), st.integers(0, 1000))
def test_a_view_lies_inside_or_holds_the_picture(height: int, width: int, size: int, seed: int) -> None:
    view = draw_view(height, width, size, AugmentConfig(), np.random.default_rng(seed))
    side = size / view.scale
    for start, length in ((view.left, width), (view.top, height)):
        inside = start >= -1e-9 and start + side <= length + 1e-9
        holds = start <= 1e-9 and start + side >= length - 1e-9
        assert inside or holds


def test_colours_change_as_asked() -> None:
    picture = np.random.default_rng(0).integers(60, 190, (8, 8, 3)).astype(np.uint8)
    grey = AugmentConfig(brightness=0, contrast=0, saturation=1.0)
    drained = [jitter(picture, grey, np.random.default_rng(seed)) for seed in range(8)]
    spread = [float(np.ptp(found.astype(int), axis=-1).mean()) for found in drained]
    assert min(spread) < 0.5 * float(np.ptp(picture.astype(int), axis=-1).mean()) < max(spread)
    bright = AugmentConfig(brightness=0.5, contrast=0, saturation=0)
    means = [jitter(picture, bright, np.random.default_rng(seed)).mean() for seed in range(8)]
    assert min(means) < picture.mean() < max(means)
    assert jitter(picture, NO_COLOUR, np.random.default_rng(0)) is picture


def test_maps_of_another_size_are_refused() -> None:
    picture, target, weight = scene(40, 40)
    with pytest.raises(ValueError, match="differ in size"):
        augment(picture, target[:-1], weight[:-1], 32, AugmentConfig(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="min_scale"):
        AugmentConfig(min_scale=2.0, max_scale=1.0)
