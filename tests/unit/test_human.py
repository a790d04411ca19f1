"""What people corrected: kept, painted last, bound to the bytes that they saw, and never overwritten."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from decide_scene import CLASSES, make_world, weak
from test_flow import run_at

from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.types import PROVENANCE
from models.evidence import encode
from pipelines.classes import ClassSet
from pipelines.flow import deciding
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.stages.decide import WORK, DecideStage, DecideStageConfig, overruled
from pipelines.tables.delta import DataFile
from pipelines.tables.human import Correction, HumanTable, paint
from pipelines.tables.labels import SCHEMA, human_digest
from pipelines.tables.pictures import read_png

DAY = datetime(2026, 11, 1, tzinfo=UTC)
SET = ClassSet.load("cat, dog, sofa, car")


def correction(ids: np.ndarray, digest: str = "bytes", who: str = "ann", days: int = 0) -> dict[str, Any]:
    names = {0: "background", 1: "cat", 2: "dog"}
    return Correction(digest, who, DAY + timedelta(days), ids, names, "test").to_row()


def test_every_corrected_pixel_stays_whatever_else_is_said() -> None:
    world = make_world()
    human = np.full(world.truth.shape, -1, np.int32)
    human[5:9, 5:100] = 2  # a dog where the picture shows ground
    human[40:50, 45:55] = 0  # and ground inside the cat
    partial = np.full(world.truth.shape, -1, np.int32)
    partial[5:9, 5:50] = 3
    said = weak(tags=[0, 2], boxes=[(100, 60, 150, 100, 1)], partial=partial, human=human)  # tags forbid dog
    label = decide(world.evidence, world.text, CLASSES, said, DecideConfig())
    spoken = human >= 0
    np.testing.assert_array_equal(label.class_map[spoken], human[spoken])
    assert PROVENANCE[label.provenance[11, 12]] == "human" and label.confidence[11, 12] == 255
    alone = decide(world.evidence, world.text, CLASSES, weak(human=human), DecideConfig()).class_map
    before = decide(world.evidence, world.text, CLASSES, weak(), DecideConfig()).class_map
    np.testing.assert_array_equal(alone, np.where(spoken, human, before), "what the person left stays as they saw it")
    assert overruled(said) == ["people's corrections overrule 180 pixels of the partial map"]


def test_later_corrections_are_painted_over_earlier_ones_and_classes_are_found_by_name(tmp_path: Path) -> None:
    table = HumanTable(str(tmp_path / "human"))
    first, second = np.full((4, 6), -1, np.int32), np.full((4, 6), -1, np.int32)
    first[:2], second[1] = 1, 0
    late, early = correction(second, who="bob", days=2), correction(first)
    assert table.add({"a": ("/a", [late])}, "r1") == 1
    assert table.add({"a": ("/a", [early, late])}, "r2") == 1, "the same correction counts once"
    assert table.add({"a": ("/a", [early])}, "r3") == 0
    held = table.read({"a"})["a"]
    assert [one["annotator"] for one in held] == ["ann", "bob"]
    assert table.known() == {"a": [(one["id"], "bytes") for one in held]}

    other_ids = ClassSet.load({"classes": [{"id": 9, "name": "cat"}, {"id": 1, "name": "tree"}]})
    ids, problems = paint(held, other_ids, (4, 6))
    assert problems == [] and ids.tolist() == [[9] * 6, [0] * 6, [-1] * 6, [-1] * 6]
    ids, problems = paint(held, ClassSet.load("tree"), (4, 6))
    assert (ids[0] == -1).all() and (ids[1] == 0).all()
    assert problems == ["the correction of ann names 'cat', which is no class any more"]
    _, problems = paint(held, SET, (5, 6))
    assert len(problems) == 2


def test_corrections_that_came_in_between_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, other = (HumanTable(str(tmp_path / "human")) for _ in range(2))
    mine, theirs = (correction(np.full((4, 6), value, np.int32), who=who) for value, who in ((1, "ann"), (2, "bob")))
    write, written = table.write_file, []

    def slow(name: str, *given: Any) -> DataFile:
        if not written:
            other.add({"a": ("/a", [theirs])}, "r1")
        written.append(name)
        return write(name, *given)

    monkeypatch.setattr(table, "write_file", slow)
    assert table.add({"a": ("/a", [mine])}, "r2") == 1
    assert {one["annotator"] for one in table.read({"a"})["a"]} == {"ann", "bob"}
    assert [(tmp_path / "human" / name).exists() for name in written] == [False, True], "no commit mentions the first"


def publish(run, key: str, **columns: str) -> None:
    row = {**dict.fromkeys(SCHEMA.names), "asset": "a", "sequence": run.labels.next_sequence(), "removed": False}
    row |= {"label_key": key, "evidence_key": "e", **columns}
    run.labels.append(f"part-{row['sequence']}.parquet", pa.Table.from_pylist([row], schema=SCHEMA))


def test_a_correction_makes_one_new_decision_and_is_stale_for_other_bytes(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    asset = Wanted("a", "/a", 3, "1", "", "", "", (), "", "")
    known = Known(evidence={"a": ("shard", "e", "bytes")})
    publish(run, run.label_key("e", ""))
    assert deciding.plan(run, [asset], known).reused == 1

    run.human.add({"a": ("/a", [correction(np.ones((2, 2), np.int32))])}, "r1")
    plan = deciding.plan(run, [asset], known)
    [work] = plan.work
    assert (work["cause"], plan.corrected, plan.stale) == ("human", 1, [])
    publish(run, work["label_key"])
    assert deciding.plan(run, [asset], known).reused == 1

    run.human.add({"a": ("/a", [correction(np.zeros((2, 2), np.int32), days=1)])}, "r2")
    assert deciding.plan(run, [asset], known).work[0]["cause"] == "human"

    other_bytes = Known(evidence={"a": ("shard", "e2", "others")})
    plan = deciding.plan(run, [asset], other_bytes)
    assert (plan.work[0]["cause"], plan.work[0]["human"], plan.stale) == ("new evidence", "", ["a"])
    assert len(run.human.read({"a"})["a"]) == 2, "a stale correction is kept"


def test_a_label_says_which_corrections_it_came_from_whatever_the_order_they_came_in(tmp_path: Path) -> None:
    run, asset = run_at(tmp_path), Wanted("a", "/a", 3, "1", "", "", "", (), "", "")
    known = Known(evidence={"a": ("shard", "e", "bytes")})
    digests = {
        "class_set_digest": run.classes.digest,
        "decide_digest": run.decide_digest,
        "head_digest": "",
        "weak_digest": "",
    }
    late, early = (correction(np.full((2, 2), number, np.int32), days=number) for number in (1, 0))
    run.human.add({"a": ("/a", [late])}, "r1")
    [work] = deciding.plan(run, [asset], known).work
    publish(run, work["label_key"], human_digest=human_digest(work["human"]), **digests)
    # Drawn before the other, imported after it: by its key alone nobody could tell what this label is made of.
    run.human.add({"a": ("/a", [early])}, "r2")
    assert deciding.plan(run, [asset], known).work[0]["cause"] == "human"
    run.decide_digest = "other"
    assert deciding.plan(run, [asset], known).work[0]["cause"] == "new decision"


def test_the_decide_stage_paints_what_the_plan_names_and_tells_what_it_cannot_use(tmp_path: Path) -> None:
    world = make_world()
    run = run_at(tmp_path)
    row = {**encode(world.evidence), "asset": "a", "digest": "bytes", "evidence_key": "e", "outcome": "ok"}
    run.store.write_shard([row], run.run_id)
    shard = run.store.index()["shard"][0].as_py()
    human = np.full(world.truth.shape, -1, np.int32)
    human[:7, :50], human[60:70, 100:120] = 1, 0
    late = correction(np.full((3, 3), 2, np.int32), days=1)
    run.human.add({"a": ("/a", [correction(human), late, correction(human, digest="others", days=2)])}, "r1")

    asset = Wanted("a", "/a", 3, "1", "", "", "", (), "", "")
    plan = deciding.plan(run, [asset], Known(evidence={"a": (shard, "e", "bytes")}))
    assert plan.stale == ["a"] and plan.corrected == 1
    stage = DecideStage(
        DecideStageConfig(
            store=run.store, labels_url=run.labels.url, human_url=run.human.url, prefix="staged-x", classes=SET,
            text=world.text, config=DecideConfig(), decide_digest="d", head_digest="", run_id="r2",
            sequence=run.labels.next_sequence(), created_at=DAY, strict=True, class_ids={},
        )
    )  # fmt: skip
    [told] = stage(pa.Table.from_pylist(plan.work, schema=WORK)).to_pylist()
    assert (told["rows"], told["failures"]) == (1, "[]")
    run.labels.commit([DataFile(told["file"], told["size_bytes"], told["rows"])])
    [label] = [row for batch in run.labels.newest(SCHEMA.names) for row in batch.to_pylist()]
    np.testing.assert_array_equal(read_png(label["class_map"])[human >= 0], human[human >= 0])
    assert label["human_digest"] == human_digest(plan.work[0]["human"]) != ""
    assert label["weak_problems"] == ["the correction of ann covers (3, 3) pixels, the image (120, 160)"]
    assert deciding.plan(run, [asset], Known(evidence={"a": (shard, "e", "bytes")})).reused == 1
