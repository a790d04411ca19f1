"""The steps of *decide* read the fields that they declare, and no others; what trials keep changes no label."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak

from models.class_masks import ClassMasks
from models.corpus.bias import BACKGROUND, BiasConfig, BiasStats, map_background, reduce
from models.corpus.clusters import unit
from models.corpus.cosegment import References
from models.corpus.head import Head
from models.decide.config import DecideConfig
from models.decide.decide import decide, draw, frame_of, look
from models.decide.scene import Frame, Scene
from models.decide.types import Label, TextBank
from models.evidence import MASK_SOURCES
from pipelines.evaluation.cases import Case, Cases, given
from tuning.objectives import parse_objective
from tuning.scoring import Scenes, count, count_all, fields_of, mirror_case

WORLD = make_world()
SOFTMAX = DecideConfig(heat_scale="softmax", keep_policy="fixed")
# What a field refines is off by default.
ASKED: dict[str, dict[str, Any]] = {
    **{name: {"affinity_strength": 1.0} for name in ("affinity_source", "affinity_power")},
    "keep_class_share": {"keep_policy": "per-class"},
    "presence_heat_weight": {"presence_power": 1.0},
}
PARTIAL = np.full(WORLD.truth.shape, -1, np.int32)
PARTIAL[5:15, 5:15] = 0
NOISY = np.where(WORLD.truth == 2, 2, -1).astype(np.int32)
NOISY[:20, :20] = 1
LABELS = (
    weak(tags=[0, 1, 2]),
    weak(),
    weak(points=[(48, 54, 0), (120, 50, 1)]),
    weak(boxes=[(96, 30, 147, 72, 1), (98, 88, 128, 112, 2), (2, 2, 40, 20, 3)]),
    weak(noisy=NOISY),
    weak(tags=[0, 1], partial=PARTIAL, scribbles=[(np.array([[40, 40], [55, 60]], np.float32), 3.0, 0)]),
)


def second(source: str) -> ClassMasks:
    bank = WORLD.evidence.bank
    rolled = dataclasses.replace(
        bank,
        probs=np.roll(bank.probs, 5, axis=2),
        source=np.full(len(bank.probs), MASK_SOURCES.index(source), np.uint8),
    )
    return ClassMasks(rolled, np.array([1, 2, 3, 2, 4], np.int32))


OTHERS = ((), (second("heat"),), (second("student"),), (second("localiser"),))


def case(number: int, of_classes: tuple[ClassMasks, ...] = ()) -> Case:
    gold = np.where(WORLD.truth > 4, 5, WORLD.truth).astype(np.int16)
    return Case(f"{number}", WORLD.evidence, LABELS[number], of_classes, gold)


CASES = Cases(
    tuple(case(number) for number in range(len(LABELS))),
    WORLD.text,
    CLASSES,
    ("background", *CLASSES.names),
    np.arange(5, dtype=np.int16),
)


def other_value(name: str) -> Any:
    """Another valid value than the default, far enough from it to be seen."""
    field = {one.name: one for one in dataclasses.fields(DecideConfig)}[name]
    if name == "par_dilations":
        return (1, 3)
    if "range" not in field.metadata:
        return {
            "similarity": "cosine",
            "heat_scale": "minmax",
            "keep_policy": "fixed",
            "affinity_source": "masks",
            "confidence_table": (0.0, 0.3, 1.0),
        }[name]
    special = {"presence_threshold": 0.05, "presence_threshold_hinted": 0.05, "presence_max_classes": 1, "mask_top": 1}
    if name in special:
        return special[name]
    low, high = field.metadata["search"]
    far = high if field.default - low < high - field.default else low
    return type(field.default)(far)


def field_needs(name: str) -> str | None:
    return {one.name: one.metadata.get("needs") for one in dataclasses.fields(DecideConfig)}[name]


def same(one: Any, other: Any) -> bool:
    """Whether two frames, scenes or labels hold the same values, the config of a scene aside."""
    for field in dataclasses.fields(one):
        if field.name in ("config", "evidence", "classes", "weak", "frame"):
            continue
        a, b = getattr(one, field.name), getattr(other, field.name)
        if hasattr(a, "toarray"):
            a, b = a.data, b.data
        if isinstance(a, np.ndarray):
            if a.shape != b.shape or not np.array_equal(a, b):
                return False
        elif a != b:
            return False
    return True


def steps(
    config: DecideConfig, number: int, others: tuple[ClassMasks, ...] = (), text: TextBank = WORLD.text
) -> tuple[Frame, Scene, Label]:
    frame = frame_of(WORLD.evidence, config)
    scene = look(frame, WORLD.evidence, text, CLASSES, LABELS[number], config)
    return frame, scene, draw(scene, config, others)


def some_head() -> Head:
    """What a corpus might have taught; what exactly does not matter here."""
    rng = np.random.default_rng(0)
    depth, count = WORLD.evidence.features.shape[-1], len(CLASSES.ids)
    weight = rng.normal(size=(count + 1, depth)).astype(np.float32)
    flat, known = np.zeros(count + 1, np.float32), np.ones(count, bool)
    trust = np.full(count, 0.8, np.float32)
    return Head(np.zeros(depth, np.float32), np.ones(depth, np.float32), weight, flat, known, trust)


def some_references() -> References:
    """Of the first two classes: what the image has where they are, mixed."""
    depth, count = WORLD.evidence.features.shape[-1], len(CLASSES.ids)
    looks = unit(np.eye(depth, dtype=np.float32)[:count] + np.eye(depth, dtype=np.float32)[4])
    return References(looks, np.arange(count) < 2, np.zeros(depth, np.float32), 0.5)


def some_bias() -> BiasStats:
    """Of images that look like ours, with as much of each class in the background as in its region."""
    rng = np.random.default_rng(0)
    features = WORLD.evidence.features
    stats = []
    for number in range(12):
        present = np.arange(len(CLASSES.ids)) % 2 == number % 2
        labels = np.where(rng.random(features.shape[:2]) < 0.5, BACKGROUND, np.flatnonzero(present)[0])
        stats.append(map_background(features, labels, present, f"{number}", BiasConfig()))
    return reduce(stats, BiasConfig())


def text_with(need: str | None) -> TextBank:
    """The texts, with what a field needs of what a corpus taught."""
    made = {"learned": ("head", some_head), "references": ("references", some_references), "bias": ("bias", some_bias)}
    if need not in made:
        return WORLD.text
    name, make = made[need]
    return dataclasses.replace(WORLD.text, **{name: make()})


ALL_FIELDS = [(part, name) for part in ("frame", "scene", "map", "keep") for name in fields_of(part)]


@pytest.mark.parametrize(("part", "name"), ALL_FIELDS)
def test_each_field_is_first_read_by_the_step_that_it_names(part: str, name: str) -> None:
    base = SOFTMAX if name in ("softmax_temperature", "keep_threshold") else DecideConfig(**ASKED.get(name, {}))
    changed = dataclasses.replace(base, **{name: other_value(name)})
    text = text_with(field_needs(name))
    reflected = False
    for number in range(len(LABELS)):
        for others in OTHERS if part == "map" else ((),):
            frame, scene, label = steps(base, number, others, text)
            frame_now, scene_now, label_now = steps(changed, number, others, text)
            if part != "frame":
                assert same(frame, frame_now), f"{name} changes the frame"
            if part in ("map", "keep"):
                assert same(scene, scene_now), f"{name} changes the scene"
            if part == "keep":
                assert np.array_equal(label.class_map, label_now.class_map), f"{name} changes the map"
            mine = {"frame": (frame, frame_now), "scene": (scene, scene_now)}.get(part, (label, label_now))
            reflected |= not same(*mine)
        if reflected and part == "frame":
            break
    assert reflected, f"nothing changes with {name}: is it declared for the right step?"


def test_every_field_has_one_step() -> None:
    assert sorted(name for _, name in ALL_FIELDS) == sorted(field.name for field in dataclasses.fields(DecideConfig))


def test_what_is_kept_changes_no_label_and_is_not_changed() -> None:
    scenes = Scenes(CASES, 1 << 30)
    rng = np.random.default_rng(0)
    configs = [DecideConfig()]
    for _ in range(12):
        names = rng.choice([name for _, name in ALL_FIELDS], 3, replace=False)
        configs.append(dataclasses.replace(DecideConfig(), **{name: other_value(name) for name in names}))
    configs += [DecideConfig(mask_weight=0.0, guided_strength=0.0, grid_px=160), DecideConfig()]
    for config in configs:
        for one in CASES.items:
            scene = scenes(one, config)
            before = scene.heat.copy(), scene.frame.masks.copy()
            label = draw(scene, config, one.of_classes)
            assert same(label, decide(one.evidence, WORLD.text, CLASSES, one.weak, config, one.of_classes))
            assert np.array_equal(before[0], scene.heat)
            assert np.array_equal(before[1], scene.frame.masks)


def test_only_what_differs_is_computed_again() -> None:
    scenes, config = Scenes(CASES, 1 << 30), DecideConfig()
    one = CASES.items[0]
    first = scenes(one, config)
    assert scenes(one, dataclasses.replace(config, mask_weight=0.1, keep_threshold=0.2)) is first
    assert scenes.built == 1
    refined = scenes(one, dataclasses.replace(config, par_iterations=3))
    assert refined is not first
    assert refined.frame is first.frame
    assert scenes(one, dataclasses.replace(config, grid_px=48)).frame is not first.frame
    assert scenes.built == 3


def test_a_small_budget_costs_time_and_no_label() -> None:
    alone, config = Scenes(CASES, 0), DecideConfig()
    for _ in range(2):
        for one in CASES.items:
            assert np.array_equal(count(CASES, one, config, alone), count(CASES, one, config, Scenes(CASES, 1 << 30)))
    assert alone.built == 2 * len(CASES.items)


def test_what_images_have() -> None:
    assert given([case(0)], CLASSES, WORLD.text) == {"named"}
    assert given([case(1)], CLASSES, WORLD.text) == {"open", "unhinted"}
    assert given([case(2)], CLASSES, WORLD.text) == {"open", "hinted", "named", "points", "seeds"}
    assert given([case(3)], CLASSES, WORLD.text) == {"open", "hinted", "named", "boxes"}
    assert given([case(4)], CLASSES, WORLD.text) == {"open", "hinted", "noisy"}
    for seen in (("heat", "student"), ("localiser",)):
        assert given([case(0, tuple(map(second, seen)))], CLASSES, WORLD.text) == {"named", *seen}
    for need in ("learned", "references", "bias"):
        assert given([case(0)], CLASSES, text_with(need)) == {"named", need}


def test_mirroring_twice_is_the_image_itself() -> None:
    for number in range(len(LABELS)):
        one = case(number, OTHERS[1])
        back = mirror_case(mirror_case(one))
        assert same(back.evidence.bank, one.evidence.bank)
        assert np.array_equal(back.evidence.features, one.evidence.features)
        assert np.array_equal(back.weak.points, one.weak.points)
        assert np.array_equal(back.weak.boxes, one.weak.boxes)
        for (a, *_), (b, *_) in zip(back.weak.scribbles, one.weak.scribbles, strict=True):
            assert np.allclose(a, b)
    there = mirror_case(case(3))
    label = decide(there.evidence, WORLD.text, CLASSES, there.weak, DecideConfig())
    assert (label.class_map[:, ::-1] == WORLD.truth)[40:60, 100:140].mean() > 0.8  # the dog, where it was


def test_agreement_rewards_masks_that_say_what_the_text_says() -> None:
    objective = parse_objective("agreement")
    free = dataclasses.replace(CASES, items=(dataclasses.replace(case(0), gold=None),))
    value = objective.value(count_all(free, free.items, DecideConfig()).sum(0))
    bank = WORLD.evidence.bank
    wrong = dataclasses.replace(WORLD.evidence, bank=dataclasses.replace(bank, probs=bank.probs[:, ::-1].copy()))
    contradicted = dataclasses.replace(free, items=(dataclasses.replace(free.items[0], evidence=wrong),))
    assert value > objective.value(count_all(contradicted, contradicted.items, DecideConfig()).sum(0)) + 0.05
    nothing = DecideConfig(background_threshold=0.9, tag_min_area=0.0)
    assert value > objective.value(count_all(free, free.items, nothing).sum(0)), "background alone is no agreement"
