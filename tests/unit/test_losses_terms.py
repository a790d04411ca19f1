"""Each loss term by itself: values, invariances, gradients, empty batches, autocast."""

import math

import pytest
import torch
from losses_scene import CLASSES, gradient, logits_of, one_pixel_each, scene, separated, targets_of
from torch.nn import functional as F

from models.decide.confidence import dynamic_threshold
from models.losses.agmm import agmm_losses
from models.losses.confidence import (
    ConfidencePolicy,
    PseudoLabels,
    boundary_cross_entropy,
    boundary_map,
    class_share_threshold,
    confidence_weight,
    confidence_weighted_cross_entropy,
    pseudo_labels,
)
from models.losses.config import AgmmConfig, ConfidenceConfig, CwBassConfig, DistillConfig
from models.losses.cross_confidence import (
    consistency,
)
from models.losses.distill import Distiller, image_loss, region_loss, teacher_labels
from models.losses.supervised import absent_class_loss, dice, one_hot, weighted_cross_entropy
from models.losses.types import IGNORE

torch.set_num_threads(1)


# Cross-entropy and Dice


def test_cross_entropy_is_torchs_on_logits_at_full_size():
    logits, hard = logits_of(grid=24), targets_of()
    expected = F.cross_entropy(logits, hard, ignore_index=IGNORE)
    torch.testing.assert_close(weighted_cross_entropy(logits, hard), expected)
    torch.testing.assert_close(weighted_cross_entropy(logits, hard, torch.full(hard.shape, 0.3)), expected)
    torch.testing.assert_close(weighted_cross_entropy(logits, hard, soft=one_hot(hard, CLASSES)), expected)


def test_dice_of_one_class_against_its_formula_and_of_a_perfect_map():
    hard = targets_of()
    perfect = 50 * one_hot(hard, CLASSES)
    assert float(dice(perfect, hard)) < 1e-4
    assert float(dice(-perfect, hard)) > 0.99
    logits = logits_of(classes=2, grid=24)
    flat = torch.zeros_like(hard)
    p = logits.softmax(1)[:, 0]
    torch.testing.assert_close(dice(logits, flat), 1 - 2 * p.sum() / (p.sum() + p.numel()))


@pytest.mark.parametrize("loss", [weighted_cross_entropy, dice, confidence_weighted_cross_entropy])
def test_pixels_of_weight_0_have_no_gradient(loss):
    logits, hard = logits_of(grid=24), targets_of()
    weight = torch.ones(hard.shape)
    weight[:, :12] = 0
    value = loss(logits, hard, weight)
    (found,) = torch.autograd.grad(value, logits)
    assert float(found[:, :, :12].abs().max()) == 0
    assert float(found[:, :, 12:].abs().max()) > 0
    assert gradient(loss(logits, hard, torch.zeros(hard.shape)), logits) == 0


def test_absent_classes_lose_probability_and_present_ones_do_not_matter():
    logits = logits_of()
    absent = torch.tensor([[False, True, False, True], [False] * 4])
    value = absent_class_loss(logits, absent)
    p = logits.softmax(1)[0]
    torch.testing.assert_close(value, -((1 - p[1]).log() + (1 - p[3]).log()).mean())
    (found,) = torch.autograd.grad(value, logits)
    assert float(found[1].abs().max()) == 0
    assert float(found[0, [0, 2]].max()) < 0  # A step down raises every present class.


# Confidence: thresholds, boundaries, CW-BASS


def test_the_shipped_dynamic_threshold_spans_at_least_a_fifth_and_rises():
    config = CwBassConfig().confidence
    assert config.policy == "dynamic"
    policy = ConfidencePolicy(config)
    found = []
    for mean in torch.linspace(0, 1, 21):
        pseudo = PseudoLabels(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), float(mean)))
        found.append(float(policy.thresholds(pseudo, CLASSES, {})[0]))
    assert max(found) - min(found) >= 0.2
    assert found == sorted(found)
    assert found[10] == pytest.approx(
        dynamic_threshold(0.5, config.dynamic_base, config.dynamic_slope, config.dynamic_low, config.dynamic_high)
    )


def test_per_class_thresholds_keep_the_share_of_every_class_and_are_remembered():
    generator = torch.Generator().manual_seed(0)
    hard = torch.randint(0, 3, (2, 40, 40), generator=generator)
    confidence = torch.rand(hard.shape, generator=generator) * (1 + hard) / 3
    memory: dict[str, torch.Tensor] = {}
    policy = ConfidencePolicy(ConfidenceConfig(policy="per-class", class_share=0.3, class_momentum=0.5))
    limits = policy.thresholds(PseudoLabels(hard, confidence), 4, memory)
    for label in range(3):
        kept = (confidence >= limits[label])[hard == label].float().mean()
        assert float(kept) == pytest.approx(0.3, abs=0.01)
    assert float(limits[3]) == 1.0
    later = policy.thresholds(PseudoLabels(hard, confidence / 2), 4, memory)
    torch.testing.assert_close(later[:3], 0.75 * limits[:3])


