"""Class sets: what a user writes, what comes out, and what the digest depends on."""

import copy
import json

import fsspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.class_builtins import BACKGROUND_WORDS
from pipelines.classes import ClassSet, ClassSetError

FULL = {
    "background": {"words": ["sky", "grass"], "color": "#010203"},
    "templates": ["a photo of a {}."],
    "classes": [
        {"id": 3, "name": "animal"},
        {"id": 8, "name": "cat", "prompts": ["cat", "kitten"], "synonyms": ["kitty"], "color": [64, 0, 0],
         "parent": "animal"},
    ],
}  # fmt: skip


def test_plain_names_get_ids_from_one_and_background_zero() -> None:
    found = ClassSet.load("cat, dog ,sea lion")
    assert [(e.id, e.name) for e in found.classes] == [(1, "cat"), (2, "dog"), (3, "sea lion")]
    assert found.background is not None and found.background.id == 0


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_and_a_url_give_the_same_set(suffix: str, tmp_path) -> None:
    text = yaml.safe_dump(FULL) if suffix == ".yaml" else json.dumps(FULL)
    path = tmp_path / f"classes{suffix}"
    path.write_text(text)
    with fsspec.open(f"memory://sets/classes{suffix}", "w") as file:
        file.write(text)
    expected = ClassSet.from_dict(FULL)
    assert (
        ClassSet.load(str(path)) == ClassSet.load(path) == ClassSet.load(f"memory://sets/classes{suffix}") == expected
    )
    cat = expected.classes[1]
    assert (cat.id, cat.prompts, cat.color, cat.parent) == (8, ("cat", "kitten"), (64, 0, 0), "animal")


def test_names_with_commas_come_through_json_and_a_text_file(tmp_path) -> None:
    assert ClassSet.load('["salt, pepper", "a/b: c#"]').names == ["salt, pepper", "a/b: c#"]
    (tmp_path / "names.txt").write_text("salt, pepper\n\ncat\n")
    assert ClassSet.load(str(tmp_path / "names.txt")).names == ["salt, pepper", "cat"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
def test_any_name_round_trips_or_is_refused(names: list[str]) -> None:
    try:
        found = ClassSet.from_dict(names)
    except ClassSetError:
        return
    assert found.names == [name.strip() for name in names]
    again = ClassSet.load(json.dumps(found.to_dict()))
    assert again == found and again.digest == found.digest
    assert ClassSet.from_dict(yaml.safe_load(yaml.safe_dump(found.to_dict()))) == found
    for position, name in enumerate(found.names):
        assert found.index(name) == position


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (["cat", "cat"], "'cat' is given to both"),
        ([{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}], "id 1 is given to both 'cat' and 'dog'"),
        ([{"id": 0, "name": "cat"}], "background"),
        ([{"id": 65535, "name": "cat"}], "0..65534"),
        ([{"id": -1, "name": "cat"}], "0..65534"),
        ([{"id": True, "name": "cat"}], "0..65534"),
        ([{"name": "cat", "parent": "anmal"}, {"name": "animal"}], "did you mean 'animal'"),
        ([{"name": "a", "parent": "b"}, {"name": "b", "parent": "a"}], "its own ancestor"),
        ([{"name": "cat", "synonym": ["kitty"]}], "did you mean 'synonyms'"),
        ([{"name": "cat", "synonyms": ["dog"]}, {"name": "dog"}], "'dog' is given to both"),
        ([{"name": "cat", "color": "red"}], "#rrggbb"),
        ([False, "cat"], "in quotes"),
        (["cat", " "], "empty"),
        (["background", "cat"], "leave the class 'background' out"),
        ({"classes": ["cat"], "background": ["cat"]}, "'cat' names a class"),
        ({"classes": ["cat"], "templates": ["a photo"]}, "{}"),
        ({"clases": ["cat"]}, "did you mean 'classes'"),
        ("cat", "a list of names or a mapping"),
    ],
)
def test_what_is_wrong_is_said(data, message: str) -> None:
    with pytest.raises(ClassSetError, match=message.replace("{", r"\{").replace("}", r"\}").replace("..", r"\.\.")):
        ClassSet.from_dict(data)


@pytest.mark.parametrize(("source", "message"), [("nowhere.yaml", "cannot be read"), ("", "empty"), ("[1,", "neither")])
def test_a_source_that_cannot_be_used_is_said(source: str, message: str) -> None:
    with pytest.raises(ClassSetError, match=message):
        ClassSet.load(source)


