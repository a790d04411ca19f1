"""Weak labels made from a mask agree with it, and are the same every time."""

import itertools

import corpora
import numpy as np
import pytest

from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.corpus.simulate import simulate
from pipelines.weak_maps import read_map

NAMES = {0: "background", 8: "cat", 12: "dog"}
VOC = ClassSet.load("voc")


@pytest.fixture
def mask() -> np.ndarray:
    values = corpora.mask().astype(np.int32)
    return np.where(values == 255, -1, values)


def test_the_same_asset_and_seed_give_the_same_labels_in_any_company(mask) -> None:
    together = simulate(mask, NAMES, "a", weak_labels.FORMS, 3)
    assert together == simulate(mask, NAMES, "a", weak_labels.FORMS, 3)
    assert simulate(mask, NAMES, "a", ["points"], 3) == {"points": together["points"]}
    assert simulate(mask, NAMES, "b", ["points"], 3) != {"points": together["points"]}
    assert simulate(mask, NAMES, "a", ["points"], 4) != {"points": together["points"]}
    assert weak_labels.validate(together, VOC, mask.shape)[1] == []


def test_tags_name_what_is_there_and_what_is_not(mask) -> None:
    tags = simulate(mask, {**NAMES, 15: "person"}, "a", ["tags"])["tags"]
    assert {t["class"]: t["present"] for t in tags} == {"cat": True, "dog": True, "person": False}


def test_points_lie_well_inside_their_class(mask) -> None:
    for seed in range(20):
        points = simulate(mask, NAMES, "a", ["points"], seed)["points"]
        assert sorted(p["class"] for p in points) == ["background", "cat", "dog"]
        for point in points:
            x, y = int(point["x"]), int(point["y"])
            around = mask[y - 1 : y + 2, x - 1 : x + 2]
            assert around.shape == (3, 3) and {NAMES[v] for v in around.ravel()} == {point["class"]}


def test_every_separate_thing_gets_a_point_and_a_box_and_specks_none() -> None:
    mask = np.zeros((100, 100), np.int32)
    mask[10:30, 10:30] = mask[60:90, 60:80] = 8
    mask[50, 50] = 8
    weak = simulate(mask, NAMES, "a", ["points", "boxes"])
    assert sorted(b["box"] for b in weak["boxes"]) == [[10, 10, 30, 30], [60, 60, 80, 90]]
    assert [p["class"] for p in weak["points"]] == ["cat", "cat", "background"]
    alone = np.zeros((100, 100), np.int32)
    alone[50, 50:53] = 8  # all there is of the class: it counts, however small
    assert simulate(alone, NAMES, "a", ["boxes"])["boxes"] == [{"box": [50, 50, 53, 51], "class": "cat"}]


def test_scribbles_never_leave_their_class() -> None:
    mask = np.zeros((80, 80), np.int32)
    mask[10:70, 10:25] = mask[55:70, 10:70] = 8  # an L: straight lines across its corner would leave it
    for seed in range(20):
        for scribble in simulate(mask, NAMES, "a", ["scribbles"], seed)["scribbles"]:
            line = np.array(scribble["xy"])
            assert len(line) >= 2
            for a, b in itertools.pairwise(line):
                steps = np.linspace(a, b, 200) - 0.5
                x, y = steps.round().astype(int).T
                assert (mask[y, x] == (8 if scribble["class"] == "cat" else 0)).all()


def test_partial_maps_are_right_where_they_speak_and_noisy_ones_mostly(mask) -> None:
    weak = simulate(mask, NAMES, "a", ["partial", "noisy"])
    partial, noisy = (read_map(entry["uri"]) for entry in weak["maps"])
    known = partial != 255
    assert 0.05 < known.mean() < 0.9 and (partial[known] == mask[known]).all()
    valid = (mask >= 0) & (noisy != 255)
    agreement = (noisy[valid] == mask[valid]).mean()
    assert 0.75 < agreement < 1.0


def test_classes_with_large_ids_fit_into_maps() -> None:
    mask = np.full((20, 20), 40_000, np.int32)
    mask[:5] = -1
    (entry,) = simulate(mask, {40_000: "cat"}, "a", ["noisy"])["maps"]
    assert set(np.unique(read_map(entry["uri"]))) <= {40_000, 65535}


def test_an_empty_mask_says_nothing() -> None:
    weak = simulate(np.full((10, 10), -1, np.int32), NAMES, "a", weak_labels.FORMS)
    assert [t["present"] for t in weak["tags"]] == [False, False]
    assert weak["points"] == weak["boxes"] == weak["scribbles"] == []