def test_class_shares_are_those_of_a_loop_over_classes():
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(-1, 5, (700,), generator=generator)
    classes[classes == 4] = 2
    confidence = torch.rand(700, generator=generator)
    found, count = class_share_threshold(confidence, classes, 6, 0.4)
    for label in range(6):
        values = confidence[classes == label].sort(descending=True).values
        assert int(count[label]) == len(values)
        expected = float(values[max(1, int(0.4 * len(values))) - 1]) if len(values) else 1.0
        assert float(found[label]) == pytest.approx(expected)


def sobel_boundary(hard: torch.Tensor) -> torch.Tensor:
    """The paper's: any non-zero Sobel of the one-hot map; replicate padding."""
    maps = F.pad(one_hot(hard, CLASSES), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = [F.conv2d(maps, k.expand(CLASSES, 1, 3, 3), groups=CLASSES).abs() for k in (sobel, sobel.T)]
    return (edges[0] + edges[1]).sum(1) > 0


def test_boundaries_are_those_of_sobel_and_the_frame_is_none():
    constant = torch.full((1, 12, 15), 2)
    assert not boundary_map(constant).any()
    truth = scene(6, 0).truth
    mine, sobel = boundary_map(truth), sobel_boundary(truth)
    assert bool((mine | ~sobel).all())
    assert float((mine == sobel).float().mean()) > 0.995
    assert 0.05 < float(mine.float().mean()) < 0.5


def test_the_end_of_what_is_known_is_no_boundary():
    hard = torch.full((1, 10, 10), 1)
    hard[:, :5] = IGNORE
    assert not boundary_map(hard).any()
    hard[:, 5:, 5:] = 2
    found = boundary_map(hard)[0]
    assert found[5:, 4:6].all() and found.sum() == 10


def test_boundary_term_sees_the_boundary_alone():
    logits, hard = logits_of(grid=48), scene(2, 0).truth
    boundary = boundary_map(hard)
    (found,) = torch.autograd.grad(boundary_cross_entropy(logits, hard, boundary), logits)
    assert float(found.abs().sum(1)[~boundary].max()) == 0
    assert float(found.abs().sum(1)[boundary].min()) > 0


def test_confidence_weights_decay_with_progress_and_gamma():
    confidence = torch.tensor([0.2, 0.8])
    config = CwBassConfig(gamma=2.0, decay=0.9)
    torch.testing.assert_close(confidence_weight(confidence, config, 0.0), confidence**2)
    torch.testing.assert_close(confidence_weight(confidence, config, 1.0), (0.9 * confidence) ** 2)
    torch.testing.assert_close(confidence_weight(confidence, CwBassConfig(), 1.0), confidence)


def test_lower_confidence_makes_the_weighted_term_smaller():
    logits, hard = logits_of(), targets_of()
    high, low = (confidence_weighted_cross_entropy(logits, hard, torch.full(hard.shape, c)) for c in (1.0, 0.5))
    torch.testing.assert_close(high, weighted_cross_entropy(logits, hard))
    torch.testing.assert_close(low, 0.5 * high)


# Distillation


def test_image_level_depends_on_neither_batch_size_nor_number_of_classes_nor_a_common_shift():
    mine, theirs = logits_of(seed=0), logits_of(seed=1, grid=9)
    value = image_loss(mine, theirs)
    assert float(value) > 0
    torch.testing.assert_close(image_loss(mine.repeat(3, 1, 1, 1), theirs.repeat(3, 1, 1, 1)), value)
    torch.testing.assert_close(image_loss(mine.repeat(1, 5, 1, 1), theirs.repeat(1, 5, 1, 1)), value)
    torch.testing.assert_close(image_loss(mine, theirs + 7), value)
    assert float(image_loss(mine, mine)) == 0


def test_region_level_is_0_for_the_same_features_and_ignores_scale_and_width():
    generator = torch.Generator().manual_seed(0)
    mine = torch.rand(2, 8, 12, 12, generator=generator)
    theirs = torch.rand(2, 20, 9, 10, generator=generator)
    value = region_loss(mine, theirs)
    assert float(value) > 1e-4
    assert float(region_loss(mine, mine)) == 0
    torch.testing.assert_close(region_loss(3 * mine, 0.2 * theirs), value)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    assert float(region_loss(torch.einsum("ij,bjhw->bihw", rotation, mine), mine)) < 1e-10


def test_distillation_announces_only_terms_that_teach_the_student_and_none_that_teach_the_teacher():
    student = {"logits": logits_of(seed=0), "feats": torch.rand(2, 8, 6, 6).requires_grad_()}
    teacher = {"logits": logits_of(seed=1), "feats": torch.rand(2, 5, 6, 6).requires_grad_()}
    labels = [teacher_labels(teacher["logits"], (24, 24))]
    terms = Distiller(DistillConfig())(student, [teacher], labels)
    assert set(terms) == {"image", "region", "pixel"}
    for name, term in terms.items():
        assert gradient(term, *student.values()) > 0, name
        assert gradient(term, *teacher.values()) == 0, name
    off = DistillConfig(image=0, region=0)
    assert set(Distiller(off)(student, [teacher], labels)) == {"pixel"}


def test_distillation_levels_choose_their_teachers_and_say_what_is_missing():
    student = {"logits": logits_of(seed=0), "feats": torch.rand(2, 8, 6, 6)}
    wide, deep = {"feats": torch.rand(2, 9, 6, 6)}, {"logits": logits_of(seed=2)}
    config = DistillConfig(image_teacher=1, region_teacher=0)
    terms = Distiller(config)(student, [wide, deep], [teacher_labels(deep["logits"], (24, 24))])
    torch.testing.assert_close(terms["region"], 100 * region_loss(student["feats"], wide["feats"]))
    torch.testing.assert_close(terms["image"], 0.3 * image_loss(student["logits"], deep["logits"]))
    with pytest.raises(ValueError, match=r"losses\.mgd\.region"):
        Distiller(DistillConfig())(student, [deep], [])
    with pytest.raises(ValueError, match="there are 1 teachers"):
        Distiller(config)(student, [wide], [])


def test_teachers_keep_to_the_tags_and_leave_out_what_they_doubt():
    logits = logits_of(grid=24).detach()
    absent = torch.tensor([[True, False, False, True], [False, False, False, False]])
    found = teacher_labels(logits, (24, 24), absent=absent)
    assert set(found[0].unique().tolist()) == {1, 2}
    assert set(found[1].unique().tolist()) == {0, 1, 2, 3}
    sure = pseudo_labels(logits, (24, 24)).confidence >= 0.6
    torch.testing.assert_close(teacher_labels(logits, (24, 24), 0.6) != IGNORE, sure)


# Empty batches and number formats

EMPTY = {
    "no pixel labeled": (2, torch.full((2, 24, 24), IGNORE)),
    "no image": (0, torch.zeros(0, 24, 24, dtype=torch.int64)),
    "one class": (2, torch.full((2, 24, 24), 1)),
}


@pytest.mark.parametrize("case", EMPTY)
def test_empty_batches_give_finite_values_in_the_graph(case):
    count, hard = EMPTY[case]
    logits = logits_of(count) if count else torch.zeros(0, CLASSES, 6, 6, requires_grad=True)
    features = torch.rand(count, 8, 6, 6).requires_grad_()
    weight = torch.ones(hard.shape)
    field = agmm_losses(logits, features, hard, AgmmConfig())
    values = {
        "ce": weighted_cross_entropy(logits, hard, weight),
        "dice": dice(logits, hard, weight),
        "cwbass": confidence_weighted_cross_entropy(logits, hard, weight),
        "boundary": boundary_cross_entropy(logits, hard, boundary_map(hard)),
        "absent": absent_class_loss(logits, torch.zeros(count, CLASSES, dtype=torch.bool)),
        "region": region_loss(features, features),
        "image": image_loss(logits, logits),
        "consistency": consistency(logits, logits, weight[:, :6, :6]),
        **field,
    }
    for name, value in values.items():
        assert math.isfinite(float(value.detach())), name
        assert value.requires_grad, name
        found = torch.autograd.grad(value, (logits, features), retain_graph=True, allow_unused=True)
        assert all(bool(g.isfinite().all()) for g in found if g is not None), name


def test_losses_are_float32_under_bfloat16_autocast():
    logits, hard, features = logits_of(), targets_of(), torch.rand(2, 8, 6, 6)
    seeds = one_pixel_each(separated()[1], 24)
    with torch.autocast("cpu", torch.bfloat16):
        found = {
            "ce": weighted_cross_entropy(logits, hard),
            "dice": dice(logits, hard),
            "region": region_loss(features, features.flip(0)),
            "image": image_loss(logits, logits.detach().flip(0)),
            **agmm_losses(logits, features, seeds, AgmmConfig()),
        }
    exact = {
        "region": region_loss(features, features.flip(0)),
        **agmm_losses(logits, features, seeds, AgmmConfig()),
    }
    assert all(value.dtype == torch.float32 for value in found.values())
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value)
    half = weighted_cross_entropy(logits.bfloat16(), hard)
    assert half.dtype == torch.float32
