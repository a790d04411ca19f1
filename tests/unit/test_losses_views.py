"""The EMA teacher, strong views, CutMix and the frozen teachers."""

from pathlib import Path

import pytest
import torch
from losses_scene import CLASSES, TinyStudent, scene
from skimage import data as photographs
from torch import nn
from torch.nn import functional as F

from models.losses.ema import CutMix, cutmix, make_ema, strong_view, update_ema
from models.losses.teachers import ClipTeacher, EnsembleTeacher, StudentTeacher

torch.set_num_threads(1)
POCKET = Path(__file__).resolve().parents[2] / "models" / "pocket" / "clip"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_teacher_is_young_at_first_and_decays_slowly_later():
    student = TinyStudent()
    ema = make_ema(student)
    assert not any(p.requires_grad for p in ema.parameters()) and not ema.training

    def follow(value: float, decay: float, step: int) -> float:
        with torch.no_grad():
            student.classifier.bias.fill_(value)
        update_ema(ema, student, decay, step)
        return float(ema.classifier.bias[0])

    for step in range(100):  # a short training whose students grow: the teacher is never far behind
        mean = follow(float(step), 0.999, step)
    assert 80 < mean < 99
    assert follow(mean + 10, 0.9, 1000) == pytest.approx(mean + 1.0)


def test_the_teacher_follows_batch_statistics_and_its_state_is_a_students():
    student = TinyStudent().train()
    ema = make_ema(student)
    student(scene(2, 0).images)
    update_ema(ema, student, 0.99, 500)
    torch.testing.assert_close(ema.body[0][1].running_mean, student.body[0][1].running_mean)
    other = TinyStudent()
    other.load_state_dict(ema.state_dict())
    assert set(other.state_dict()) == set(student.state_dict())


def test_strong_views_change_colours_only_and_follow_the_generator():
    images = scene(8, 0, noise=0.0).images
    view = strong_view(images, generator())
    assert view.shape == images.shape and float(view.min()) >= 0 and float(view.max()) <= 1
    torch.testing.assert_close(strong_view(images, generator()), view)
    assert float((strong_view(images, generator(1)) - view).abs().max()) > 0.1
    assert len({round(float(v), 4) for v in (view - images).abs().mean((1, 2, 3))}) > 5  # each image has its own
    gray = torch.full((8, 3, 9, 9), 0.5)
    flat = strong_view(gray, generator())
    torch.testing.assert_close(flat, flat[:, :1, :1, :1].expand_as(flat), atol=1e-5, rtol=0)  # gray stays gray
    assert strong_view(images[:0], generator()).shape == (0, 3, 48, 48)


def test_a_resumed_generator_gives_the_same_views():
    images, running = scene(4, 0).images, generator()
    strong_view(images, running), cutmix(4, running, images.device)
    state = running.get_state()
    expected = strong_view(images, running), cutmix(4, running, images.device).boxes
    resumed = torch.Generator()
    resumed.set_state(state)
    torch.testing.assert_close((strong_view(images, resumed), cutmix(4, resumed, images.device).boxes), expected)


def test_cutmix_pastes_another_images_box_into_everything_alike():
    found = scene(5, 0)
    mix = cutmix(5, generator(), found.images.device, (0.1, 0.5))
    inside = mix.mask(48, 48)
    share = inside.float().mean((1, 2))
    assert bool(((share > 0.05) & (share < 0.55)).all())
    assert all(int(p) != i for i, p in enumerate(mix.partner))
    images, truth = mix.mix(found.images), mix.mix(found.truth)
    for i, p in enumerate(mix.partner.tolist()):
        torch.testing.assert_close(truth[i][inside[i]], found.truth[p][inside[i]])
        torch.testing.assert_close(truth[i][~inside[i]], found.truth[i][~inside[i]])
        torch.testing.assert_close(images[i][:, inside[i]], found.images[p][:, inside[i]])
    coarse = mix.mask(12, 12).float()
    assert float((coarse.mean((1, 2)) - share).abs().max()) < 0.1  # the same box on any grid
    none = cutmix(5, generator(), found.images.device, probability=0.0)
    assert not none.mask(48, 48).any()
    alone = cutmix(1, generator(), found.images.device)
    torch.testing.assert_close(alone.mix(found.images[:1]), found.images[:1])
    with pytest.raises(ValueError, match="cutmix_area"):
        cutmix(2, generator(), found.images.device, (0.6, 0.2))