def test_the_digest_follows_decisions_and_nothing_else() -> None:
    base = ClassSet.from_dict(FULL).digest

    def changed(change) -> str:
        data = copy.deepcopy(FULL)
        change(data)
        return ClassSet.from_dict(data).digest

    same = [
        lambda d: d["classes"].reverse(),
        lambda d: d["classes"][1].update(color="#ffffff"),
        lambda d: d["classes"][1].pop("parent"),
        lambda d: d["background"].pop("color"),
    ]
    different = [
        lambda d: d["classes"][1].update(id=9),
        lambda d: d["classes"][1].update(name="Cat"),
        lambda d: d["classes"][1]["prompts"].append("tabby"),
        lambda d: d["classes"][1]["synonyms"].append("puss"),
        lambda d: d["background"]["words"].append("road"),
        lambda d: d.update(background=False),
        lambda d: d.update(templates=["{}"]),
        lambda d: d["classes"].append({"id": 9, "name": "dog"}),
    ]
    assert {changed(change) for change in same} == {base}
    assert len({changed(change) for change in different} | {base}) == len(different) + 1


def test_names_synonyms_and_ids_are_found_in_any_case() -> None:
    voc = ClassSet.load("voc")
    assert [voc.index(k) for k in ("diningtable", "Dining Table", "dining_table", 11)] == [10] * 4
    assert voc.index("background") == voc.index(0) == -1
    assert [voc.index(k) for k in ("unicorn", 21, True, None, 1.0)] == [None] * 5
    assert voc.nearest("aeroplan") == "aeroplane"
    both = ClassSet.from_dict(["Cat", "cat"])
    assert (both.index("Cat"), both.index("cat"), both.index("CAT")) == (0, 1, None)


def test_voc_has_its_ids_and_colours() -> None:
    voc = ClassSet.load("voc")
    assert [e.id for e in voc.classes] == list(range(1, 21)) and voc.names[14] == "person"
    assert voc.palette().tolist()[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert voc.palette()[20].tolist() == [0, 64, 128]
    camvid = ClassSet.load("camvid")
    assert camvid.background is None and [e.id for e in camvid.classes] == list(range(11))
    assert camvid.palette().shape == (11, 3)
    assert {"cat", "person", "motorcycle", "cup", "rocket", "flower", "building"} == set(ClassSet.load("sample").names)


def test_default_colours_are_distinct() -> None:
    found = ClassSet.from_dict([str(i) for i in range(600)])
    assert len(np.unique(found.palette(), axis=0)) == 601


@pytest.mark.parametrize("name", ["voc", "sample"])
def test_default_background_words_name_no_class(name: str) -> None:
    found = ClassSet.load(name)
    assert found.background is not None and len(found.background.words) >= 20
    names = {text.lower() for e in found.classes for text in (e.name, *e.synonyms, *e.prompts)}
    assert not names & set(found.background.words)


def test_a_class_takes_its_near_synonyms_out_of_the_default_background() -> None:
    words = ClassSet.load("road, Trees, palm house").background.words  # type: ignore[union-attr]
    assert not {"road", "street", "tree", "forest", "house", "building"} & set(words)
    assert {"sky", "grass"} <= set(words)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([w for g in BACKGROUND_WORDS for w in g]), min_size=1, max_size=5, unique=True))
def test_no_target_is_ever_a_background_word(names: list[str]) -> None:
    found = ClassSet.from_dict(names)
    assert not set(names) & set(found.background.words)  # type: ignore[union-attr]


def test_prompts_put_the_templates_of_one_text_side_by_side() -> None:
    found = ClassSet.from_dict({**FULL, "classes": [{"name": "a {} b", "prompts": ["x{}"]}, "dog_house"]})
    prompts, class_of = found.prompts(["a {}.", "{}!"])
    assert prompts[:4] == ["a x{}.", "x{}!", "a dog house.", "dog house!"]
    assert class_of.tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    texts, text_class = found.texts()
    assert texts == ["x{}", "dog house", "sky", "grass"]
    assert (class_of.reshape(-1, 2) == text_class[:, None]).all()


def test_arrays_are_what_decide_takes() -> None:
    arrays = ClassSet.load("voc").arrays()
    assert arrays.ids.tolist() == list(range(1, 21)) and arrays.background_id == 0
    assert ClassSet.load("camvid").arrays().background_id is None
