"""The observer: pictures of any shape to evidence, whatever their neighbours; tiles; CLIP and SAM apart."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs
from small_models import write_clip, write_sam

from models.clip.observer import ClipSeen
from models.evidence import MASK_SOURCES, Evidence, Hints, MaskBank, encode
from models.observe import Observer
from models.observe_config import HeatPromptConfig, ObserveConfig, SamObserveConfig
from models.observe_tiles import Frame, frames, stitch_banks, stitch_features
from models.sam.heat_prompts import heat_masks, heat_prompts

OPEN = SamObserveConfig(min_iou=0.0, min_stability=0.0, min_area=0.0, max_area=1.0, max_masks=12)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(write_clip(folder / "clip")), str(write_sam(folder / "sam"))


@pytest.fixture(scope="module")
def observer(paths: tuple[str, str]) -> Observer:
    return Observer(ObserveConfig(sam=OPEN), *paths, device="cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def assert_sound(evidence: Evidence, height: int, width: int, guide_px: int = 384) -> None:
    assert (evidence.height, evidence.width) == (height, width)
    assert np.isfinite(evidence.features).all() and evidence.features.ndim == 3
    np.testing.assert_allclose(np.linalg.norm(evidence.embedding), 1, atol=1e-4)
    assert evidence.guide.dtype == np.uint8 and max(evidence.guide.shape[:2]) == min(guide_px, max(height, width))
    bank = evidence.bank
    assert len(bank.probs) == len(bank.iou) == len(bank.stability) == len(bank.source)
    assert (bank.iou >= 0).all() and (bank.iou <= 1).all() and (bank.stability <= 1).all()


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 500), (500, 1), (2, 3), (3000, 10), (16, 16), (90, 120), (37, 41)], ids=str
)
def test_any_shape(observer: Observer, size: tuple[int, int]) -> None:
    (evidence,) = observer([noise(*size)])
    assert_sound(evidence, *size)


def test_what_is_no_picture_is_refused(observer: Observer) -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="a picture is uint8"):
            observer.prepare(wrong, (4, 4), Hints.none())


SHAPES = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=5)


@given(SHAPES, st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_neighbours_do_not_matter(observer: Observer, sizes: list[tuple[int, int]], random: object) -> None:
    """Bit for bit on the CPU, in whatever order and company."""
    pictures = [noise(*size, seed=i) for i, size in enumerate(sizes)]
    order = list(range(len(pictures)))
    random.shuffle(order)  # type: ignore[attr-defined]
    together = observer([pictures[i] for i in order])
    for place, i in enumerate(order):
        assert encode(together[place]) == encode(observer([pictures[i]])[0])


def test_batches_of_the_device_agree_with_single_pictures(paths: tuple[str, str], observer: Observer) -> None:
    batched = Observer(ObserveConfig(sam=OPEN, micro_batch=4), *paths, device="cpu")
    pictures = [photographs.chelsea(), photographs.coffee(), photographs.astronaut(), photographs.chelsea()[:, ::-1]]
    for one, alone in zip(batched(pictures), observer(pictures), strict=True):
        np.testing.assert_allclose(one.features, alone.features, atol=1e-4)
        np.testing.assert_allclose(one.bank.iou, alone.bank.iou, atol=1e-4)
        assert np.abs(one.bank.probs.astype(int) - alone.bank.probs).max() <= 1


def test_clip_and_sam_apart_equal_both_together(paths: tuple[str, str], observer: Observer) -> None:
    pictures = [noise(60, 80), noise(80, 60)]
    clip = Observer(ObserveConfig(sam=OPEN), paths[0], None, device="cpu")
    sam = Observer(ObserveConfig(sam=OPEN), None, paths[1], device="cpu")
    hints = Hints(np.array([[30, 30]], np.float32), np.array([[10, 10, 50, 40]], np.float32))
    for_clip = [clip.prepare(one, one.shape[:2], hints) for one in pictures]
    for_sam = [sam.prepare(one, one.shape[:2], hints) for one in pictures]
    apart = sam.finish(sam.forward_sam(for_sam, clip.forward_clip(for_clip)))
    together = observer(pictures, hints=[hints, hints])
    assert [encode(one) for one in apart] == [encode(one) for one in together]
    with pytest.raises(RuntimeError, match="without SAM"):
        clip.forward(for_clip)
    with pytest.raises(RuntimeError, match="without CLIP"):
        sam.forward(for_sam)


def test_hints_reach_the_bank(observer: Observer) -> None:
    hints = Hints(np.array([[40, 40]], np.float32), np.array([[10, 10, 60, 70]], np.float32))
    (evidence,) = observer([noise(40, 50)], [(80, 100)], [hints])
    names = [MASK_SOURCES[source] for source in evidence.bank.source]
    assert names[0] == "box"


def tiled(paths: tuple[str, str]) -> Observer:
    return Observer(ObserveConfig(sam=OPEN, tile_above_px=100, tile_px=80, guide_px=64), *paths, device="cpu")


def test_a_large_image_is_tiled_and_stitched(paths: tuple[str, str]) -> None:
    observer = tiled(paths)
    (evidence,) = observer([noise(120, 200)])
    assert_sound(evidence, 120, 200, guide_px=64)
    count = len(frames(120, 200, observer.config))
    assert count == 1 + 2 * 3
    assert evidence.features.shape[:2] == (round(6 * 120 / 80), round(6 * 200 / 80))  # 96 px in patches of 16: 6 a tile
    aspect = evidence.bank.probs.shape[2] / evidence.bank.probs.shape[1]
    assert abs(aspect - 200 / 120) < 0.1


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(deadline=None)
def test_tiles_cover_the_image_with_overlap(height: int, width: int) -> None:
    config = ObserveConfig(tile_above_px=500, tile_px=300, tile_overlap=0.2)
    whole, *tiles = frames(height, width, config)
    assert whole == Frame(0, 0, width, height)
    assert bool(tiles) == (max(height, width) > 500)
    for length, low, high in ((height, "y0", "y1"), (width, "x0", "x1")):
        spans = sorted({(getattr(tile, low), getattr(tile, high)) for tile in tiles})
        if spans:
            assert spans[0][0] == 0 and spans[-1][1] == length
            assert all(b - a <= 300 for a, b in spans)
            assert all(first[1] - second[0] >= 59 for first, second in itertools.pairwise(spans))


def test_stitched_features_lie_where_they_were_seen() -> None:
    """Tiles that see x and y: the stitched grid is a ramp over the whole frame, without seams."""
    places = frames(400, 600, ObserveConfig(tile_above_px=300, tile_px=250, tile_overlap=0.3))
    seen = []
    for place in places:
        ys = place.y0 + (np.arange(10) + 0.5) * (place.y1 - place.y0) / 10
        xs = place.x0 + (np.arange(10) + 0.5) * (place.x1 - place.x0) / 10
        grid = np.stack(np.meshgrid(ys, xs, indexing="ij"), -1).astype(np.float32)
        seen.append(ClipSeen(grid, np.zeros(2, np.float32)))
    stitched = stitch_features(seen, places)
    height, width = stitched.shape[:2]
    assert (height, width) == (16, 24)
    np.testing.assert_allclose(stitched[..., 0], ((np.arange(16) + 0.5) * 25)[:, None].repeat(24, 1), atol=13)
    np.testing.assert_allclose(stitched[..., 1], ((np.arange(24) + 0.5) * 25)[None].repeat(16, 0), atol=13)


def test_an_object_across_tiles_becomes_one_mask() -> None:
    """A disc that two tiles see in part, and a square that one tile sees alone."""
    config = ObserveConfig(tile_above_px=100, tile_px=100, tile_overlap=0.3)
    places = frames(100, 170, config)
    assert len(places) == 3
    yy, xx = np.mgrid[:100, :170]
    disc, square = np.hypot(yy - 50, xx - 85) < 40, (abs(yy - 10) < 6) & (abs(xx - 10) < 6)
    banks = [MaskBank(np.zeros((0, 50, 85), np.uint8), *(np.zeros(0, np.float32),) * 2, np.zeros(0, np.uint8))]
    for place in places[1:]:
        seen = [mask[place.y0 : place.y1, place.x0 : place.x1] for mask in (disc, square)]
        probs = np.stack([mask for mask in seen if mask.any()]).astype(np.uint8) * 255
        n = len(probs)
        banks.append(MaskBank(probs, np.full(n, 0.9, np.float32), np.ones(n, np.float32), np.zeros(n, np.uint8)))
    bank = stitch_banks(banks, places, config)
    assert len(bank.probs) == 2
    found = bank.probs > 127
    for truth in (disc, square):
        best = max((truth & one).sum() / (truth | one).sum() for one in found)
        assert best > 0.9


def test_heat_maps_prompt_where_they_are_hot(observer: Observer) -> None:
    heat = np.zeros((3, 20, 30), np.float32)
    heat[0, 5:11, 3:12] = 2.0
    heat[1, 2:8, 20:26] = heat[1, 14:18, 4:8] = 0.5
    box = heat_prompts(heat[0], HeatPromptConfig(kind="box"))
    np.testing.assert_allclose(box.boxes, [[3 / 30, 5 / 20, 12 / 30, 11 / 20]])
    points = heat_prompts(heat[1], HeatPromptConfig(kind="distance", points=2))
    assert len(points) == 2
    cells = (points.points * [30, 20]).astype(int)
    hot = heat[1][cells[..., 1], cells[..., 0]] > 0
    np.testing.assert_array_equal(hot, points.labels == 1)
    hottest = heat_prompts(heat[0], HeatPromptConfig(kind="heatmap", points=3))
    assert len(hottest) == 1 and (hottest.labels == 1).sum() == (hottest.labels == 0).sum() > 0
    assert len(heat_prompts(heat[2], HeatPromptConfig(kind="box"))) == 0
    assert len(heat_prompts(heat[0], HeatPromptConfig(kind="none"))) == 0
    inputs = [observer.sam.prepare(noise(40, 60)), observer.sam.prepare(noise(40, 60))]
    asked = [[heat_prompts(one, HeatPromptConfig(kind="box")) for one in maps] for maps in (heat[2:], heat)]
    (none, _), (masks, class_of) = heat_masks(observer.sam, inputs, asked)
    assert len(none.probs) == 0
    np.testing.assert_array_equal(class_of, [0, 1, 1])
    assert masks.probs.shape == (3, 11, 16) and (masks.source == MASK_SOURCES.index("heat")).all()