def test_boxes_scattered_into_a_batch_leave_the_others_alone():
    found = scene(5, 0)
    rows = torch.tensor([1, 3, 4])
    mix = CutMix(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4), torch.tensor([1, 2, 0]))
    mixed = mix.scatter(rows, 5).mix(found.truth)
    torch.testing.assert_close(mixed, found.truth[[0, 3, 2, 4, 1]])


def test_frozen_teachers_stay_in_evaluation_and_have_no_gradients():
    teacher = StudentTeacher(TinyStudent())
    nn.ModuleList([teacher]).train()
    assert not teacher.training and not teacher.student.training
    images = scene(2, 0).images.requires_grad_()
    assert not any(value.requires_grad for value in teacher(images).values())
    torch.testing.assert_close(teacher(images[:1])["logits"], teacher(images)["logits"][:1], atol=1e-4, rtol=1e-4)


class Fixed(nn.Module):
    def __init__(self, outputs: dict) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: torch.Tensor) -> dict:
        return self.outputs


def test_an_ensemble_averages_probabilities_and_cosines():
    a, b = torch.randn(1, CLASSES, 4, 4), torch.randn(1, CLASSES, 8, 8)
    f, g = torch.rand(1, 3, 4, 4), torch.rand(1, 7, 4, 4)
    members = [Fixed({"logits": a, "feats": f}), Fixed({"logits": b}), Fixed({"feats": 5 * g})]
    found = EnsembleTeacher(members)(torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(found["logits"].softmax(1).sum(1), torch.ones(1, 8, 8))
    only = EnsembleTeacher([Fixed({"logits": b}), Fixed({"logits": 2 * b})])(torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(only["logits"].softmax(1), (b.softmax(1) + (2 * b).softmax(1)) / 2)

    def cosine(x: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(x[0, :, 0, 0], x[0, :, 2, 3], dim=0)

    torch.testing.assert_close(cosine(found["feats"]), (cosine(f) + cosine(g)) / 2)
    with pytest.raises(ValueError, match="at least one"):
        EnsembleTeacher([])


def cat() -> torch.Tensor:
    """float32 [1, 3, 300, 451], a cat's face."""
    return torch.from_numpy(photographs.chelsea()).permute(2, 0, 1)[None].float() / 255


def test_the_pocket_clip_finds_the_cat_and_keeps_its_own_features():
    prompts = [["sky", "grass", "wall", "floor"], ["cat"], ["dog"], ["aeroplane"]]
    teacher = ClipTeacher(POCKET, prompts, background=True, size_px=224)
    found = teacher(cat())
    assert found["logits"].shape[:2] == (1, 4) and found["logits"].shape[2:] == found["feats"].shape[2:]
    chosen = F.interpolate(found["logits"], (300, 451), mode="bilinear").argmax(1)[0, 60:240, 100:350]
    assert float((chosen == 1).float().mean()) > 0.5
    assert not any(p.requires_grad for p in teacher.parameters())
    bare = ClipTeacher(POCKET, size_px=224)(cat())
    assert set(bare) == {"feats"}
    torch.testing.assert_close(bare["feats"], found["feats"])


def test_a_channel_without_a_prompt_is_named():
    with pytest.raises(ValueError, match=r"channels \[1\]"):
        ClipTeacher(POCKET, [["cat"], []])
    with pytest.raises(FileNotFoundError, match="holds no CLIP"):
        ClipTeacher(POCKET / "nowhere", [["cat"]])
