"""Decide on a known scene: what each source promises, alone and together, and what every label must satisfy."""

from dataclasses import replace

import numpy as np
import pytest
from decide_scene import CLASSES, iou, make_world, weak
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.class_masks import ClassMasks
from models.decide.baselines import centre_prior, heat_only, heat_par
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.types import PROVENANCE, ClassArrays, Label, TextBank
from models.evidence import MaskBank
from models.metrics import expand_quarter

CONFIG = DecideConfig()
WORLD = make_world()


def label_of(labels, world=WORLD, config=CONFIG, classes=CLASSES) -> Label:
    return decide(world.evidence, world.text, classes, labels, config)


def source_at(label: Label, x: float, y: float) -> str:
    return PROVENANCE[label.provenance[int(y) // 4, int(x) // 4]]


def check(label: Label, world, classes=CLASSES) -> None:
    """What holds for every label."""
    height, width = world.evidence.height, world.evidence.width
    assert label.class_map.shape == (height, width)
    assert label.confidence.shape == label.provenance.shape == (-(-height // 4), -(-width // 4))
    assert label.confidence.dtype == label.provenance.dtype == np.uint8
    assert set(np.unique(label.class_map)) <= {classes.background_id, *classes.ids.tolist()}
    assert label.provenance.max() < len(PROVENANCE)
    assert sum(label.areas.values()) == pytest.approx(1)
    kept = expand_quarter(label.confidence / 255 >= label.keep_threshold, height, width)
    assert label.coverage == pytest.approx(kept.mean())
    assert sum(label.kept_areas.values()) == pytest.approx(label.coverage)
    assert 0 <= label.disagreement <= 1
    assert label.mean_confidence == pytest.approx(label.confidence.mean() / 255)


def test_tags_find_the_objects_and_each_step_helps():
    tagged = weak(tags=[0, 1, 2])
    label = label_of(tagged)
    check(label, WORLD)
    assert min(iou(label, WORLD.truth, 1), iou(label, WORLD.truth, 2)) > 0.8

    def mean(config):
        return np.mean([iou(label_of(tagged, config=config), WORLD.truth, i) for i in (1, 2, 3)])

    heat, par, default = mean(heat_only(CONFIG)), mean(heat_par(CONFIG)), mean(CONFIG)
    assert heat + 0.1 < par <= default
    assert default > np.mean(
        [((centre_prior(CLASSES, tagged, 120, 160) == i) & (WORLD.truth == i)).mean() for i in (1, 2)]
    )


def test_nothing_known_finds_the_likely_classes_only():
    label = label_of(weak())
    check(label, WORLD)
    assert iou(label, WORLD.truth, 1) > 0.7 and iou(label, WORLD.truth, 2) > 0.7
    assert 4 not in label.areas, "no car is in the picture, and the presence gate says so"


def test_absent_tags_forbid():
    label = label_of(weak(absent=np.array([True, False, False, False])))
    assert 1 not in label.areas and 2 in label.areas
    assert label_of(weak(tags=[])).areas == {0: 1.0}


def test_present_tags_appear_even_where_text_sees_nothing():
    label = label_of(weak(tags=[0, 3]))
    assert label.areas[4] >= 0.5 * CONFIG.tag_min_area
    assert 2 not in label.areas


@pytest.mark.parametrize("row", [-1, 0, 1, 2, 3])
def test_points_are_taken_at_their_word(row):
    labels = weak(points=[(112.5, 50.5, row)])
    label = label_of(labels)
    check(label, WORLD)
    assert label.class_map[50, 112] == row + 1
    assert source_at(label, 112, 50) == "point"
    assert label.confidence[50 // 4, 112 // 4] == 255


def test_a_point_spreads_over_its_object():
    """Text calls the right object a dog; one click says car, and the whole object follows."""
    label = label_of(weak(points=[(120, 50, 3)], tags=[3]))
    assert ((label.class_map == 4) & (WORLD.truth == 2)).sum() > 0.7 * (WORLD.truth == 2).sum()


def test_points_and_partial_maps_beat_tags():
    label = label_of(weak(tags=[1], points=[(45, 55, 0)]))
    assert label.class_map[55, 45] == 1


def test_scribbles_hold_along_their_line():
    line = np.array([[100, 40], [140, 40], [140, 65]], np.float32)
    label = label_of(weak(scribbles=[(line, 3.0, 3)]))
    check(label, WORLD)
    assert (label.class_map[40, 100:140] == 4).all() and (label.class_map[40:65, 140] == 4).all()
    assert source_at(label, 120, 40) == "scribble"


def test_boxes_bound_their_class_and_each_holds_some():
    boxes = [(20, 20, 80, 90, 0), (90, 20, 155, 80, 1), (2, 100, 14, 114, 1)]
    label = label_of(weak(boxes=boxes))
    check(label, WORLD)
    outside = np.ones(WORLD.truth.shape, bool)
    for x0, y0, x1, y1, row in boxes:
        assert (label.class_map[y0:y1, x0:x1] == row + 1).any()
        if row == 1:
            outside[y0:y1, x0:x1] = False
    assert not (label.class_map[outside] == 2).any()
    assert iou(label, WORLD.truth, 1) > 0.8


def test_a_partial_map_wins_everywhere_it_speaks():
    partial = np.full(WORLD.truth.shape, -1, np.int32)
    partial[:40] = 3
    partial[40:50] = 0
    label = label_of(weak(partial=partial, tags=[0, 1], points=[(80, 20, 0)]))
    check(label, WORLD)
    assert (label.class_map[:40] == 3).all() and (label.class_map[40:50] == 0).all()
    assert source_at(label, 80, 20) == "partial"
    assert (label.class_map[52:] == 2).any()


def test_a_noisy_map_votes_with_its_weight():
    noisy = np.where(WORLD.truth == 2, 4, WORLD.truth).astype(np.int32)  # It takes the dog for a car.
    for weight, wins in ((0.0, False), (1.0, True)):
        label = label_of(weak(noisy=noisy), config=replace(CONFIG, noisy_weight=weight))
        check(label, WORLD)
        assert (iou(label, np.where(WORLD.truth == 2, 4, 0), 4) > 0.8) == wins
    forbidden = label_of(weak(noisy=noisy, absent=np.array([False, False, False, True])))
    assert 4 not in forbidden.areas, "a map that may be wrong does not overrule a tag"


def test_class_sets_without_background_cover_every_pixel():
    classes = ClassArrays(np.array([0, 1, 2, 3], np.int32), list(CLASSES.names), None)
    label = label_of(weak(), classes=classes)
    check(label, WORLD, classes)
    assert label.class_map[55, 45] == 0 and label.class_map[50, 120] == 1
    everything_forbidden = label_of(weak(tags=[]), classes=classes)
    check(everything_forbidden, WORLD, classes)


def test_a_large_image_gets_a_full_size_label_like_the_small_one():
    large = make_world(full=(1000, 1333))
    tagged = weak(tags=[0, 1, 2])
    label, small = label_of(tagged, large), label_of(tagged)
    check(label, large)
    rows, columns = np.arange(120) * 1000 // 120 + 4, np.arange(160) * 1333 // 160 + 4
    assert (label.class_map[rows][:, columns] == small.class_map).mean() > 0.98


def test_ids_above_255_and_classes_in_any_id_order():
    classes = ClassArrays(np.array([700, 2, 31, 4], np.int32), list(CLASSES.names), 0)
    label = label_of(weak(tags=[0, 1]), classes=classes)
    assert label.class_map.dtype == np.uint16
    assert label.class_map[55, 45] == 700 and label.class_map[50, 120] == 2


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 7)])
def test_tiny_and_thin_images(size):
    world = make_world(*size)
    labels = weak(tags=[0, 1], points=[(0.5, 0.5, 2)], boxes=[(0, 0, size[1], size[0], 1)])
    check(label_of(labels, world), world)
    check(label_of(weak(), world), world)


def test_an_image_without_masks():
    bank = WORLD.evidence.bank
    bare = replace(bank, probs=bank.probs[:0], iou=bank.iou[:0], stability=bank.stability[:0], source=bank.source[:0])
    world = replace(WORLD, evidence=replace(WORLD.evidence, bank=bare))
    labels = weak(tags=[0, 1], points=[(45, 55, 0)], boxes=[(90, 20, 155, 80, 1)])
    label = label_of(labels, world)
    check(label, world)
    assert iou(label, WORLD.truth, 1) > 0.5


def test_disagreement_rises_when_the_tags_name_what_is_not_seen():
    assert label_of(weak(tags=[3])).disagreement > 0.2 + label_of(weak(tags=[0, 1, 2])).disagreement


def test_the_same_inputs_give_the_same_label():
    labels = weak(tags=[0, 1, 2], points=[(45, 55, 0)], boxes=[(90, 20, 155, 80, 1)])
    one, two = label_of(labels), label_of(labels, make_world())
    np.testing.assert_array_equal(one.class_map, two.class_map)
    np.testing.assert_array_equal(one.confidence, two.confidence)
    assert (one.areas, one.disagreement) == (two.areas, two.disagreement)


def test_a_class_without_a_prompt_is_an_error():
    text = TextBank(WORLD.text.emb[:2], WORLD.text.class_of[:2])
    with pytest.raises(ValueError, match="no prompt"):
        decide(WORLD.evidence, text, CLASSES, weak(), CONFIG)


@st.composite
def any_weak(draw):
    """Any mix of forms, contradictions included."""
    rows, x, y = st.integers(0, 3), st.floats(0, 160), st.floats(0, 120)
    given: dict[str, object] = {}
    if draw(st.booleans()):
        given["tags"] = draw(st.lists(rows, max_size=4))
    if draw(st.booleans()):
        given["points"] = draw(st.lists(st.tuples(x, y, st.integers(-1, 3)), min_size=1, max_size=4))
    if draw(st.booleans()):
        corners = st.tuples(st.floats(0, 150), st.floats(0, 110), st.floats(1, 60), st.floats(1, 60), rows)
        given["boxes"] = [
            (a, b, min(a + w, 160), min(b + h, 120), r)
            for a, b, w, h, r in draw(st.lists(corners, min_size=1, max_size=3))
        ]
    if draw(st.booleans()):
        given["scribbles"] = [(np.array([[draw(x), draw(y)], [draw(x), draw(y)]], np.float32), 3.0, draw(rows))]
    for form in ("partial", "noisy"):
        if draw(st.booleans()):
            part = np.full((120, 160), -1, np.int32)
            part[: draw(st.integers(1, 120))] = draw(st.integers(-1, 5))
            given[form] = part
    return weak(**given)


@settings(max_examples=40, deadline=None)
@given(any_weak())
def test_any_mix_of_weak_labels(labels):
    label = label_of(labels)
    check(label, WORLD)
    allowed = {0}
    tagged = labels.present if labels.present is not None else np.ones(4, bool)
    marks = [labels.point_classes, labels.box_classes, np.array([s[2] for s in labels.scribbles], np.int32)]
    allowed |= {int(r) + 1 for r in np.flatnonzero(tagged)} | {int(r) + 1 for m in marks for r in m}
    if labels.partial is not None:
        says = (labels.partial >= 0) & (labels.partial <= 4)
        np.testing.assert_array_equal(label.class_map[says], labels.partial[says])
        allowed |= set(np.unique(labels.partial[says]).tolist())
    assert set(label.areas) <= allowed
    if labels.present is not None and labels.partial is None and not (len(labels.boxes) or labels.scribbles):
        assert {int(r) + 1 for r in np.flatnonzero(labels.present)} <= set(label.areas)


def test_masks_that_a_class_asked_for_decide_where_the_bank_has_none():
    """Heat and bank know nothing of the cat's shape; a mask that the cat's heat asked SAM for does."""
    cat = WORLD.truth == 1
    bank = WORLD.evidence.bank
    blind = replace(WORLD.evidence, bank=replace(bank, **{n: getattr(bank, n)[1:3] for n in vars(bank)}))
    probs = np.asarray(Image.fromarray((cat * 255).astype(np.uint8)).resize((64, 48)))[None]
    one = np.ones(1, np.float32)
    found = ClassMasks(MaskBank(probs, one, one, np.full(1, 4, np.uint8)), np.array([1], np.int32))
    tagged = weak(tags=[0, 1, 2])
    scores = {}
    for weight in (0.0, 0.9):
        config = replace(CONFIG, heat_mask_weight=weight)
        scores[weight] = iou(decide(blind, WORLD.text, CLASSES, tagged, config, [found]), WORLD.truth, 1)
    alone = decide(blind, WORLD.text, CLASSES, tagged, CONFIG)
    assert scores[0.0] == iou(alone, WORLD.truth, 1)
    assert scores[0.9] > scores[0.0] + 0.02 and scores[0.9] > 0.9
    # A class that does not compete is not brought in by its mask.
    other = ClassMasks(found.bank, np.array([4], np.int32))
    with_it = decide(blind, WORLD.text, CLASSES, tagged, CONFIG, [other])
    np.testing.assert_array_equal(with_it.class_map, alone.class_map)


def test_a_student_is_weighed_and_named_where_it_decides():
    """The student is sure of a dog where all else sees background."""
    place = np.zeros((48, 64), np.uint8)
    place[4:14, 4:20] = 255
    one = np.ones(1, np.float32)
    student = ClassMasks(MaskBank(place[None], one, one, np.full(1, 5, np.uint8)), np.array([2], np.int32))
    tagged = weak(tags=[0, 1, 2])
    for weight, expected in ((0.0, 0), (0.8, 2)):
        config = replace(CONFIG, student_weight=weight)
        label = decide(WORLD.evidence, WORLD.text, CLASSES, tagged, config, [student])
        check(label, WORLD)
        assert label.class_map[22, 30] == expected
    assert source_at(label, 30, 22) == "student"
