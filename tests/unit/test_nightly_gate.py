"""The gate's rules, and the causes that a change can have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import publish, rectangle, write_gold

from pipelines.classes import ClassSet
from pipelines.nightly.causes import cause
from pipelines.nightly.config import GoldConfig, NightlyConfig, SnapshotGate
from pipelines.nightly.gate import Numbers, Quality, on_gold, reasons
from pipelines.nightly.sides import Side, Sides

GOOD = Numbers(
    coverage=0.8,
    quarantine_rate=0.01,
    churn=0.2,
    coverage_before=0.82,
    old=Quality(10, 0.5, {"cat": 0.6, "dog": 0.4, "bus": None}),
    new=Quality(10, 0.495, {"cat": 0.58, "dog": 0.41, "bus": None}),
)


def test_labels_that_are_no_worse_pass() -> None:
    assert reasons(SnapshotGate(), GOOD) == []
    # On the first night there is nothing to compare with.
    assert reasons(SnapshotGate(), Numbers(coverage=0.1, quarantine_rate=0.0)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"new": Quality(10, 0.48, {"cat": 0.6, "dog": 0.4})}, "miou"),
        ({"new": Quality(10, 0.55, {"cat": 0.8, "dog": 0.3})}, "class dog"),
        ({"churn_without_cause": 0.01}, "churn without a cause"),
        ({"coverage": 0.7}, "coverage"),
        ({"quarantine_rate": 0.2}, "quarantine rate"),
        ({"withdrawn": ("a.jpg",)}, "1 of these labels was taken back by a rollback (a.jpg); 0 may be"),
    ],
)
def test_each_rule_refuses_and_names_what_is_wrong(change: dict[str, Any], words: str) -> None:
    [reason] = reasons(SnapshotGate(), replace(GOOD, **change))
    assert words in reason


def test_limits_are_data() -> None:
    gate = SnapshotGate(maximum_churn=0.1, minimum_coverage=0.9)
    assert len(reasons(gate, GOOD)) == 2
    free = {name: None for name in SnapshotGate.model_fields if name.startswith(("maximum", "no_class"))}
    worse = replace(GOOD, quarantine_rate=0.9, coverage=0.1, withdrawn=("a.jpg",) * 7, churn_without_cause=1.0)
    assert reasons(SnapshotGate(minimum_gain=-1.0, **free), worse) == []


def test_classes_that_were_renamed_or_merged_are_judged_as_what_they_became(tmp_path: Path) -> None:
    output, gold = str(tmp_path / "out"), tmp_path / "gold"
    ids = {8: "cat", 6: "bus", 7: "car"}
    publish(
        tmp_path / "out",
        {"a.jpg": rectangle(8, 6), "b.jpg": rectangle(7, 8), "no gold.jpg": rectangle(6, 6)},
        "1",
        ClassSet.from_dict([{"id": id, "name": name} for id, name in ids.items()]),
    )
    records = [{"rename": 8, "was": "cat"}, {"merge": [6, 7], "was": ["bus", "car"], "into": 23}]
    classes = [{"id": 8, "name": "feline"}, {"id": 23, "name": "vehicle"}]
    new = ClassSet.from_dict({"classes": classes, "migrations": records})
    publish(tmp_path / "out", {"a.jpg": rectangle(8, 23), "b.jpg": rectangle(8, 8)}, "2", new)
    write_gold(gold, {"a": rectangle(8, 23), "b": rectangle(23, 8)})
    sides = Sides(Side(output, 1), Side(output, 2))
    judged = on_gold(GoldConfig(uri=str(gold)), sides)
    assert judged is not None
    assert (judged[0].images, judged[1].images) == (2, 2)
    assert judged[0].class_iou == {"background": None, "feline": 1.0, "vehicle": 1.0}
    assert judged[1].class_iou == {"background": None, "feline": pytest.approx(2 / 3, abs=1e-4), "vehicle": 0.5}
    # Sets that share no records are judged by their own, over what both know.
    other = ClassSet.load("bird, feline")
    publish(tmp_path / "out", {"a.jpg": rectangle(2, 1), "b.jpg": rectangle(2, 2)}, "3", other)
    meaning = GoldConfig(uri=str(gold), classes='[{"id": 8, "name": "feline"}]')
    judged = on_gold(meaning, Sides(sides.new, Side(output, 3)))
    assert judged is not None and list(judged[0].class_iou) == list(judged[1].class_iou) == ["background", "feline"]


ROW = dict.fromkeys(
    ("cause", "digest", "evidence_key", "label_key", "class_set_digest", "decide_digest", "weak_digest"), "1"
) | {"human_digest": "", "head_digest": "", "quality_digest": ""}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("no cause", [])),
        ({"digest": "2", "evidence_key": "2", "label_key": "2"}, ("new evidence", ["image bytes"])),
        ({"evidence_key": "2", "label_key": "2"}, ("new evidence", ["what observed it"])),
        ({"class_set_digest": "2", "label_key": "2"}, ("new decision", ["class set"])),
        ({"decide_digest": "2", "label_key": "2"}, ("new decision", ["decide-config"])),
        ({"label_key": "2"}, ("new decision", ["labelers or checks"])),
        ({"head_digest": "2", "label_key": "2"}, ("new decision", ["what the corpus taught"])),
        ({"human_digest": "2", "label_key": "2"}, ("human", ["corrections"])),
        (
            {"human_digest": "2", "decide_digest": "2", "label_key": "2", "cause": "new decision"},
            ("new decision", ["decide-config", "corrections"]),
        ),
    ],
)
def test_the_cause_is_what_the_label_was_decided_from(change: dict[str, str], expected: tuple[str, list[str]]) -> None:
    assert cause(ROW, {**ROW, **change}) == expected


def test_labels_of_before_that_do_not_say_what_a_person_corrected_go_by_their_cause() -> None:
    corrected = {**ROW, "label_key": "2", "cause": "human", "human_digest": "2"}
    assert cause({**ROW, "human_digest": None}, corrected) == ("human", ["corrections"])
    of_before = {**ROW, "human_digest": None, "decide_digest": "0"}
    assert cause(of_before, corrected) == ("new decision", ["decide-config"])
    assert cause(corrected, {**corrected, "decide_digest": "3", "label_key": "3"})[0] == "new decision"


def test_a_reason_for_publishing_anyway_has_words() -> None:
    with pytest.raises(ValueError, match="say why"):
        NightlyConfig(corpus="x", output="y", publish_anyway=" ")
