"""What is seen when: balance, determinism, and a stream that can be entered anywhere."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.groups import groups, split
from pipelines.training.plan import Images, Plan
from pipelines.training.sampling import Sampler, weights
from pipelines.training.stream import TRAIN, VALIDATE, Shape, rounds, rounds_at_once, segment


def images(areas: np.ndarray, quality: np.ndarray | None = None) -> Images:
    count = len(areas)
    names = [f"{i:04d}.jpg" for i in range(count)]
    return Images(
        pa.array(names),
        pa.array(names),
        np.zeros(count, np.int8),
        np.arange(count),
        (np.arange(count) // 8).astype(np.int32),
        areas.astype(np.float16),
        np.ones(count, np.float32) if quality is None else quality.astype(np.float32),
        pa.array([""] * count),
    )


def sampler(weight: np.ndarray, seed: int = 0, window: int = 1000, shard: np.ndarray | None = None) -> Sampler:
    count = len(weight)
    shards = np.zeros(count, np.int32) if shard is None else shard
    return Sampler(np.arange(count) + 100, weight, shards, seed, window, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60), st.integers(0, 5))
def test_an_image_appears_as_often_as_its_weight_says(weight: list[float], epoch: int) -> None:
    values = np.array(weight)
    seen = np.bincount(sampler(values).epoch(epoch) - 100, minlength=len(values))
    expected = values / values.sum() * len(values)
    assert seen.sum() == len(values)
    assert (np.abs(seen - expected) < 1 + 1e-9).all()


def test_equal_weights_show_every_image_once_in_another_order_each_epoch() -> None:
    one = sampler(np.ones(50))
    orders = [one.epoch(number) for number in range(3)]
    assert all(sorted(order) == list(range(100, 150)) for order in orders)
    assert not (orders[0] == orders[1]).all() and not (orders[1] == orders[2]).all()


def test_a_place_is_a_function_of_the_seed_alone() -> None:
    weight = np.random.default_rng(0).random(40) + 0.1
    forwards, backwards = sampler(weight, seed=7), sampler(weight, seed=7)
    places = list(range(0, 400, 7))
    assert [forwards.row(p) for p in places] == [backwards.row(p) for p in reversed(places)][::-1]
    assert [sampler(weight, seed=8).row(p) for p in places] != [forwards.row(p) for p in places]


def test_a_window_reads_few_parts_of_the_files() -> None:
    shard = (np.arange(6400) // 64).astype(np.int32)
    one = sampler(np.ones(6400), window=640, shard=shard)
    order = one.epoch(0) - 100
    for start in range(0, 6400, 640):
        assert len(np.unique(shard[order[start : start + 640]])) == 10
        assert len(np.unique(shard[order[start : start + 64]])) > 5  # and mixes them


def test_rare_classes_and_sure_labels_are_seen_more_often() -> None:
    areas = np.zeros((100, 3))
    areas[:, 0] = 0.5
    areas[:60, 1] = 0.3
    areas[:4, 2] = 0.3
    rows = np.arange(100)
    even = weights(images(areas), rows, 0.0, 0.0)
    assert (even == 1).all()
    balanced = weights(images(areas), rows, 0.5, 0.0)
    assert balanced[0] == pytest.approx((0.6 / 0.04) ** 0.5)  # the median class is in 60 of 100 images
    assert balanced[10] == balanced[99] == 1
    assert weights(images(areas), rows, 1.0, 0.0)[0] == 10  # and no more
    quality = np.linspace(0.2, 1, 100)
    sure = weights(images(areas, quality), rows, 0.0, 2.0)
    assert sure == pytest.approx(quality.astype(np.float32) ** 2, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    workers=st.integers(1, 4),
    steps=st.integers(1, 120),
    every=st.integers(1, 50),
    validation=st.integers(0, 90),
    size=st.sampled_from([64, 256, 512]),
    start=st.integers(0, 119),
)
def test_the_stream_from_any_step_is_the_rest_of_the_whole(
    workers: int, steps: int, every: int, validation: int, size: int, start: int
) -> None:
    start = min(start, steps)
    shape = Shape(workers, 1, 4, 0, size, steps, every, validation)
    trained, validated = [], []
    for one in rounds(shape, start):
        if one.kind == TRAIN:
            trained += range(one.step, one.step + one.count)
        else:
            assert one.step == trained[-1] + 1 and shape.validates_after(one.step)
            last = one.first + one.count * workers
            validated.append((one.step, range(one.first, min(last, validation))))
    assert trained == list(range(start, steps))
    for step in {step for step, _ in validated}:
        shown = [number for at, part in validated if at == step for number in part]
        assert shown == list(range(validation))
    if validation and start < steps:
        assert validated[-1][0] == steps


def test_segments_cut_no_validation() -> None:
    shape = Shape(2, 1, 4, 0, 512, 60, 10, 40)
    whole, pieced, step = list(rounds(shape, 0)), [], 0
    most = 1 + sum(1 for one in whole if one.kind == VALIDATE and one.step == 10)
    assert most <= rounds_at_once(shape)
    while step < shape.steps:
        part = segment(shape, step, most)
        assert 0 < len(part) <= most
        pieced += part
        step = max(one.step + one.count for one in part if one.kind == TRAIN)
    assert [one for one in pieced if one.kind == VALIDATE] == [one for one in whole if one.kind == VALIDATE]
    assert [one.step for one in pieced if one.kind == TRAIN] == [one.step for one in whole if one.kind == TRAIN]


def test_equal_bytes_and_runs_of_frames_stay_together() -> None:
    names = [f"walk/f_{i:03d}.png" for i in range(40)] + ["portrait.jpg", "copy of portrait.jpg"]
    digests = [""] * 40 + ["same", "same"]
    auto = groups(names, digests, "auto", 0.4)
    assert auto[40] == auto[41]
    sizes = np.bincount(auto[:40])
    assert sizes.max() == 4 and (np.diff(auto[:40]) >= 0).all()  # runs, in the order of the frames
    assert len(set(groups(names, digests, "none", 0.4))) == 42
    assert len(set(groups(names, digests, "folder", 0.4))) == 2
    assert len(set(groups(names, digests, "digest", 0.4))) == 41


def test_the_order_of_files_does_not_matter_to_runs() -> None:
    names = [f"f_{i}.png" for i in (9, 10, 1, 2, 11, 3)]
    found = groups(names, [""] * 6, "prefix", 1.0)
    by_number = [found[names.index(f"f_{i}.png")] for i in (1, 2, 3, 9, 10, 11)]
    assert [by_number.count(group) for group in dict.fromkeys(by_number)] == [1] * 6
    pairs = groups([f"f_{i}.png" for i in range(16)], [""] * 16, "prefix", 0.5)
    assert pairs.tolist() == [i // 2 for i in range(16)]


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 200), st.floats(0.05, 0.5), st.integers(0, 3))
def test_the_split_takes_whole_groups_and_about_the_share(count: int, share: float, seed: int) -> None:
    group_of = np.arange(count) // 3
    stay, aside = split(group_of, share, 10_000, seed)
    assert sorted([*stay, *aside]) == list(range(count))
    assert not set(group_of[stay]) & set(group_of[aside])
    assert share * count - 3 <= len(aside) <= max(1.5 * share * count, 3)
    assert (split(group_of, share, 10_000, seed)[1] == aside).all()
    few = split(group_of, share, 2, seed)[1]
    assert len(few) == min(2, len(aside)) and set(few) <= set(aside)


def test_a_plan_with_other_roles_is_another_plan() -> None:
    shown = images(np.ones((6, 2)))
    one = Plan(shown, np.arange(4), np.array([4]), np.array([5]))
    same = Plan(shown, np.arange(4), np.array([4]), np.array([5]))
    other = Plan(shown, np.arange(4), np.array([5]), np.array([4]))
    assert one.digest == same.digest != other.digest
