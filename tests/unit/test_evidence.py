"""Evidence through its encoding: what it costs in bytes and in accuracy."""

import dataclasses
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs

from models.clip.observer import ClipObserver
from models.clip.text import TextEncoder
from models.evidence import FEATURE_RANK, LEVEL, Evidence, Hints, MaskBank, decode, encode
from models.observe_config import ObserveConfig
from pipelines.references import POCKET


def evidence(grid: tuple[int, int, int], masks: tuple[int, int, int], guide: np.ndarray, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    rank = min(grid[2], 12)
    features = rng.normal(size=(*grid[:2], rank)) @ rng.normal(size=(rank, grid[2]))
    embedding = rng.normal(size=grid[2]).astype(np.float32)
    return Evidence(
        400,
        600,
        features.astype(np.float32),
        embedding / np.linalg.norm(embedding),
        MaskBank(
            rng.integers(0, 256, masks).astype(np.uint8),
            rng.uniform(size=masks[0]).astype(np.float32),
            rng.uniform(size=masks[0]).astype(np.float32),
            rng.integers(0, 5, masks[0]).astype(np.uint8),
        ),
        guide,
    )


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 80)),
    st.tuples(st.integers(0, 5), st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=40)
def test_round_trip(grid: tuple[int, int, int], masks: tuple[int, int, int], guide: tuple[int, int], seed: int) -> None:
    before = evidence(grid, masks, np.full((*guide, 3), 90, np.uint8), seed)
    after = decode(encode(before))
    assert (after.height, after.width) == (400, 600)
    assert after.features.shape == grid and after.features.dtype == np.float32
    np.testing.assert_allclose(after.features, before.features, atol=0.03 * np.abs(before.features).max())
    np.testing.assert_array_equal(after.embedding, before.embedding)
    assert after.bank.probs.shape == masks and after.bank.probs.dtype == np.uint8
    assert np.abs(after.bank.probs.astype(int) - before.bank.probs).max(initial=0) <= LEVEL // 2
    np.testing.assert_array_equal(after.bank.iou, before.bank.iou)
    np.testing.assert_array_equal(after.bank.stability, before.bank.stability)
    np.testing.assert_array_equal(after.bank.source, before.bank.source)
    assert after.guide.shape == (*guide, 3) and np.abs(after.guide.astype(int) - 90).max() <= 2


def test_masks_keep_their_threshold() -> None:
    """The border of a mask, at probability one half, stays where it was."""
    probs = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    before = evidence((2, 2, 3), (1, 16, 16), np.zeros((4, 4, 3), np.uint8))
    before = dataclasses.replace(before, bank=dataclasses.replace(before.bank, probs=probs))
    np.testing.assert_array_equal(decode(encode(before)).bank.probs > 127, probs > 127)


def test_features_of_a_higher_rank_lose_only_the_smallest_directions() -> None:
    rng = np.random.default_rng(0)
    spectrum = 0.9 ** np.arange(256)
    features = (rng.normal(size=(18, 24, 256)) * spectrum).astype(np.float32)
    before = dataclasses.replace(evidence((2, 2, 3), (0, 1, 1), np.zeros((4, 4, 3), np.uint8)), features=features)
    row = encode(before)
    assert row["grid"] == [18, 24, 256, FEATURE_RANK]
    error = np.linalg.norm(decode(row).features - features) / np.linalg.norm(features)
    assert error < 0.02


def test_encoding_twice_gives_the_same_bytes() -> None:
    before = evidence((17, 23, 64), (7, 15, 20), photographs.astronaut()[:64, :64])
    assert encode(before) == encode(before)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_the_guide_keeps_the_edges_of_photographs(name: str) -> None:
    guide = getattr(photographs, name)()[:288, :384]
    before = evidence((17, 23, 64), (1, 8, 8), guide)
    after = decode(encode(before)).guide.astype(float)
    error = np.abs(after - guide)
    assert error.mean() < 4
    edges, edges_after = (np.abs(np.diff(x.mean(-1), axis=1)) for x in (guide.astype(float), after))
    assert np.corrcoef(edges.ravel(), edges_after.ravel())[0, 1] > 0.9


def test_bytes_of_an_image_with_a_full_bank() -> None:
    """The largest that the pocket models give: 17 x 23 patches, 40 masks of 80 x 60."""
    guide = photographs.coffee()[:256, :384]
    yy, xx = np.mgrid[:60, :80]
    blobs = [255 / (1 + np.exp((np.hypot(yy - 30, xx - 40) - r) / 1.5)) for r in np.linspace(3, 35, 40)]
    before = evidence((17, 23, 256), (40, 60, 80), guide)
    before = dataclasses.replace(before, bank=dataclasses.replace(before.bank, probs=np.stack(blobs).astype(np.uint8)))
    row = encode(before)
    sizes = {name: len(value) for name, value in row.items() if isinstance(value, bytes)}
    assert sizes["features"] + sizes["features_scale"] < 60_000
    assert sizes["masks"] == 40 * 60 * 80 // 2
    assert len(zlib.compress(row["masks"])) < 15_000
    assert sum(sizes.values()) < 200_000


def test_no_hints() -> None:
    none = Hints.none()
    assert none.points.shape == (0, 2) and none.boxes.shape == (0, 4)


def test_loss_on_photographs_with_the_pocket_clip() -> None:
    """What the encoding takes from real features: some of what no word asks for, next to nothing of word scores."""
    path = str(POCKET / "clip")
    clip = ClipObserver(ObserveConfig(), path, "cpu")
    words = TextEncoder(path, "cpu").encode(
        [f"a photo of a {word}." for word in ("cat", "person", "motorbike", "sofa")]
    )
    for picture in (photographs.chelsea(), photographs.astronaut(), photographs.coffee()):
        (seen,) = clip.finish(clip.forward([clip.prepare(picture)]))
        before = dataclasses.replace(evidence((2, 2, 3), (0, 1, 1), picture[:8, :8]), features=seen.features)
        after = decode(encode(before)).features
        lost = np.linalg.norm(after - seen.features) / np.linalg.norm(seen.features)
        scores, scores_after = seen.features @ words.T, after @ words.T
        shift = np.abs(scores_after - scores).max() / np.ptp(scores)
        print(f"relative error {lost:.4f}, largest shift of a score {shift:.4f} of their range")
        assert lost < 0.15 and shift < 0.05
