"""Class sets that changed: what was written under older ones is read as what it means now."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pictures import write_crops
from PIL import Image

from models.class_masks import ClassMasks
from models.evidence import MaskBank
from pipelines import weak
from pipelines.classes import ClassSet, ClassSetError
from pipelines.config import LabelConfig, UsageError
from pipelines.evaluation.gold import IGNORED, match
from pipelines.execution import layout
from pipelines.flow import job, past
from pipelines.flow.past import check_classes
from pipelines.flow.run import Run
from pipelines.flow.second import _same_names
from pipelines.migrations import UNKNOWN, Translation, check_change
from pipelines.stages.decide import png
from pipelines.tables.labels import SCHEMA, LabelTable
from pipelines.training.config import TrainConfig
from pipelines.training.sources import prepare
from pipelines.training.targets import PRESENT
from pipelines.training.targets import UNKNOWN as UNSAID

BEFORE = ClassSet.from_dict(
    [
        {"id": 8, "name": "cat"},
        {"id": 15, "name": "person"},
        {"id": 6, "name": "bus"},
        {"id": 7, "name": "car"},
        {"id": 4, "name": "boat"},
        {"id": 12, "name": "dog"},
    ]
)
RECORDS: list[dict[str, Any]] = [
    {"rename": 8, "was": "cat"},
    {"split": 15, "was": "person", "into": [21, 22]},
    {"merge": [6, 7], "was": ["bus", "car"], "into": 23},
    {"retire": 4, "was": "boat"},
]
CLASSES = [
    {"id": 8, "name": "feline"},
    {"id": 12, "name": "dog"},
    {"id": 21, "name": "adult"},
    {"id": 22, "name": "child"},
    {"id": 23, "name": "vehicle"},
]
NOW = ClassSet.from_dict({"classes": CLASSES, "migrations": RECORDS})


def with_records(*records: dict[str, Any], classes: list[dict[str, Any]] | None = None) -> ClassSet:
    return ClassSet.from_dict({"classes": classes or CLASSES, "migrations": list(records)})


def test_ids_of_any_time_mean_what_they_became() -> None:
    translation = Translation.of(BEFORE, NOW)
    read = dict(zip((0, 4, 6, 7, 8, 12, 15, 99), translation.ids(np.array([0, 4, 6, 7, 8, 12, 15, 99])), strict=True))
    assert read == {0: 0, 4: 0, 6: 23, 7: 23, 8: 8, 12: 12, 15: UNKNOWN, 99: UNKNOWN}
    assert translation.unmatched == ()
    # A set of other origin, whose ids mean something else, goes by its names.
    other = ClassSet.from_dict([{"id": 8, "name": "car"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "tree"}])
    foreign = Translation.of(other, NOW)
    assert [int(i) for i in foreign.ids(np.array([8, 1, 2]))] == [23, 8, UNKNOWN]
    assert foreign.unmatched == ("tree",)


def test_several_steps_are_followed_and_a_set_without_background_keeps_silent() -> None:
    classes = [{"id": 8, "name": "feline"}, {"id": 24, "name": "young"}]
    chain = with_records(
        {"rename": 8, "was": "cat"},
        {"split": 15, "was": "person", "into": [21, 22]},
        {"rename": 8, "was": "kitty"},
        {"merge": [22, 23], "was": ["child", "puppy"], "into": 24},
        {"retire": 21, "was": "adult"},
        classes=classes,
    )
    assert chain.lineage.ids == {15: UNKNOWN, 22: 24, 23: 24, 21: 0}
    assert [chain.index(name) for name in ("cat", "Kitty", "puppy", "adult", "person")] == [0, 0, 1, -1, None]
    bare = ClassSet.from_dict(
        {"background": False, "classes": [{"id": 1, "name": "road"}], "migrations": [{"retire": 2, "was": "sky"}]}
    )
    assert bare.lineage.ids == {2: UNKNOWN} and bare.index("sky") is None


def test_a_set_goes_through_its_file_and_its_records_are_part_of_it() -> None:
    again = ClassSet.from_dict(yaml.safe_load(yaml.safe_dump(NOW.to_dict())))
    assert again == NOW and again.digest == NOW.digest
    assert ClassSet.from_dict(CLASSES).digest != NOW.digest
    # Sets without records keep the digest that labels were made with.
    assert ClassSet.load("voc").digest == "b3237297c489637ee1db6e9a6fce856bf20124d3184fa7f415619b084bc231af"
    assert ClassSet.from_dict(ClassSet.load("cat, dog").to_dict()).stable is False


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([{"renamed": 8, "was": "cat"}], "did you mean 'rename'"),
        ([{"rename": 8}], "`was` names"),
        ([{"rename": 9, "was": "cat"}], "the class 9"),
        ([{"split": 15, "was": "person", "into": [21]}], "two classes or more"),
        ([{"split": 12, "was": "dog", "into": [12, 21]}], "new ids"),
        ([{"merge": [6], "was": ["bus"], "into": 23}], "two ids or more"),
        ([{"merge": [6, 7], "was": ["bus"], "into": 23}], "`was` names"),
        ([{"retire": 12, "was": "hound"}], "never used again"),
        ([{"retire": 4, "was": "boat"}, {"rename": 4, "was": "boat"}], "went before"),
        ([{"retire": 4, "was": "boat", "into": [8]}], "`into` of a retire is nothing"),
        ([{"retire": 4, "was": "dog"}], "ambiguous"),
        ([{"retire": 4, "was": "boat"}, {"rename": 8, "was": "Boat"}], "ambiguous"),
        ([{"rename": 8, "retire": 8, "was": "cat"}], "one of"),
        ([{"rename": "8", "was": "cat"}], "whole number"),
        ("rename", "list of records"),
    ],
)
def test_records_that_are_wrong_or_ambiguous_are_refused(records: Any, told: str) -> None:
    with pytest.raises(ClassSetError, match=told):
        ClassSet.from_dict({"classes": CLASSES, "migrations": records})


def test_records_need_ids_that_last() -> None:
    with pytest.raises(ClassSetError, match="every class an `id`"):
        ClassSet.from_dict({"classes": ["cat"], "migrations": [{"retire": 4, "was": "boat"}]})


def test_a_change_without_a_record_is_refused_with_the_record_to_write() -> None:
    check_change(BEFORE, NOW)
    renamed = ClassSet.from_dict([*(e for e in BEFORE.to_dict()["classes"] if e["id"] != 8), {"id": 8, "name": "tom"}])
    with pytest.raises(ClassSetError, match=r"\{rename: 8, was: cat\}"):
        check_change(BEFORE, renamed)
    less = ClassSet.from_dict([entry for entry in BEFORE.to_dict()["classes"] if entry["id"] != 4])
    with pytest.raises(ClassSetError, match=r"\{retire: 4, was: boat\}"):
        check_change(BEFORE, less)
    more = ClassSet.from_dict([*BEFORE.to_dict()["classes"], {"id": 30, "name": "tram"}])
    check_change(BEFORE, more)
    with pytest.raises(ClassSetError, match="correct the record's `was`"):
        check_change(BEFORE, with_records(*RECORDS[:3], {"retire": 4, "was": "ship"}))
    # Ids that are mere positions promise nothing.
    check_change(ClassSet.load("cat, dog"), ClassSet.load("bird, cat"))
    check_change(BEFORE, ClassSet.load("bird, cat"))


def test_weak_labels_of_before_are_read_and_nothing_is_made_up() -> None:
    said = {
        "tags": ["cat", {"class": "bus", "present": False}, {"class": "boat", "present": True}, "person"],
        "tags_complete": True,
        "points": [{"x": 1, "y": 1, "class": "car"}, {"x": 2, "y": 2, "class": "person"}, {"x": 3, "y": 3, "class": 4}],
        "boxes": [{"box": [0, 0, 4, 4], "class": "bus"}, {"box": [0, 0, 4, 4], "class": "boat"}],
    }
    clean, problems = weak.validate(said, NOW, (8, 8))
    assert problems == []
    tags = {tag["class"]: tag["present"] for tag in clean["tags"]}
    # An adult or a child is there, so neither is absent; there is no bus, and perhaps a car.
    assert tags == {"feline": True, "dog": False, "vehicle": False} and "tags_complete" not in clean
    assert [point["class"] for point in clean["points"]] == ["vehicle", "background"]
    assert [box["class"] for box in clean["boxes"]] == ["vehicle"]
    alone, _ = weak.validate({"tags": [{"class": "bus", "present": False}]}, NOW)
    assert alone == {}
    assert weak.validate(clean, NOW, (8, 8))[0] == clean


def test_maps_that_people_drew_keep_their_meaning(tmp_path: Path) -> None:
    drawn = np.array([[8, 15, 6, 7], [4, 12, 0, 255]], np.uint8)
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    for ids in (
        None,
        {"8": "cat", "15": "person", "6": "bus", "7": "car", "4": "boat", "12": "dog", "0": "background"},
    ):
        entry = {"kind": "partial", "uri": str(tmp_path / "drawn.png"), "ids": ids}
        clean, problems = weak.validate({"maps": [entry]}, NOW, (2, 4))
        assert problems == []
        partial = weak.to_arrays(clean, NOW, 2, 4).partial
        assert partial.tolist() == [[8, -1, 23, 23], [0, 12, 0, -1]]


def test_a_students_masks_are_read_and_those_that_became_one_are_of_one_class() -> None:
    named = [(entry.id, entry.name) for entry in BEFORE.classes]
    ids = _same_names(named, NOW)
    assert ids == {6: 23, 7: 23, 8: 8, 12: 12}
    probs = np.arange(6, dtype=np.uint8).reshape(6, 1, 1)
    bank = MaskBank(probs, np.ones(6, np.float32), np.ones(6, np.float32), np.zeros(6, np.uint8))
    read = ClassMasks(bank, np.array([id for id, _ in named], np.int32)).renamed(ids)
    assert sorted(read.class_ids.tolist()) == [8, 12, 23, 23]


@pytest.mark.parametrize("gold_is_old", [True, False])
def test_gold_and_labels_of_different_times_are_compared(gold_is_old: bool) -> None:
    gold, label = (BEFORE, NOW) if gold_is_old else (NOW, BEFORE)
    matching = match(gold, label, 255)
    names = matching.names
    if gold_is_old:
        read = matching.gold(np.array([0, 8, 6, 7, 4, 15, 12]))
        told = ["background", "cat", "vehicle", "vehicle", "background", None, "dog"]
        assert [None if i == IGNORED else names[i] for i in read] == told
        assert names[matching.label(np.array([23]))[0]] == "vehicle"
    else:
        read = matching.label(np.array([0, 8, 6, 7, 12]))
        assert [names[i] for i in read] == ["background", "feline", "vehicle", "vehicle", "dog"]
        assert matching.label(np.array([15]))[0] == len(names)  # a person is no answer to adult or child


SAID = {"tags": [{"class": "bus", "present": False}, {"class": "cat", "present": True}]}


def publish(
    out: Path,
    classes: ClassSet,
    run: str,
    sequence: int,
    asset: str,
    class_id: int,
    told: dict[str, str] | None = None,
) -> None:
    """One labeled image, half of it of one class."""
    class_map = np.zeros((8, 8), np.uint8)
    class_map[:4] = class_id
    areas = [{"class_id": i, "name": "", "area": 0.5, "kept": 0.5} for i in (0, class_id)]
    row = {
        **dict.fromkeys(SCHEMA.names), "asset": asset, "uri": f"/{asset}", "sequence": sequence, "removed": False,
        "height": 8, "width": 8, "class_map": png(class_map), "confidence": png(np.full((2, 2), 255, np.uint8)),
        "keep_threshold": 0.5, "mean_confidence": 0.9, "areas": areas, "weak": json.dumps(SAID),
        "class_set_digest": classes.digest, "run_id": run, "digest": asset,
    }  # fmt: skip
    LabelTable(str(out / "labels")).append(f"{run}.parquet", pa.Table.from_pylist([row], SCHEMA), told)
    folder = out / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    config = LabelConfig(corpus="photos", output=str(out)).model_dump(mode="json")
    digests = {"observe_id": "o", "models": {"clip": "c", "sam": "s"}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "digests": digests}))
    (folder / "classes.yaml").write_text(yaml.safe_dump(classes.to_dict()))


def test_a_student_learns_from_a_snapshot_of_two_times(tmp_path: Path) -> None:
    publish(tmp_path, BEFORE, "r1", 1, "old.jpg", 6)
    publish(tmp_path, NOW, "r2", 2, "new.jpg", 23)
    config = TrainConfig.model_validate(
        {"output": str(tmp_path / "s"), "labels": str(tmp_path), "data": {"validation_share": 0}}
    )
    prepared = prepare(config, None)
    channel = prepared.channels.names.index("vehicle")
    assert prepared.plan.images.areas[:, channel].tolist() == [0.5, 0.5]
    for item in (0, 1):
        target = prepared.sources[0].read(item, (8, 8))
        assert (target.channels[:4] == channel).all() and (target.channels[4:] == 0).all()
        assert target.tags[prepared.channels.names.index("feline")] == PRESENT
        assert target.tags[channel] == UNSAID

    unrecorded = ClassSet.from_dict([{"id": 1, "name": "tram"}])
    publish(tmp_path, unrecorded, "r3", 3, "newest.jpg", 1)
    with pytest.raises(UsageError, match="record as `migrations:`"):
        prepare(config, None)


def test_labels_and_classes_are_compared_before_anything_starts(tmp_path: Path) -> None:
    labels = LabelTable(str(tmp_path / "labels"))
    check_classes(labels, str(tmp_path), NOW)  # nothing there yet
    publish(tmp_path, BEFORE, "r1", 1, "old.jpg", 6)
    check_classes(labels, str(tmp_path), NOW)
    with pytest.raises(ClassSetError, match="migrations"):
        check_classes(labels, str(tmp_path), ClassSet.from_dict([{"id": 8, "name": "tom"}]))


def test_what_a_commit_says_of_its_classes_is_read_from_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = LabelTable(str(tmp_path / "labels"))
    publish(tmp_path, BEFORE, "r1", 1, "old.jpg", 6)
    assert past.last_classes(labels, str(tmp_path)) == BEFORE  # the commit says nothing, the rows do
    publish(tmp_path, NOW, "r2", 2, "new.jpg", 23, {"run_id": "r2", "class_set": NOW.digest})
    monkeypatch.setattr(past, "open_files", None)
    assert past.last_classes(labels, str(tmp_path)) == NOW


def test_classes_are_compared_again_once_nobody_else_can_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_crops(tmp_path / "photos", 1)
    config = LabelConfig(corpus=str(tmp_path / "photos"), output=str(tmp_path), classes="voc")
    run = Run(config, NOW, "o", "d", {}, layout(2, 0, "auto", "auto", 0))

    @contextlib.contextmanager
    def waited_for_another(*_: object, **__: object) -> Iterator[Any]:
        publish(tmp_path, ClassSet.from_dict([{"id": 8, "name": "tom"}]), "r1", 1, "old.jpg", 8)
        yield None

    monkeypatch.setattr(job, "set_up", lambda config: (run, None))
    monkeypatch.setattr(job, "only_run", waited_for_another)
    with pytest.raises(UsageError, match=r"rename: 8, was: tom"):
        job.label_corpus(config)
