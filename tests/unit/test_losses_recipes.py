"""The recipes: what they add up, their switches, empty batches, autocast, DDP, resuming, and short trainings."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from losses_scene import (
    CLASSES,
    TinyStudent,
    batch_of,
    scene,
)
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from models.losses.config import RECIPE_NAMES, LossesConfig, SemiConfig
from models.losses.ema import make_ema
from models.losses.recipes import RECIPES, extra_modules
from models.losses.teachers import StudentTeacher
from models.losses.types import IGNORE, STAT, TargetBatch, TrainState

torch.set_num_threads(1)
DEFAULT = LossesConfig()
EVERYTHING = replace(
    DEFAULT,
    supervised=replace(DEFAULT.supervised, boundary=0.5),
    tags=replace(DEFAULT.tags, agmm=True),
    semi=replace(DEFAULT.semi, mgd=True, ramp=0.0, threshold=0.2),
    cw_bass=replace(DEFAULT.cw_bass, confidence=replace(DEFAULT.cw_bass.confidence, dynamic_low=0.0, dynamic_high=0.2)),
)
SWITCHES = [SemiConfig(*switches, ramp=0.0) for switches in itertools.product([True, False], repeat=4)]


def state_of(student: nn.Module, config: LossesConfig, recipe: str, step: int = 5) -> TrainState:
    teachers = [StudentTeacher(TinyStudent(width=8)), StudentTeacher(TinyStudent())]
    extra = dict(extra_modules(config, CLASSES, recipe).items())
    generator = torch.Generator().manual_seed(0)
    return TrainState(step, 10, generator, ema=make_ema(student), teachers=teachers, extra=extra)


def seeded() -> TinyStudent:
    """The same student every time, whose running statistics and logits are not those of a newborn."""
    torch.manual_seed(0)
    student = TinyStudent()
    with torch.no_grad():
        student.classifier.weight *= 10
        for _ in range(20):
            student(scene(6, 1).images)
    return student


def hard_batch(labeled: int = 4) -> TargetBatch:
    """Six images, the first four labeled; half of the pixels unknown, some classes excluded by tags."""
    found = scene(6, 0)
    hard = found.truth.clone()
    hard[:, ::2] = IGNORE
    batch = batch_of(found, hard=hard, labeled=labeled)
    assert batch.tags is not None
    batch.tags[:, 3] = False
    return batch


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_the_loss_is_the_sum_of_terms_and_every_term_teaches_the_student(recipe):
    student = seeded()
    state = state_of(student, EVERYTHING, recipe)
    terms = RECIPES[recipe](student, hard_batch(), state, EVERYTHING)
    losses = {name: value for name, value in terms.items() if name != "loss" and not name.startswith(STAT)}
    assert len(losses) >= 2
    torch.testing.assert_close(terms["loss"], sum(losses.values()))
    for name, value in losses.items():
        trained = state.extra["texture"] if name.startswith("texture_") else student
        found = torch.autograd.grad(value, list(trained.parameters()), retain_graph=True, allow_unused=True)
        assert sum(float(g.norm()) for g in found if g is not None) > 0, name
    for value in terms.values():
        assert value.ndim == 0 and value.dtype == torch.float32
    assert not any(value.requires_grad for name, value in terms.items() if name.startswith(STAT))


@pytest.mark.parametrize("semi", SWITCHES, ids=lambda s: f"ema={s.ema} cutmix={s.cutmix} bass={s.cw_bass} mgd={s.mgd}")
def test_each_component_of_semi_supervision_has_its_switch(semi):
    student, config = seeded(), replace(EVERYTHING, semi=replace(semi, threshold=0.2))
    terms = RECIPES["semi_supervised"](student, hard_batch(), state_of(student, config, "semi_supervised"), config)
    unlabeled = semi.ema or semi.cutmix or semi.cw_bass
    assert ("unlabeled" in terms) == unlabeled
    assert ("unlabeled_boundary" in terms) == semi.cw_bass
    assert any(name.startswith("mgd_") for name in terms) == semi.mgd
    assert float(terms["loss"].detach()) > 0


@pytest.mark.parametrize("recipe", ["supervised", "from_tags", "from_points", "from_noisy_maps", "semi_supervised"])
def test_without_its_component_a_recipe_is_plain_supervision_of_the_labeled_images(recipe):
    config = replace(
        DEFAULT,
        supervised=replace(DEFAULT.supervised, dice=0.0),
        tags=replace(DEFAULT.tags, absent=0.0),
        points=replace(DEFAULT.points, agmm=False),
        noisy=replace(DEFAULT.noisy, selection=False),
        semi=SemiConfig(ema=False, cutmix=False, cw_bass=False, mgd=False),
    )
    student, batch = seeded(), hard_batch()
    found = RECIPES[recipe](student, batch, state_of(student, config, recipe), config)
    alone = RECIPES["supervised"](seeded(), batch.rows(torch.arange(4)), state_of(student, config, recipe), config)
    torch.testing.assert_close(found["loss"], alone["loss"])
    assert set(found) == {"loss", "cross_entropy"}


def test_targets_of_unlabeled_images_are_never_read():
    batch = hard_batch()
    other = copy.deepcopy(batch)
    other.hard[4:] = 2
    other.weight[4:] = 1
    for recipe in RECIPE_NAMES:
        values = []
        for one in (batch, other):
            student = seeded()
            torch.manual_seed(1)
            values.append(RECIPES[recipe](student, one, state_of(student, EVERYTHING, recipe), EVERYTHING)["loss"])
        torch.testing.assert_close(*values)


@pytest.mark.parametrize("case", ["no labeled image", "no unlabeled image", "nothing known", "nothing sure"])
@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_empty_cases_are_finite_and_reach_every_parameter(recipe, case):
    batch = hard_batch({"no labeled image": 0, "no unlabeled image": 6}.get(case, 4))
    config = EVERYTHING
    if case == "nothing known":
        batch.hard[:] = IGNORE
    if case == "nothing sure":
        high = replace(EVERYTHING.cw_bass.confidence, policy="fixed", threshold=1.0)
        config = replace(EVERYTHING, cw_bass=replace(EVERYTHING.cw_bass, confidence=high))
    student = seeded()
    state = state_of(student, config, recipe)
    terms = RECIPES[recipe](student, batch, state, config)
    terms["loss"].backward()
    assert all(bool(value.isfinite()) for value in terms.values())
    for module in (student, *state.extra.values()):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_recipes_run_in_bfloat16_with_float32_losses(recipe):
    student = seeded()
    with torch.autocast("cpu", torch.bfloat16):
        terms = RECIPES[recipe](student, hard_batch(), state_of(student, EVERYTHING, recipe), EVERYTHING)
    terms["loss"].backward()
    assert all(value.dtype == torch.float32 and bool(value.isfinite()) for value in terms.values())
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters())


@pytest.fixture
def one_worker():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    destroy_process_group()


def test_recipes_fit_distributed_data_parallel(one_worker):
    """Two steps each: the second raises if the first left a parameter without a gradient, or ran forward twice."""
    for recipe in RECIPE_NAMES:
        student = seeded()
        state = state_of(student, EVERYTHING, recipe)
        wrapped = DistributedDataParallel(student)
        state.extra = {name: DistributedDataParallel(module) for name, module in state.extra.items()}
        plain = RECIPES[recipe](seeded(), hard_batch(), state_of(student, EVERYTHING, recipe), EVERYTHING)
        for labeled in (4, 0):
            terms = RECIPES[recipe](wrapped, hard_batch(labeled), state, EVERYTHING)
            terms["loss"].backward()
        assert set(terms) == set(plain)


def test_a_resumed_run_draws_the_same_views():
    student = seeded()
    running = state_of(student, EVERYTHING, "semi_supervised")
    RECIPES["semi_supervised"](copy.deepcopy(student), hard_batch(), running, EVERYTHING)
    resumed = replace(running, generator=torch.Generator())
    resumed.generator.set_state(running.generator.get_state())
    values = [
        RECIPES["semi_supervised"](copy.deepcopy(student), hard_batch(), state, EVERYTHING)["loss"]
        for state in (running, resumed)
    ]
    assert float(values[0].detach()) == float(values[1].detach())


def test_unlabeled_images_come_in_with_the_ramp():
    student, config = seeded(), replace(EVERYTHING, semi=SemiConfig(ramp=0.5, threshold=0.2))
    found = [
        float(
            RECIPES["semi_supervised"](
                copy.deepcopy(student), hard_batch(), state_of(student, config, "semi_supervised", step), config
            )["unlabeled"].detach()
        )
        for step in (0, 2, 5, 10)
    ]
    assert found[0] == 0
    assert found[2] == pytest.approx(found[3]) and found[1] == pytest.approx(0.4 * found[2])


def test_what_is_missing_is_named():
    student, batch = seeded(), hard_batch()
    bare = TrainState(0, 10, torch.Generator())
    with pytest.raises(ValueError, match=r"losses\.semi\.ema"):
        RECIPES["semi_supervised"](student, batch, bare, DEFAULT)
    with pytest.raises(ValueError, match="needs a teacher"):
        RECIPES["distill"](student, batch, bare, DEFAULT)
    with pytest.raises(ValueError, match="extra_modules"):
        RECIPES["from_noisy_maps"](student, batch, bare, DEFAULT)
    assert not extra_modules(DEFAULT, CLASSES, "supervised")
    assert not extra_modules(replace(DEFAULT, noisy=replace(DEFAULT.noisy, selection=False)), 3, "from_noisy_maps")


def test_a_batch_moves_and_is_cut_with_all_it_holds():
    batch = hard_batch()
    moved = batch.to("cpu")
    assert moved.tags is not None and torch.equal(moved.hard, batch.hard)
    part = batch.rows(torch.tensor([5, 1]))
    assert part.index.tolist() == [5, 1] and part.labeled.tolist() == [False, True]
    assert part.absent is not None and part.absent.shape == (2, CLASSES)
    batch.tags_known = torch.zeros(6, CLASSES, dtype=torch.bool)
    assert batch.absent is not None and not batch.absent.any()
    batch.tags = None
    assert batch.absent is None
