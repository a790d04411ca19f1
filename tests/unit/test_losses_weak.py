"""AGMM on sparse labels, CromSS on noisy ones: formulas, invariances, gradients."""

import pytest
import torch
from losses_scene import CLASSES, gradient, logits_of, one_pixel_each, scene, separated, targets_of

from models.losses.agmm import agmm_losses
from models.losses.config import AgmmConfig, NoisyConfig
from models.losses.cross_confidence import (
    consistency,
    entangle,
    label_confidence,
    prediction_confidence,
    selection_share,
    selection_weight,
    smoothed_labels,
    texture_planes,
)
from models.losses.prototypes import PrototypeField, count_seeds
from models.losses.supervised import dice, one_hot, weighted_cross_entropy
from models.losses.types import IGNORE

torch.set_num_threads(1)


# AGMM


def test_one_labeled_pixel_a_class_recovers_the_partition():
    features, partition = separated()
    field = PrototypeField(features, one_pixel_each(partition, 24), CLASSES)
    given = field.responsibilities(AgmmConfig().sigma)
    assert torch.equal(given.argmax(1), partition)
    assert torch.equal(field.present, torch.stack([one_hot(p[None], CLASSES)[0].flatten(1).any(1) for p in partition]))
    assert float(given.max()) <= 1
    assert float(given[~field.present].sum()) == 0


def test_points_scribbles_boxes_and_dense_maps_are_one_path():
    features, partition = separated()
    dense = partition.repeat_interleave(4, 1).repeat_interleave(4, 2)
    point = one_pixel_each(partition, 24)
    scribble = dense.masked_fill(~((torch.arange(24)[:, None] + torch.arange(24)) % 5 == 0), IGNORE)
    block = dense.clone()
    block[:, ::2] = IGNORE
    for seeds in (point, scribble, block, dense):
        field = PrototypeField(features, seeds, CLASSES)
        given = field.responsibilities(1.0).argmax(1)
        known = field.present.gather(1, partition.flatten(1)).view(partition.shape)
        assert torch.equal(given[known], partition[known])
    torch.testing.assert_close(
        PrototypeField(features, dense, CLASSES).centres, PrototypeField(features, dense[:, ::2, ::2], CLASSES).centres
    )


def test_no_labeled_pixel_is_lost_on_a_grid_that_does_not_divide_the_image():
    seeds = targets_of(size=37)
    counts = count_seeds(seeds, CLASSES, (10, 10))
    torch.testing.assert_close(counts.sum((2, 3)), one_hot(seeds, CLASSES).sum((2, 3)))


def test_distances_and_responsibilities_follow_the_formula():
    features = torch.randn(1, 3, 4, 4)
    seeds = torch.full((1, 4, 4), IGNORE)
    seeds[0, 1, 2], seeds[0, 3, 3], seeds[0, 0, 0] = 1, 1, 2
    field = PrototypeField(features, seeds, CLASSES)
    centre = (features[0, :, 1, 2] + features[0, :, 3, 3]) / 2
    torch.testing.assert_close(field.centres[0, 1], centre)
    d = (features[0] - centre[:, None, None]).abs().mean(0)
    torch.testing.assert_close(field.distances[0, 1], d)
    torch.testing.assert_close(field.responsibilities(0.7)[0, 1], torch.exp(-(d**2) / (2 * 0.49)))
    assert float(field.responsibilities(0.7)[0, [0, 3]].abs().max()) == 0


def test_every_agmm_term_has_a_gradient_and_repulsion_pushes_centres_apart():
    logits, features = logits_of(), torch.rand(2, 8, 6, 6).requires_grad_()
    seeds = one_pixel_each(separated()[1], 24)
    terms = agmm_losses(logits, features, seeds, AgmmConfig())
    assert set(terms) == {"agmm_prediction", "agmm_seeds", "agmm_repulsion"}
    for name, term in terms.items():
        assert gradient(term, logits, features) > 0, name
    assert gradient(terms["agmm_prediction"], logits) > 0
    wide = agmm_losses(logits, 10 * features, seeds, AgmmConfig())
    assert float(wide["agmm_repulsion"]) < float(terms["agmm_repulsion"])
    only = agmm_losses(logits, features, seeds, AgmmConfig(prediction=0, seeds=0))
    assert set(only) == {"agmm_repulsion"}
    ramped = agmm_losses(logits, features, seeds, AgmmConfig(ramp=0.5), progress=0.1)
    torch.testing.assert_close(ramped["agmm_prediction"], 0.2 * terms["agmm_prediction"])


def test_remembered_centres_repel_a_lone_class():
    features = torch.rand(1, 8, 6, 6).requires_grad_()
    config, memory = AgmmConfig(memory_momentum=0.5), {}
    seeds = torch.full((1, 6, 6), IGNORE)
    seeds[0, 0, 0] = 1
    alone = agmm_losses(logits_of(1), features, seeds, config, memory)["agmm_repulsion"]
    assert float(alone) == 0
    other = torch.full((1, 6, 6), IGNORE)
    other[0, 3, 3] = 2
    later = agmm_losses(logits_of(1), features, other, config, memory)["agmm_repulsion"]
    assert float(later) > 0 and gradient(later, features) > 0
    assert memory["prototypes_seen"].flatten().tolist() == [False, True, True, False]
    torch.testing.assert_close(memory["prototypes"][1], features.detach()[0, :, 0, 0])


