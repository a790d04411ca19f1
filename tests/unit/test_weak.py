"""Weak labels: what is kept, what is left out and why, and what arrives at the decision."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.corpus.simulate import map_entry

CLASSES = ClassSet.from_dict({"classes": [{"id": 5, "name": "cat", "synonyms": ["kitten"]}, {"id": 9, "name": "dog"}]})
SIZE = (20, 30)  # height, width
GOOD = {
    "tags": ["kitten", {"class": 9, "present": False}],
    "points": [{"x": 29.5, "y": 0, "class": "CAT"}, {"x": 1, "y": 2, "positive": False}],
    "scribbles": [{"xy": [[1, 1], [30, 20]], "class": "dog", "width_px": 5}],
    "boxes": [{"box": [0, 0, 30.4, 20], "class": "cat"}],
}


def reasons(weak: dict, size=SIZE, classes: ClassSet = CLASSES) -> list[str]:
    return [str(problem) for problem in weak_labels.validate(weak, classes, size)[1]]


def test_good_labels_are_made_canonical_and_kept() -> None:
    clean, problems = weak_labels.validate(GOOD, CLASSES, SIZE)
    assert problems == []
    assert clean["tags"] == [{"class": "cat", "present": True}, {"class": "dog", "present": False}]
    assert clean["points"][1] == {"x": 1.0, "y": 2.0, "class": "background", "positive": False}
    assert clean["boxes"] == [{"box": [0.0, 0.0, 30.0, 20.0], "class": "cat"}]  # rounding over the edge is taken back
    assert weak_labels.validate(clean, CLASSES, SIZE) == (clean, [])


@pytest.mark.parametrize(
    ("weak", "reason"),
    [
        ({"tags": ["catt"]}, "tags[0]: unknown class 'catt'; did you mean 'cat'?"),
        ({"tags": ["background"]}, "tags[0]: background takes no tag or box"),
        ({"tags": "cat"}, "tags: expected a list, not 'cat'"),
        ({"tags": ["cat", {"class": "cat", "present": False}]}, "tags: 'cat' is tagged both present and absent"),
        ({"tags": [{"class": "cat", "present": "yes"}]}, "tags[0]: 'present' is true or false, not 'yes'"),
        ({"tags_complete": 1}, "tags_complete: expected true or false, not 1"),
        (
            {"points": [{"x": 30, "y": 5, "class": "cat"}]},
            "points[0]: the point (30, 5) is outside the image of 30 x 20 pixels",
        ),
        ({"points": [{"x": 1e300, "y": 5, "class": "cat"}]}, "outside the image"),
        ({"boxes": [{"box": [0, 0, 1e-12, 9], "class": "cat"}]}, "the box has no area inside the image"),
        ({"points": [{"x": -0.1, "y": 5, "class": "cat"}]}, "outside the image"),
        ({"points": [{"x": "3", "y": 5, "class": "cat"}]}, "points[0]: x is not a number: '3'"),
        ({"points": [{"x": float("nan"), "y": 5, "class": "cat"}]}, "points[0]: x is not a finite number"),
        ({"points": [{"x": 10**400, "y": 5, "class": "cat"}]}, "points[0]: x is not a finite number"),
        ({"points": [{"x": 1, "y": 5}]}, "points[0]: 'class' is missing"),
        ({"points": [[1, 2]]}, "points[0]: expected a mapping with x, y, not [1, 2]"),
        (
            {"scribbles": [{"xy": [[1, 1]], "class": "cat"}]},
            "scribbles[0]: a scribble needs two points or more, this has 1",
        ),
        ({"scribbles": [{"xy": [[1, 1], [2]], "class": "cat"}]}, "scribbles[0]: xy is not a list of [x, y]"),
        ({"scribbles": [{"xy": [[1, 1], [99, 2]], "class": "cat"}]}, "outside the image"),
        ({"scribbles": [{"xy": [[1, 1], [2, 2]], "class": "cat", "width_px": 0}]}, "width_px is not positive"),
        ({"boxes": [{"box": [5, 5, 5, 9], "class": "cat"}]}, "boxes[0]: the box has no area"),
        ({"boxes": [{"box": [9, 5, 5, 9], "class": "cat"}]}, "boxes[0]: the box has no area"),
        ({"boxes": [{"box": [0, 0, 300, 200], "class": "cat"}]}, "boxes[0]: the box's corner (300, 200) is outside"),
        ({"boxes": [{"box": [0, 0, 3], "class": "cat"}]}, "boxes[0]: box is not [x0, y0, x1, y1]"),
        ({"maps": [{"kind": "full", "uri": "a.png"}]}, "maps[0]: the kind of a map is partial or noisy, not 'full'"),
        ({"maps": [{"kind": "partial", "uri": "/nowhere/a.png"}]}, "maps[0]: the map /nowhere/a.png cannot be read"),
        ({"maps": [{"kind": "partial", "uri": "data:;base64,aGVsbG8="}]}, "is not a readable PNG or NPY"),
        ({"maps": [{"kind": "noisy", "uri": "a.png", "ids": {"1.5": "cat"}}]}, "is no pixel value in 0..65535"),
        ({"point": []}, "point: unknown form; did you mean 'points'?"),
        ({"problems": ["the mask is damaged"]}, "layout: the mask is damaged"),
    ],
)
def test_a_bad_label_is_left_out_and_its_neighbours_stay(weak: dict, reason: str) -> None:
    (form,) = weak
    beside = {**GOOD, form: [*GOOD.get(form, []), *weak[form]]} if isinstance(weak[form], list) else {**GOOD, **weak}
    assert any(reason in text for text in reasons(weak)), reasons(weak)
    clean, problems = weak_labels.validate(beside, CLASSES, SIZE)
    expected, _ = weak_labels.validate(GOOD, CLASSES, SIZE)
    for other in set(expected) - {form}:
        assert clean[other] == expected[other]
    assert len(problems) == 1
    assert weak_labels.validate(clean, CLASSES, SIZE) == (clean, [])


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_map_of_the_wrong_size_or_kind_is_said(tmp_path) -> None:
    (tmp_path / "small.png").write_bytes(png(np.zeros((10, 30), np.uint8)))
    (tmp_path / "colour.png").write_bytes(png(np.zeros((20, 30, 3), np.uint8)))
    (tmp_path / "ids.png").write_bytes(png(np.full((20, 30), 7, np.uint8)))
    found = [reasons({"maps": [{"kind": "noisy", "uri": str(tmp_path / name)}]})[0] for name in
             ("small.png", "colour.png", "ids.png")]  # fmt: skip
    assert "the map is 30 x 10 pixels, the image 30 x 20" in found[0]
    assert "is not one whole number a pixel" in found[1]
    assert "[7] are ids of no class" in found[2]


@pytest.mark.parametrize("store", ["png", "npy", "16 bit"])
def test_maps_become_class_ids(store: str, tmp_path) -> None:
    values = np.zeros(SIZE, np.int64)
    values[:, :10], values[:, 10:20], values[:, 20:] = 1, 255, 2
    path = tmp_path / "map.bin"
    if store == "npy":
        buffer = io.BytesIO()
        np.save(buffer, values)
        path.write_bytes(buffer.getvalue())
    else:
        path.write_bytes(png(values.astype(np.uint8 if store == "png" else np.uint16)))
    entry = {"kind": "partial", "uri": str(path), "ids": {"1": "kitten", "2": "background"}}
    clean, problems = weak_labels.validate({"maps": [entry]}, CLASSES, SIZE)
    arrays = weak_labels.to_arrays(clean, CLASSES, *SIZE)
    assert problems == [] and arrays.noisy is None and arrays.partial is not None
    assert arrays.partial.dtype == np.int32
    assert [int(arrays.partial[3, x]) for x in (0, 15, 25)] == [5, -1, 0]


def test_values_of_a_map_without_a_class_say_nothing_and_are_listed() -> None:
    values = np.tile(np.array([3, 4], np.int32), (20, 15))
    entry = {**map_entry("noisy", values, {3: "x", 4: "x"}), "ids": {"3": "cat", "4": "horse"}}
    clean, problems = weak_labels.validate({"maps": [entry]}, CLASSES, SIZE)
    assert [str(p) for p in problems] == ["maps[0]: value 4 of the map: unknown class 'horse'"]
    noisy = weak_labels.to_arrays(clean, CLASSES, *SIZE).noisy
    assert noisy is not None and np.unique(noisy).tolist() == [-1, 5]
    assert reasons({"maps": [entry], "unknown_classes": "ignore"}) == []


def test_arrays_carry_rows_of_the_class_set() -> None:
    clean, _ = weak_labels.validate(GOOD, CLASSES, SIZE)
    arrays = weak_labels.to_arrays(clean, CLASSES, *SIZE)
    assert arrays.present is not None and arrays.present.tolist() == [True, False]
    assert arrays.absent.tolist() == [False, True]
    assert arrays.points.tolist() == [[29.5, 0.0], [1.0, 2.0]] and arrays.point_classes.tolist() == [0, -1]
    assert arrays.boxes.tolist() == [[0, 0, 30, 20]] and arrays.box_classes.tolist() == [0]
    ((xy, width, row),) = arrays.scribbles
    assert (xy.tolist(), width, row) == ([[1, 1], [30, 20]], 5.0, 1)


def test_unknown_tags_differ_from_complete_ones() -> None:
    def tags(weak: dict):
        arrays = weak_labels.to_arrays(weak_labels.validate(weak, CLASSES, SIZE)[0], CLASSES, *SIZE)
        return None if arrays.present is None else arrays.present.tolist(), arrays.absent.tolist()

    assert tags({}) == (None, [False, False])
    assert tags({"tags": ["cat"]}) == ([True, False], [False, False])
    assert tags({"tags": ["cat"], "tags_complete": True}) == ([True, False], [False, True])
    assert tags({"tags": [{"class": "cat", "present": False}]}) == (None, [True, False])
    assert tags({"tags_complete": True}) == ([False, False], [True, True])


def test_without_background_a_negative_point_has_no_meaning() -> None:
    camvid = ClassSet.load("camvid")
    (reason,) = reasons({"points": [{"x": 1, "y": 1, "positive": False}]}, SIZE, camvid)
    assert "the class set does not have" in reason


def test_without_a_size_only_what_needs_none_is_checked() -> None:
    weak = {"points": [{"x": 500, "y": 5, "class": "cat"}], "maps": [{"kind": "noisy", "uri": "/nowhere.png"}]}
    clean, problems = weak_labels.validate(weak, CLASSES)
    assert problems == [] and set(clean) == {"points", "maps"}
    assert len(reasons(weak)) == 2
    assert "outside the image" in reasons({"points": [{"x": 1e300, "y": 5, "class": "cat"}]}, None)[0]


def test_a_point_at_the_very_edge_still_lies_in_a_pixel() -> None:
    clean, problems = weak_labels.validate(
        {"points": [{"x": 30 - 1e-12, "y": 20 - 1e-12, "class": "cat"}]}, CLASSES, SIZE
    )
    (point,) = weak_labels.to_arrays(clean, CLASSES, *SIZE).points
    assert problems == [] and point.astype(int).tolist() == [29, 19]


def test_hints_are_places_whatever_class_they_name_but_not_of_background() -> None:
    weak = {
        "points": [
            {"x": 1, "y": 2, "class": "unheard of"}, {"x": 3, "y": 4, "class": "cat", "positive": False},
            {"x": "5", "y": 6, "class": "cat"}, {"x": 5, "y": 6, "class": "background"},
        ],
        "boxes": [{"box": [1, 2, 3, 4], "class": "dog"}, {"box": [1, 2]}],
        "scribbles": [{"xy": [[0, 0], [7, 8], [9, 9]], "class": "dog"}],
    }  # fmt: skip
    assert json.loads(weak_labels.hints(weak)) == [[[1, 2], [7, 8]], [[1, 2, 3, 4]]]
    assert weak_labels.hints({"tags": ["cat"]}) == ""


def test_forms_are_selected_by_name() -> None:
    weak = {**GOOD, "tags_complete": True, "maps": [{"kind": "partial", "uri": "a"}, {"kind": "noisy", "uri": "b"}]}
    assert weak_labels.select_forms(weak, None) == weak
    assert set(weak_labels.select_forms(weak, ["tags"])) == {"tags", "tags_complete"}
    assert weak_labels.select_forms(weak, ["noisy"]) == {"maps": [weak["maps"][1]]}
    assert weak_labels.select_forms(weak, ["maps"]) == {"maps": weak["maps"]}
    assert weak_labels.select_forms(weak, []) == {}
    assert weak_labels.select_forms({"unknown_classes": "ignore", "boxes": []}, ["tags"]) == {}


def test_the_digest_follows_content_not_spelling_of_the_mapping() -> None:
    a, _ = weak_labels.validate(GOOD, CLASSES)
    b, _ = weak_labels.validate(json.loads(json.dumps(dict(reversed(GOOD.items())))), CLASSES)
    assert weak_labels.weak_digest(a) == weak_labels.weak_digest(b) != weak_labels.weak_digest({})
    moved = {**GOOD, "points": [{"x": 29.4, "y": 0, "class": "cat"}]}
    assert weak_labels.weak_digest(weak_labels.validate(moved, CLASSES)[0]) != weak_labels.weak_digest(a)
    maps = [{"maps": [{"kind": "noisy", "uri": "a.png", "ids": None, "mtag": mtag}]} for mtag in ("1", "2")]
    assert len({weak_labels.weak_digest(weak_labels.validate(m, CLASSES)[0]) for m in maps}) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-50, 50) | st.floats() | st.sampled_from(["cat", "dog", "horse", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["class", "x", "y", "xy", "box", "present", "positive", "kind", "uri", "ids", "width_px"]),
        inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*weak_labels.KEYS, "other"]), JSON, max_size=5))
def test_nothing_that_a_record_holds_raises_and_what_is_kept_can_be_used(weak: dict) -> None:
    clean, _ = weak_labels.validate(weak, CLASSES, SIZE)
    json.dumps(clean, allow_nan=False)
    assert weak_labels.validate(clean, CLASSES, SIZE) == (clean, [])
    arrays = weak_labels.to_arrays(clean, CLASSES, *SIZE)
    assert ((arrays.points >= 0) & (arrays.points < [SIZE[1], SIZE[0]])).all()
    assert (arrays.boxes[:, 2:] > arrays.boxes[:, :2]).all()
    weak_labels.hints(weak)
    weak_labels.hints(clean)


def test_captions_and_free_words_prove_presence_and_never_absence() -> None:
    classes = ClassSet.load("voc")
    weak = {"captions": ["Two puppies on a couch", "no cats, a catalog"], "words": ["Kittens", "sunset", "cat food"]}
    clean, problems = weak_labels.validate(weak, classes)
    assert clean == {"tags": [{"class": name, "present": True} for name in ("cat", "dog", "sofa")]} and not problems
    assert weak_labels.validate(clean, classes) == (clean, [])
    arrays = weak_labels.to_arrays(clean, classes, 10, 10)
    assert not arrays.absent.any() and arrays.present is not None and arrays.present.sum() == 3
    # Nothing that is named: nothing is known, of any class.
    clean, _ = weak_labels.validate({"captions": "a beach at sunset", "words": ["sea"]}, classes)
    assert clean == {} and weak_labels.to_arrays(clean, classes, 10, 10).present is None


def test_tags_are_believed_before_captions() -> None:
    classes = ClassSet.load("cat, dog, cow")
    tags = [{"class": "dog", "present": False}]
    clean, problems = weak_labels.validate({"tags": tags, "captions": ["a dog and a cow"]}, classes)
    assert clean["tags"] == [{"class": "cow", "present": True}, *tags] and not problems
    clean, _ = weak_labels.validate({"tags": ["cat"], "tags_complete": True, "captions": ["a cow"]}, classes)
    assert clean == {"tags": [{"class": "cat", "present": True}], "tags_complete": True}
    both = [{"class": "cat", "present": True}, {"class": "cat", "present": False}]
    clean, problems = weak_labels.validate({"tags": both, "captions": ["a cat"]}, classes)
    assert clean == {} and "tagged both" in str(problems[0])


def test_captions_are_a_form_that_can_be_chosen_and_what_is_no_text_is_told() -> None:
    weak = {"tags": ["dog"], "captions": ["a cat"], "words": ["cow"]}
    assert weak_labels.select_forms(weak, ["captions"]) == {"captions": ["a cat"], "words": ["cow"]}
    assert weak_labels.select_forms(weak, ["tags"]) == {"tags": ["dog"]}
    clean, problems = weak_labels.validate({"captions": ["a cat", 7], "words": {"a": 1}}, ClassSet.load("cat"))
    assert clean == {"tags": [{"class": "cat", "present": True}]}
    assert [str(p) for p in problems] == ["captions[1]: expected text, not 7", "words: expected a list, not {'a': 1}"]


def test_a_caption_says_a_class_by_the_name_that_it_had() -> None:
    classes = ClassSet.load({"classes": [{"id": 3, "name": "cat"}], "migrations": [{"rename": 3, "was": "moggy"}]})
    clean, _ = weak_labels.validate({"captions": ["two moggies"]}, classes)
    assert clean == {"tags": [{"class": "cat", "present": True}]}
