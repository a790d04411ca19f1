"""SAM: equal to SamPredictor, prompts of many pictures in one pass, loading, the mask bank."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_models import write_sam

from models.evidence import MASK_SOURCES, Hints
from models.observe_config import ObserveConfig, SamObserveConfig
from models.sam.attention import FusedAttention
from models.sam.bank import resampling, stored_size, suppress
from models.sam.load import Sam, load_sam, sam_model_registry
from models.sam.observer import Decoded, SamObserver, hint_prompts
from models.sam.prompts import Prompts
from models.sam.proposals import SAME_BOX, box_iou, cluster_boxes, distinct_boxes, grid_points, propose

# Can be imported once models.sam has mended torchvision.
from segment_anything import SamPredictor  # isort: skip
from segment_anything.modeling.image_encoder import Attention  # isort: skip

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def small_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam(tmp_path_factory.mktemp("models") / "sam")


def observer(path: Path, micro_batch: int = 0, **sam: object) -> SamObserver:
    return SamObserver(ObserveConfig(sam=SamObserveConfig(**sam), micro_batch=micro_batch), str(path), "cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def assert_equals_predictor(sam: Sam, picture: np.ndarray, prompts: Prompts, decoded: Decoded) -> None:
    """Every prompt through the library's own predictor: low-resolution logits and predicted IoU."""
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    scale = np.array([picture.shape[1], picture.shape[0]], np.float32)
    for row in range(len(prompts)):
        has_box, points = not np.isnan(prompts.boxes[row, 0]), prompts.labels[row] >= 0
        for multimask, masks in ((False, slice(0, 1)), (True, slice(1, 4))):
            _, iou, logits = predictor.predict(
                point_coords=prompts.points[row][points] * scale if points.any() else None,
                point_labels=prompts.labels[row][points] if points.any() else None,
                box=prompts.boxes[row] * np.tile(scale, 2) if has_box else None,
                multimask_output=multimask,
            )
            assert logits.std() > 1e-3
            np.testing.assert_allclose(decoded.logits[row, masks].numpy(), logits, atol=TOLERANCE)
            np.testing.assert_allclose(decoded.iou[row, masks].numpy(), iou, atol=TOLERANCE)


def every_kind_of_prompt() -> Prompts:
    return Prompts.concat(
        [
            Prompts.of_boxes(np.array([[0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1]], np.float32), 0),
            Prompts.of_points(np.array([[0.5, 0.4], [0.9, 0.1]], np.float32), 1),
            Prompts.of_points(
                np.array([[[0.3, 0.3], [0.6, 0.7], [0.1, 0.9]]], np.float32), 4, np.array([[1, 1, 0]], np.int8)
            ),
        ]
    )


def test_full_size_equals_sam_predictor(tmp_path: Path) -> None:
    """The official vit_b, random weights, through the official file format."""
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    with torch.no_grad():  # Position weights start at zero; the rest is made large enough for every path to show.
        for name, weights in sam.named_parameters():
            weights.add_(torch.randn_like(weights) * (0.1 if "rel_pos" in name or "pos_embed" in name else 0.01))
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b.pth")
    ours = observer(tmp_path / "sam_vit_b.pth")
    (tmp_path / "sam_vit_b.pth").unlink()
    picture = noise(90, 120)
    prompts = every_kind_of_prompt()
    with torch.inference_mode():
        (decoded,) = ours.decode_prompts([ours.prepare(picture)], [prompts])
    assert_equals_predictor(sam, picture, prompts, decoded)


@pytest.mark.parametrize("size", [(5, 5), (4, 7)])
def test_fused_attention_equals_the_library(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    original = Attention(32, num_heads=2, use_rel_pos=True, input_size=size)
    torch.nn.init.normal_(original.rel_pos_h)
    torch.nn.init.normal_(original.rel_pos_w)
    x = torch.randn(3, *size, 32)
    torch.testing.assert_close(FusedAttention(original)(x), original(x), atol=1e-5, rtol=0)


def test_prompts_of_many_pictures_in_one_pass_equal_sam_predictor(small_sam: Path) -> None:
    pictures = [noise(60, 80, 1), noise(80, 30, 2), noise(64, 64, 3)]
    prompts = [every_kind_of_prompt(), Prompts.of_points(grid_points(3), 1), Prompts.concat([])]
    ours = observer(small_sam, micro_batch=3)
    decoded = ours.decode_prompts([ours.prepare(one) for one in pictures], prompts)
    for picture, asked, answer in zip(pictures, prompts, decoded, strict=True):
        assert answer.logits.shape == (len(asked), 4, 16, 16)
        assert_equals_predictor(load_sam(small_sam), picture, asked, answer)


def test_safetensors_and_pth_hold_the_same(tmp_path: Path, small_sam: Path) -> None:
    sam = sam_model_registry["vit_b"]()
    save_file(sam.state_dict(), tmp_path / "sam_vit_b.safetensors")
    loaded = load_sam(tmp_path)
    for name, weights in sam.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="one SAM checkpoint"):
        load_sam(tmp_path)
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold the weights of a segment-anything model"):
        load_sam(tmp_path / "other.pth")
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(99, 3, 16, 16)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="width 99"):
        load_sam(tmp_path / "odd.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/never"),))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="opened safely"):
        load_sam(tmp_path / "evil.pth")


