"""Dense CLIP: equal to transformers' own outputs, the value-value path, batches of mixed shapes, text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import write_clip
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from models.clip.labeler import PatchTextLabeler
from models.clip.load import OPENAI_MEAN, OPENAI_STD, ClipCheckpoint, load_clip
from models.clip.observer import ClipObserver
from models.clip.shapes import bucket
from models.clip.text import TextEncoder, text_embeddings
from models.observe_config import ClipObserveConfig, ObserveConfig

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def full_size() -> ClipCheckpoint:
    """ViT-B/16 with its real sizes and random weights large enough for every path to show."""
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512)).eval()
    assert model.config.vision_config.hidden_size == 768
    return ClipCheckpoint(model, OPENAI_MEAN, OPENAI_STD, 224, "plain", dense_normalise=False)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, uint8 [H, W, 3]."""
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (smooth.permute(1, 2, 0) * 255).byte().numpy()


def reference_pixels(pictures: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (OPENAI_MEAN, OPENAI_STD))
    return (pictures / 255 - mean) / std


@torch.inference_mode()
def test_full_size_equals_clip_model(full_size: ClipCheckpoint) -> None:
    pictures = torch.from_numpy(np.stack([photograph(224, 224, 1), photograph(224, 224, 2)])).permute(0, 3, 1, 2)
    ids = torch.randint(1, 1000, (2, 77))
    ids[:, -1] = full_size.model.config.text_config.eos_token_id
    model = full_size.model
    expected = model(input_ids=ids, pixel_values=reference_pixels(pictures))
    tower = model.vision_model
    expected_patches = model.visual_projection(
        tower.post_layernorm(expected.vision_model_output.last_hidden_state[:, 1:])
    )
    features, embedding = PatchTextLabeler(full_size, "plain")(pictures)
    assert expected_patches.abs().max() > 0.1
    torch.testing.assert_close(features.flatten(1, 2), expected_patches, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(embedding, expected.image_embeds, atol=TOLERANCE, rtol=0)
    text = text_embeddings(model, ids)
    torch.testing.assert_close(text, expected.text_embeds, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_other_sizes_equal_interpolated_clip_model(small_clip: Path) -> None:
    checkpoint = load_clip(small_clip)
    picture = torch.from_numpy(photograph(48, 112)).permute(2, 0, 1)[None]
    labeler = PatchTextLabeler(checkpoint, "plain")
    labeler.dense_normalise = False
    features, embedding = labeler(picture)
    output = checkpoint.model.vision_model(reference_pixels(picture), interpolate_pos_encoding=True)
    tower = checkpoint.model.vision_model
    patches = checkpoint.model.visual_projection(tower.post_layernorm(output.last_hidden_state[:, 1:]))
    assert features.shape == (1, 3, 7, 24)
    torch.testing.assert_close(features.flatten(1, 2), patches, atol=TOLERANCE, rtol=0)
    expected = functional.normalize(checkpoint.model.visual_projection(output.pooler_output), dim=-1)
    torch.testing.assert_close(embedding, expected, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_value_value_attention_is_the_written_formula(small_clip: Path) -> None:
    """One block: x + out(softmax(v vT / sqrt(d)) v), in plain matrix products, head by head."""
    checkpoint = load_clip(small_clip)
    labeler = PatchTextLabeler(checkpoint, "vv", surgery_blocks=1)
    pixels = reference_pixels(torch.from_numpy(photograph(64, 64)).permute(2, 0, 1)[None])
    tower = checkpoint.model.vision_model
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    last = tower.encoder.layers[-1]
    values = last.self_attn.v_proj(last.layer_norm1(hidden))[0]
    mixed = []
    for head in values.chunk(2, dim=-1):
        weights = (head @ head.T / head.shape[-1] ** 0.5).softmax(dim=-1)
        mixed.append(weights @ head)
    expected = hidden + last.self_attn.out_proj(torch.cat(mixed, dim=-1))
    tokens, dense = labeler._tokens(pixels)
    torch.testing.assert_close(dense, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens, last(hidden, None), atol=1e-5, rtol=0)
    assert (dense - tokens).abs().max() > 0.01


@torch.inference_mode()
def test_surgery_leaves_the_global_embedding_alone(small_clip: Path) -> None:
    checkpoint = load_clip(small_clip)
    picture = torch.from_numpy(photograph(64, 64)).permute(2, 0, 1)[None]
    plain, vv = (PatchTextLabeler(checkpoint, mode)(picture) for mode in ("plain", "vv"))
    torch.testing.assert_close(plain[1], vv[1], atol=1e-6, rtol=0)
    assert (plain[0] - vv[0]).abs().max() > 0.01
    torch.testing.assert_close(vv[0].norm(dim=-1), torch.ones(1, 4, 4))


def test_unknown_attention_is_refused(small_clip: Path) -> None:
    with pytest.raises(ValueError, match="'xx' is not one of plain, vv"):
        PatchTextLabeler(load_clip(small_clip), "xx")


def test_a_folder_without_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no CLIP"):
        load_clip(tmp_path)


def observer(path: Path, micro_batch: int = 0, **clip: object) -> ClipObserver:
    return ClipObserver(ObserveConfig(clip=ClipObserveConfig(**clip), micro_batch=micro_batch), str(path), "cpu")


MIXED = [(60, 80), (80, 60), (60, 80), (64, 64), (1, 40), (300, 1), (60, 80), (1, 1)]


def test_batches_over_mixed_shapes_equal_single_pictures(small_clip: Path) -> None:
    pictures = [photograph(*size, seed=i) for i, size in enumerate(MIXED)]
    batched, single = observer(small_clip, micro_batch=4), observer(small_clip, micro_batch=1)
    together = batched.finish(batched.forward([batched.prepare(one) for one in pictures]))
    for picture, seen in zip(pictures, together, strict=True):
        (alone,) = single.finish(single.forward([single.prepare(picture)]))
        np.testing.assert_allclose(seen.features, alone.features, atol=TOLERANCE)
        np.testing.assert_allclose(seen.embedding, alone.embedding, atol=TOLERANCE)


def test_scales_and_flip_are_averaged_on_the_base_grid(small_clip: Path) -> None:
    picture = photograph(60, 80)
    base = observer(small_clip)
    (seen,) = base.finish(base.forward([base.prepare(picture)]))
    both = observer(small_clip, scales=(0.5, 1.0, 2.0), flip=True)
    (mean,) = both.finish(both.forward([both.prepare(picture)]))
    (mirrored,) = both.finish(both.forward([both.prepare(np.ascontiguousarray(picture[:, ::-1]))]))
    assert mean.features.shape == seen.features.shape
    assert np.abs(mean.features - seen.features).max() > 0.01
    np.testing.assert_allclose(mean.features, mirrored.features[:, ::-1], atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(mean.embedding), 1, atol=1e-5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(320, 16), (336, 14), (224, 32), (64, 16)]))
@settings(deadline=None)
def test_buckets_keep_area_and_about_the_aspect(height: int, width: int, size: tuple[int, int]) -> None:
    side, patch = size
    rows, columns = bucket(height, width, side, patch)
    assert rows % patch == 0 and columns % patch == 0 and min(rows, columns) >= patch
    assert rows * columns <= 1.5 * side**2
    assert (rows >= columns) == (height >= width) or rows == columns
    if 1 / 3 <= height / width <= 3 and side // patch >= 20:
        assert 0.7 < (rows / columns) / (height / width) < 1.43


def test_text_is_unit_length_remembered_and_independent_of_its_batch(small_clip: Path) -> None:
    encoder = TextEncoder(small_clip, "cpu")
    together = encoder.encode(["a photo of a cat", "dog", "a photo of a cat", "sky " * 50])
    assert together.shape == (4, 24) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(together[0], together[2])
    assert np.abs(together[0] - together[1]).max() > 0.01
    np.testing.assert_allclose(TextEncoder(small_clip, "cpu").encode(["dog"])[0], together[1], atol=1e-5)
    assert encoder.encode([]).shape == (0, 24)
    model = load_clip(small_clip).model
    ids = encoder.tokenizer(["dog"], return_tensors="pt")
    expected = functional.normalize(model.get_text_features(**ids).pooler_output, dim=-1)
    np.testing.assert_allclose(together[1:2], expected.detach().numpy(), atol=TOLERANCE)
