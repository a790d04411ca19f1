"""Dense CLIP with hooks: projections, likeness attention, weighted tokens, tiles; all off leaves all as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import write_clip

from models.clip.labeler import SELF_ATTENTION, PatchTextLabeler, likeness_attention, token_weights
from models.clip.load import load_clip
from models.clip.observer import ClipObserver
from models.clip.tiling import cut, stitch
from models.observe_config import ClipObserveConfig, ObserveConfig, key_fields
from pipelines.flow.run import digest


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (smooth.permute(1, 2, 0) * 255).byte().numpy()


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def observe(path: Path, picture: np.ndarray, **clip: object) -> tuple[np.ndarray, np.ndarray]:
    seen = ClipObserver(ObserveConfig(clip=ClipObserveConfig(**clip), micro_batch=1), str(path), "cpu")
    (one,) = seen.finish(seen.forward([seen.prepare(picture)]))
    return one.features, one.embedding


@torch.inference_mode()
def test_the_three_projections_are_averaged(small_clip: Path) -> None:
    checkpoint = load_clip(small_clip)
    attention = checkpoint.model.vision_model.encoder.layers[-1].self_attn
    tokens = torch.randn(1, 17, 32, generator=torch.Generator().manual_seed(0))
    each = [PatchTextLabeler(checkpoint, mode)._self_attention(attention, tokens) for mode in ("qq", "kk", "vv")]
    assert (each[0] - each[1]).abs().max() > 1e-3
    # One head: softmax(q qT / sqrt d) v, written out.
    query, value = (part(tokens)[0].chunk(2, dim=-1) for part in (attention.q_proj, attention.v_proj))
    written = [(q @ q.T / q.shape[-1] ** 0.5).softmax(-1) @ v for q, v in zip(query, value, strict=True)]
    torch.testing.assert_close(each[0][0], attention.out_proj(torch.cat(written, -1)), atol=1e-5, rtol=0)
    mean = PatchTextLabeler(checkpoint, "qq+kk+vv")._self_attention(attention, tokens)
    torch.testing.assert_close(mean, torch.stack(each).mean(0), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("mode", SELF_ATTENTION)
def test_hooks_at_zero_change_no_bit_and_never_the_embedding(small_clip: Path, mode: str) -> None:
    checkpoint, picture = load_clip(small_clip), tensor(photograph(64, 96))
    features, embedding = PatchTextLabeler(checkpoint, mode)(picture)
    same, _ = PatchTextLabeler(checkpoint, mode, 5, 0.0, 0.0)(picture)
    assert torch.equal(features, same)
    extra = 0.0 if mode == "plain" else 0.5
    other, unmoved = PatchTextLabeler(checkpoint, mode, 5, extra, 1.0)(picture)
    assert torch.equal(embedding, unmoved)
    assert (other - features).abs().max() > 1e-3
    near, _ = PatchTextLabeler(checkpoint, mode, 5, 0.0, 1e-6)(picture)
    torch.testing.assert_close(near, features, atol=1e-4, rtol=0)  # The path that is edited is the same path.
    torch.testing.assert_close(other.norm(dim=-1), torch.ones(other.shape[:3]))  # Per token, not over tokens.


def test_likeness_attention_gives_nothing_to_what_is_less_alike_than_average() -> None:
    two_objects = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])[None]
    attention = likeness_attention(two_objects)[0]
    torch.testing.assert_close(attention.sum(-1), torch.ones(4))
    assert attention[:2, 2:].max() == 0 and attention[2:, :2].max() == 0 and attention[0, 1] > 0.4
    torch.testing.assert_close(likeness_attention(torch.ones(1, 1, 3)), torch.ones(1, 1, 1))
    assert likeness_attention(torch.randn(2, 9, 5)).isfinite().all()


def test_extra_attention_needs_a_path_to_add_to(small_clip: Path) -> None:
    with pytest.raises(ValueError, match="attention 'plain' has none to add to"):
        PatchTextLabeler(load_clip(small_clip), "plain", extra_attention=0.5)


@given(st.integers(1, 40), st.floats(0, 2), st.integers(0, 99))
@settings(deadline=None)
def test_token_weights_follow_the_rank_and_average_to_one(count: int, alpha: float, seed: int) -> None:
    looked_at = torch.rand(2, count, generator=torch.Generator().manual_seed(seed))
    weights = token_weights(looked_at, alpha)
    torch.testing.assert_close(weights.mean(-1), torch.ones(2))
    assert weights.min() >= 1 - alpha / 2 - 1e-6 and weights.max() <= 1 + alpha / 2 + 1e-6
    ordered = weights.gather(-1, looked_at.argsort(-1))
    assert (ordered.diff(dim=-1) >= 0).all()
    assert alpha or torch.equal(weights, torch.ones(2, count))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 5), st.floats(0, 0.75), st.integers(0, 99))
@settings(deadline=None)
def test_tiles_stitch_exactly(rows: int, columns: int, k: int, overlap: float, seed: int) -> None:
    """What was cut out of one map is that map again: every cell is covered, none is moved."""
    whole = torch.randn(1, rows, columns, 3, generator=torch.Generator().manual_seed(seed))
    tiles = cut((rows, columns), k, overlap)
    assert len(tiles) <= k * k and len({(tile.y1 - tile.y0, tile.x1 - tile.x0) for tile in tiles}) == 1
    parts = [whole[:, tile.y0 : tile.y1, tile.x0 : tile.x1] for tile in tiles]
    torch.testing.assert_close(stitch(parts, tiles, (rows, columns)), whole, atol=1e-6, rtol=0)
    if min(rows, columns) >= 4 * k and overlap > 0.2:
        neighbours = [tile for tile in tiles if tile.y0 == 0]
        shared = neighbours[0].x1 - neighbours[1].x0
        assert shared >= overlap * (neighbours[0].x1 - neighbours[0].x0) - 1.5  # Whole cells.


def test_tiles_refine_the_grid_and_lie_where_they_were_cut(small_clip: Path) -> None:
    """A picture that differs in one corner has features that differ there and, with tiles, at the far corner no more
    than the view of the whole makes them."""
    picture = photograph(96, 96)
    changed = picture.copy()
    changed[:36, :36] = 255 - changed[:36, :36]
    base, embedding = observe(small_clip, picture)
    tiled, same = observe(small_clip, picture, tiles=(2,))
    assert tiled.shape == (2 * base.shape[0], 2 * base.shape[1], base.shape[2])
    np.testing.assert_array_equal(embedding, same)
    whole_only = np.abs(observe(small_clip, changed)[0] - base).max(-1)
    moved = np.abs(observe(small_clip, changed, tiles=(2,))[0] - tiled).max(-1)
    assert moved[:2, :2].min() > moved[-2:, -2:].max()
    assert moved[-2:, -2:].max() <= whole_only[-2:, -2:].max() / 2 + 1e-3  # Half of the mean is the whole's.
    assert observe(small_clip, picture, tiles=(2, 3), tiles_grid=1.0)[0].shape == base.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (40, 1), (60, 80)])
def test_tiles_of_odd_pictures(small_clip: Path, size: tuple[int, int]) -> None:
    features, _ = observe(small_clip, photograph(*size), tiles=(2, 4), flip=True, scales=(0.5, 1.0))
    assert np.isfinite(features).all()


def test_fields_at_their_defaults_leave_the_evidence_key_as_it_was() -> None:
    """The digest that the config has without these fields; a changed field makes a new key."""
    before = "f2792d517633760f0dfd78f6727d46c39c96242c88789ff1a4a94c032e512cb4"
    assert digest(key_fields(ObserveConfig())) == before
    changed = [{"extra_attention": 0.5}, {"token_weight": 0.5}, {"tiles": (2,)}, {"tiles_overlap": 0.5}]
    keys = {digest(key_fields(ObserveConfig(clip=ClipObserveConfig(**one)))) for one in [{}, *changed]}
    assert len(keys) == 5