def test_the_bank_is_filtered_sorted_distinct_and_capped(small_sam: Path) -> None:
    features = np.random.default_rng(0).normal(size=(6, 8, 24)).astype(np.float32)
    open_to_all = {"min_iou": 0.0, "min_stability": 0.0, "min_area": 0.0, "max_area": 1.0}
    wide = observer(small_sam, **open_to_all, duplicate_iou=0.8, max_masks=200)
    (bank,) = wide.forward([wide.prepare(noise(60, 80))], [features])
    assert bank.probs.shape[1:] == (12, 16) and len(bank.probs) > 3
    rank = bank.iou * bank.stability
    assert (np.diff(rank) <= 1e-6).all()
    narrow = observer(small_sam, **{**open_to_all, "min_iou": float(np.median(bank.iou))}, max_masks=2)
    (few,) = narrow.forward([narrow.prepare(noise(60, 80))], [features])
    assert len(few.probs) == 2 and (few.iou >= np.median(bank.iou)).all()


def test_a_hinted_box_is_always_in_the_bank(small_sam: Path) -> None:
    features = np.zeros((6, 8, 24), np.float32)
    strict = observer(small_sam, min_iou=1.0, min_stability=1.0, grid_points=0)
    hints = Hints(np.zeros((0, 2), np.float32), np.array([[8, 6, 60, 50]], np.float32))
    prompts = hint_prompts(hints, (0, 0, 80, 60))
    (bank,) = strict.forward([strict.prepare(noise(60, 80), prompts)], [features])
    assert MASK_SOURCES[bank.source[0]] == "box"


def test_hints_outside_a_tile_are_left_out_and_boxes_cut() -> None:
    hints = Hints(
        np.array([[50, 50], [150, 50]], np.float32), np.array([[50, 0, 150, 40], [160, 0, 170, 9]], np.float32)
    )
    prompts = hint_prompts(hints, (0, 0, 100, 100))
    np.testing.assert_allclose(prompts.boxes[:1], [[0.5, 0, 1, 0.4]])
    assert len(prompts) == 2 and np.isnan(prompts.boxes[1]).all()
    np.testing.assert_allclose(prompts.points[1, 0], [0.5, 0.5])


def test_clusters_find_planted_regions_and_their_boxes() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 24)).astype(np.float32)
    plan = np.zeros((12, 16), int)
    plan[2:6, 1:5], plan[7:11, 8:15] = 1, 2
    features = directions[plan] + 0.05 * rng.normal(size=(12, 16, 24)).astype(np.float32)
    boxes = cluster_boxes(features, (2, 3), (0.5,))
    for box in ([1 / 16, 2 / 12, 5 / 16, 6 / 12], [8 / 16, 7 / 12, 15 / 16, 11 / 12]):
        assert box_iou(np.array([box], np.float32), boxes).max() > 0.8
    prompts = propose(features, SamObserveConfig(cluster_counts=(2, 3), grid_points=2))
    assert (prompts.source == 1).sum() == 4 and prompts.ambiguous.sum() == 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (17, 1), (2, 3)])
def test_clusters_of_the_smallest_grids(shape: tuple[int, int]) -> None:
    features = np.ones((*shape, 8), np.float32)
    prompts = propose(features, SamObserveConfig())
    boxes = prompts.boxes[prompts.source == MASK_SOURCES.index("cluster")]
    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]])  # Nothing differs: the whole frame is one cluster.


@given(st.integers(0, 40), st.integers(1, 10), st.integers(0, 100))
@settings(deadline=None)
def test_distinct_boxes_differ_and_are_largest_first(count: int, limit: int, seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(size=(count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1) + 0.01], axis=1)
    kept = distinct_boxes(boxes, limit)
    assert len(kept) <= limit and (count == 0 or len(kept))
    overlap = box_iou(kept, kept)
    assert (overlap[~np.eye(len(kept), dtype=bool)] <= SAME_BOX).all()
    areas = np.prod(kept[:, 2:] - kept[:, :2], axis=1)
    assert (np.diff(areas) <= 1e-6).all()


@given(st.floats(0.2, 64), st.integers(1, 96))
@settings(deadline=None)
def test_resampling_keeps_constants_and_ignores_padding(valid: float, target: int) -> None:
    weights = resampling(valid, 64, target, torch.device("cpu"))
    torch.testing.assert_close(weights.sum(1), torch.ones(target))
    assert (weights[:, int(np.ceil(valid)) :] == 0).all()


def test_resampling_keeps_a_ramp_in_place() -> None:
    centres = torch.arange(64) + 0.5
    weights = resampling(48.0, 64, 24, torch.device("cpu"))
    torch.testing.assert_close((weights @ centres)[2:-2], (torch.arange(24) + 0.5)[2:-2] * 2)


def test_stored_size_never_enlarges_and_never_vanishes() -> None:
    assert stored_size((64.0, 48.0), 96) == (64, 48)
    assert stored_size((256.0, 192.0), 96) == (96, 72)
    assert stored_size((64.0, 0.1), 96) == (64, 1)


def test_suppression_keeps_the_better_of_two() -> None:
    overlap = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]], np.float32)
    assert suppress(overlap, 0.85, 10) == [0, 2]
    assert suppress(overlap, 0.95, 2) == [0, 1]