# CromSS


def test_entangled_confidence_and_prediction_confidence():
    torch.testing.assert_close(entangle(torch.tensor(0.8), torch.tensor(0.5)), torch.tensor(0.6))
    sure = torch.zeros(1, CLASSES, 1, 2)
    sure[0, 2, 0, 0] = 60
    torch.testing.assert_close(prediction_confidence(sure), torch.tensor([[[1.0, 0.0]]]), atol=1e-5, rtol=0)
    # An empty class more must not change what a sure pixel is worth.
    more = torch.cat([sure, torch.full((1, 1, 1, 2), -60.0)], 1)
    assert float(prediction_confidence(more)[0, 0, 0]) == pytest.approx(1.0, abs=1e-5)
    logits, hard = logits_of(grid=24).detach(), targets_of()
    found = label_confidence(logits, hard)
    assert float(found[hard == IGNORE].max()) == 0
    assert float(found[0, 3, 5]) == pytest.approx(float(logits.softmax(1)[0, int(hard[0, 3, 5]), 3, 5]), abs=1e-6)


def test_selection_keeps_the_share_of_every_class_and_scales_the_rest():
    generator = torch.Generator().manual_seed(0)
    hard = targets_of(size=60)
    confidence = torch.rand(hard.shape, generator=generator) * (0.2 + 0.2 * hard.clamp(min=0))
    weight = selection_weight(confidence, hard, CLASSES, 0.4)
    assert float(weight[hard == IGNORE].max()) == 0
    for label in range(CLASSES):
        mine = weight[hard == label]
        assert float((mine == 1).float().mean()) == pytest.approx(0.4, abs=0.01)
        order = confidence[hard == label].argsort()
        assert bool((mine[order].diff() >= 0).all())
    tiny = torch.full((1, 3, 3), 0)
    tiny[0, 1, 1] = 3
    assert float(selection_weight(torch.rand(1, 3, 3), tiny, CLASSES, 0.1)[0, 1, 1]) == 1


@pytest.mark.parametrize("value", [1.0, 0.3, 0.0])
def test_equal_confidences_leave_the_plain_loss(value):
    logits, hard = logits_of(), targets_of()
    weight = selection_weight(torch.full(hard.shape, value), hard, CLASSES, 0.5)
    for loss in (weighted_cross_entropy, dice):
        torch.testing.assert_close(loss(logits, hard, weight), loss(logits, hard))


def test_selection_comes_in_linearly():
    config = NoisyConfig(share=0.5, anneal=0.5)
    assert selection_share(0.0, config) == (1.0, 0.0)
    assert selection_share(0.25, config) == (0.75, 0.5)
    assert selection_share(1.0, config) == (0.5, 1.0)
    assert selection_share(0.0, NoisyConfig(anneal=0.0)) == (0.5, 1.0)


def test_smoothed_labels_are_distributions_around_the_label():
    hard = scene(2, 0).truth.clone()
    hard[0, :10] = IGNORE
    soft = smoothed_labels(hard, CLASSES, NoisyConfig())
    assert soft is not None
    known = hard != IGNORE
    torch.testing.assert_close(soft.sum(1)[known], torch.ones(int(known.sum())))
    assert torch.equal(soft.argmax(1)[known], hard[known])
    assert smoothed_labels(hard, CLASSES, NoisyConfig(prior_smoothing=0, uniform_smoothing=0)) is None
    assert float(soft.amin()) >= 0.05 / CLASSES - 1e-6
    with pytest.raises(ValueError, match="prior_smoothing"):
        smoothed_labels(hard, CLASSES, NoisyConfig(prior_smoothing=0.8, uniform_smoothing=0.8))


def test_consistency_teaches_one_branch_by_the_others_confidence():
    mine, other = logits_of(seed=0), logits_of(seed=1)
    confidence = torch.ones(2, 6, 6)
    confidence[:, :3] = 0
    term = consistency(mine, other, confidence)
    (found,) = torch.autograd.grad(term, mine, retain_graph=True)
    assert gradient(term, other) == 0
    assert float(found[:, :, :3].abs().max()) == 0 and float(found[:, :, 3:].abs().max()) > 0


def test_texture_planes_see_edges_and_not_brightness_or_contrast():
    images = scene(2, 0, noise=0.0).images
    planes = texture_planes(images)
    assert planes.shape == (2, 6, 48, 48)
    torch.testing.assert_close(texture_planes(images * 0.5 + 0.2), planes, atol=0.05, rtol=0.05)
    assert float(texture_planes(torch.full((1, 3, 48, 48), 0.4)).abs().max()) < 0.05
    step = torch.zeros(1, 3, 48, 48)
    step[..., 24:] = 1
    across, length = texture_planes(step)[0, 0], texture_planes(step)[0, 2]
    assert float(across[:, 23:25].min()) > 1 and float(across[:, :22].abs().max()) < 1e-3
    torch.testing.assert_close(length, across)
