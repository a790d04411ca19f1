"""PAR and the guided filter: identity, range, borders, edges, and PAR against a plain reading of the paper."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.refine.grids import fit_grid, resize_maps, resize_nearest
from models.refine.guided import guided_upsample
from models.refine.par import DIRECTIONS, affinity, par


def two_halves(height: int = 24, width: int = 32) -> np.ndarray:
    """A picture [h, w, 3], 0..1, dark on the left, bright on the right, with a little noise."""
    picture = np.full((height, width, 3), 0.2, np.float32)
    picture[:, width // 2 :] = 0.8
    return picture + np.random.default_rng(0).normal(0, 0.01, picture.shape).astype(np.float32)


def par_by_the_paper(maps, guide, iterations, dilations, w1, w2):
    """PAR as its authors wrote it, pixel neighbourhoods unfolded; only the rows are divided by their sum 1 + w2."""

    def near(x):
        stack = []
        for step in dilations:
            padded = functional.pad(x, [step] * 4, mode="replicate")
            for dy, dx in DIRECTIONS:
                y0, x0 = step + dy * step, step + dx * step
                stack.append(padded[..., y0 : y0 + x.shape[2], x0 : x0 + x.shape[3]])
        return torch.stack(stack, 2)

    image = torch.from_numpy(guide).permute(2, 0, 1)[None].double()
    around = near(image)
    spread = around.std(2, keepdim=True, unbiased=False)
    color = -(((around - image[:, :, None]).abs() / (spread + 1e-12) / w1) ** 2).mean(1, keepdim=True)
    distance = torch.tensor([step * np.hypot(dy, dx) for step in dilations for dy, dx in DIRECTIONS])
    place = -((distance / distance.std(unbiased=False) / w1) ** 2)
    weights = color.softmax(2) + w2 * place.softmax(0)[None, None, :, None, None]
    out = torch.from_numpy(maps)[None].double()
    for _ in range(iterations):
        out = (near(out) * weights).sum(2) / (1 + w2)
    return out[0].numpy()


def test_par_equals_a_plain_reading_of_the_paper():
    rng = np.random.default_rng(1)
    maps, guide = rng.random((2, 13, 17), np.float32), rng.random((13, 17, 3), np.float32)
    got = par(maps, guide, iterations=5, dilations=(1, 2, 4), color_weight=0.3, position_weight=0.01)
    np.testing.assert_allclose(got, par_by_the_paper(maps, guide, 5, (1, 2, 4), 0.3, 0.01), atol=1e-4)


@pytest.mark.parametrize("off", [{"strength": 0.0}, {"iterations": 0}, {"dilations": ()}])
def test_par_switched_off_is_the_identity(off):
    maps = np.random.default_rng(2).random((3, 9, 11), np.float32)
    np.testing.assert_array_equal(par(maps, two_halves(9, 11), **off), maps)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 5), st.floats(0, 1))
def test_par_keeps_constants_and_ranges(height, width, iterations, strength):
    rng = np.random.default_rng(height * 100 + width)
    guide = rng.random((height, width, 3), np.float32)
    maps = np.stack([np.full((height, width), 0.7, np.float32), rng.random((height, width), np.float32)])
    out = par(maps, guide, iterations=iterations, strength=strength)
    np.testing.assert_allclose(out[0], 0.7, atol=1e-5)
    assert out[1].min() >= maps[1].min() - 1e-5
    assert out[1].max() <= maps[1].max() + 1e-5


def test_par_of_a_flat_picture_stays_finite_and_does_not_drain_the_border():
    guide = np.full((10, 10, 3), 0.5, np.float32)
    rows = np.asarray(affinity(guide, (1, 2), 0.3, 0.01).sum(1)).ravel()
    np.testing.assert_allclose(rows, 1.0, atol=1e-5)
    assert np.isfinite(par(np.eye(10, dtype=np.float32)[None], guide)).all()


def test_par_stops_at_edges():
    """Heat on a part of the right half spreads over that half and not over the left one."""
    heat = np.zeros((1, 24, 32), np.float32)
    heat[0, 8:16, 14:24] = 1.0  # Runs two pixels over the edge at column 16.
    out = par(heat, two_halves(), iterations=20)[0]
    assert out[8:16, 14:16].mean() < 0.5 * out[8:16, 16:18].mean()
    assert out[:, 26:].mean() > 0.0


def test_par_refuses_a_guide_of_another_size():
    with pytest.raises(ValueError, match="guide covers"):
        par(np.zeros((1, 4, 4), np.float32), np.zeros((5, 4, 3), np.float32))


def guided(maps, strength=1.0):
    picture = two_halves(96, 128).transpose(2, 0, 1)
    return guided_upsample(maps, picture, resize_maps(picture, maps.shape[1:]), strength=strength)


def test_guided_upsampling_at_strength_zero_is_bilinear():
    maps = np.random.default_rng(3).random((2, 24, 32), np.float32)
    np.testing.assert_array_equal(guided(maps, 0.0), resize_maps(maps, (96, 128)))


def test_guided_upsampling_keeps_constants_and_ranges():
    maps = np.stack([np.full((24, 32), 0.3), np.random.default_rng(4).random((24, 32))]).astype(np.float32)
    out = guided(maps)
    np.testing.assert_allclose(out[0], 0.3, atol=1e-4)
    assert maps[1].min() <= out[1].min() and out[1].max() <= maps[1].max()


def test_guided_upsampling_sharpens_an_edge_that_the_picture_has():
    ramp = np.clip((np.arange(32) - 12) / 8, 0, 1).astype(np.float32)  # Soft, centred on the picture's edge.
    maps = np.broadcast_to(ramp, (1, 24, 32)).copy()

    def step(out):
        return out[0, :, 66].mean() - out[0, :, 61].mean()

    assert step(guided(maps)) > 2 * step(guided(maps, 0.0))


def test_resizing_keeps_the_mean_and_the_frame():
    maps = np.random.default_rng(5).random((1, 40, 60), np.float32)
    assert abs(resize_maps(maps, (10, 15)).mean() - maps.mean()) < 0.01
    assert resize_maps(np.zeros((0, 4, 4), np.float32), (2, 2)).shape == (0, 2, 2)
    halves = np.repeat(np.array([[1, 2]]), 3, 0)
    np.testing.assert_array_equal(resize_nearest(halves, (6, 4)), np.repeat([[1, 1, 2, 2]], 6, 0))
    assert fit_grid(1, 3000, 88) == (1, 88)
    assert fit_grid(375, 500, 88) == (66, 88)
