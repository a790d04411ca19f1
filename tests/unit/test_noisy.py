"""A map that may be wrong: what moved is mended, thin things stay, and settings do what they say."""

from dataclasses import replace

import numpy as np
import pytest
from decide_scene import CLASSES, iou, make_world, weak

from models.decide.config import DecideConfig
from models.decide.decide import decide, frame_of, look
from models.decide.noisy import planes_of, spread_noisy
from models.decide.types import ClassArrays

WORLD = make_world(noise=0.05)
SHIFTED = np.roll(WORLD.truth, (5, -7), (0, 1)).astype(np.int32)
"""The masks of a moment before."""
CLOSED = ClassArrays(np.array([0, 1, 2, 3], np.int32), list(CLASSES.names), None)
PLAIN = DecideConfig(
    noisy_weight=1.0, noisy_mask_share=0, noisy_alike_share=0, noisy_iterations=0, noisy_own_share=0, noisy_thin_share=0
)


def labeled(noisy: np.ndarray, config: DecideConfig, classes: ClassArrays = CLASSES) -> np.ndarray:
    return decide(WORLD.evidence, WORLD.text, classes, weak(noisy=noisy), config).class_map


def right(found: np.ndarray) -> float:
    return float((found == WORLD.truth).mean())


def test_what_moved_is_mended() -> None:
    found = right(labeled(SHIFTED, DecideConfig()))
    assert found > right(SHIFTED) + 0.03
    assert found > right(labeled(SHIFTED, PLAIN)) + 0.01


@pytest.mark.parametrize(
    "part",
    [{"noisy_mask_share": 0.6}, {"noisy_iterations": 4}],
    ids=lambda part: next(iter(part)),
)
def test_each_part_mends_something_alone(part: dict[str, float]) -> None:
    assert right(labeled(SHIFTED, replace(PLAIN, **part))) > right(labeled(SHIFTED, PLAIN))


def test_what_looks_like_a_class_pulls_wrong_pixels_to_it() -> None:
    """A corner of the first class is called the second one: its patches look like the first."""
    noisy = WORLD.truth.astype(np.int32).copy()
    rows, columns = np.nonzero(noisy == 1)
    wrong = (slice(rows.min(), rows.min() + 16), slice(columns.min(), columns.min() + 16))
    noisy[wrong] = 2
    plain, spread = (labeled(noisy, replace(PLAIN, noisy_alike_share=share)) for share in (0.0, 0.7))
    assert (plain[wrong] == 2).mean() > 0.8
    assert (spread[wrong] == WORLD.truth[wrong]).mean() > 0.5


def test_thin_things_stay_though_the_grid_of_decisions_is_too_coarse_for_them() -> None:
    noisy = WORLD.truth.astype(np.int32).copy()
    noisy[:, 70] = 4  # one pixel wide; a pixel of the grid is 2.5
    lost, kept = (labeled(noisy, replace(PLAIN, noisy_thin_share=share)) for share in (0.0, 0.6))
    assert (lost[:, 70] == 4).mean() < 0.2
    assert (kept[:, 70] == 4).mean() > 0.9
    assert (kept[:, 72:] == 4).sum() == 0


def test_a_map_alone_comes_back_as_it_is() -> None:
    found = labeled(SHIFTED, replace(PLAIN, noisy_own_share=1.0, noisy_thin_share=1.0))
    assert (found == SHIFTED).mean() > 0.995


def test_without_weight_it_has_no_say() -> None:
    everywhere = np.full(WORLD.truth.shape, 4, np.int32)
    assert (labeled(everywhere, DecideConfig()) == 4).mean() > 0.8
    assert (labeled(everywhere, DecideConfig(noisy_weight=0.0)) == 4).mean() < 0.01


def test_where_it_says_nothing_others_decide() -> None:
    noisy = np.full(WORLD.truth.shape, -1, np.int32)
    found = labeled(noisy, DecideConfig())
    assert (found == decide(WORLD.evidence, WORLD.text, CLASSES, weak(), DecideConfig()).class_map).all()


def test_shares_are_shares_with_and_without_a_background() -> None:
    for classes in (CLASSES, CLOSED):
        config, told = DecideConfig(), weak(noisy=SHIFTED)
        scene = look(frame_of(WORLD.evidence, config), WORLD.evidence, WORLD.text, classes, told, config)
        spread = spread_noisy(scene, planes_of(scene, SHIFTED))
        assert spread.shares.shape == (len(scene.rows), *scene.size)
        assert spread.shares.min() >= 0 and spread.shares.sum(0).max() <= 1 + 1e-5
        assert spread.mass.min() >= 0 and spread.mass.max() <= 1


def test_a_class_that_the_tags_forbid_stays_out() -> None:
    noisy = np.where(WORLD.truth == 2, 4, WORLD.truth).astype(np.int32)
    told = weak(noisy=noisy, absent=np.array([False, False, False, True]))
    assert 4 not in decide(WORLD.evidence, WORLD.text, CLASSES, told, DecideConfig()).areas


def test_iou_of_the_moved_object_rises() -> None:
    before = (SHIFTED == 2) & True
    truth = WORLD.truth == 2
    old = (before & truth).sum() / (before | truth).sum()
    label = decide(WORLD.evidence, WORLD.text, CLASSES, weak(noisy=SHIFTED), DecideConfig())
    assert iou(label, WORLD.truth, 2) > old + 0.05
