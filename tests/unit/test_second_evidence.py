"""Evidence of the second kind: when it is asked for again, what an image needs of it, and that it comes back whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data as photographs
from small_models import write_clip, write_sam

from models import class_masks, evidence
from models.class_masks import ClassMasks
from models.evidence import Hints, MaskBank
from models.observe import Observer
from models.students.build import build_student
from models.students.card import StudentCard, save_student
from models.students.config import StudentConfig
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError
from pipelines.execution import layout
from pipelines.flow import second
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.run import Run
from pipelines.stages.heat import HeatStage, HeatStageConfig
from pipelines.stages.observers import Models
from pipelines.stages.student import NetworkStageConfig, StudentStage
from pipelines.text import text_bank


def run_at(output: Path, classes: str = "cat, dog", observe_id: str = "o" * 64, **options: object) -> Run:
    config = LabelConfig(corpus="/photos", output=str(output), **{"heat": {"kind": "box"}, **options})  # type: ignore[arg-type]
    return Run(config, ClassSet.load(classes), observe_id, "d" * 64, {}, layout(2, 0, "auto", "auto", 0))


def wanted(asset: str, weak: str = "", weak_digest: str = "") -> Wanted:
    return Wanted(asset, f"/photos/{asset}", 3, "1", "", weak, weak_digest, (), "", "")


def test_classes_prompts_and_first_evidence_are_in_its_id_and_thresholds_are_not(tmp_path: Path) -> None:
    def kind_id(**options: object) -> str:
        [kind] = second.kinds(run_at(tmp_path, **options))
        return kind.run.observe_id

    same = kind_id()
    assert kind_id(decide={"mask_weight": 0.1, "background_threshold": 0.3}) == same
    others = [kind_id(classes="cat, dog, cup"), kind_id(heat={"kind": "heatmap"}), kind_id(observe_id="p" * 64)]
    assert len({same, *others}) == 4
    assert second.kinds(run_at(tmp_path, heat={"kind": "none"})) == []


def test_an_image_is_decided_once_all_kinds_are_there(tmp_path: Path) -> None:
    [kind] = second.kinds(run_at(tmp_path))
    first = Known(evidence={"a": ("s", "ka", "da"), "b": ("s", "kb", "db"), "c": ("s", "kc", "dc")})
    rows = [wanted("a"), wanted("b"), wanted("c"), wanted("unread")]
    kind.look_up(rows, first)
    assert [row.asset for row in kind.known.todo] == ["a", "b", "c"]
    index = [{**vars_of(row), "digest": "d", "evidence_key": f"2{row.asset}"} for row in kind.known.todo]
    found = {**index[0], "outcome": "ok", "masks": b""}
    kind.run.store.write_shard([found, {**index[1], "outcome": "quarantined", "error": "vanished"}], kind.run.run_id)
    kind.look_up(rows, first)
    second.join(first, [kind])
    assert set(first.evidence) == {"a"} and set(first.bad) == {"b"}
    [(store, _, key)] = first.second["a"]
    assert (store, key) == (kind.run.observe_id, "2a")
    # Other weak labels ask anew.
    kind.look_up([wanted("a", '{"tags":[{"class":"cat","present":true}]}', "w")], first)
    assert [row.asset for row in kind.known.todo] == ["a"]


def vars_of(row: Wanted) -> dict[str, object]:
    return {name: getattr(row, name) for name in ("asset", "uri", "size_bytes", "mtag", "hints_digest")}


def test_stored_masks_keep_their_classes() -> None:
    probs = np.zeros((2, 5, 7), np.uint8)
    probs[0, :3] = 255
    half = np.full(2, 0.5, np.float32)
    masks = ClassMasks(MaskBank(probs, half, half, np.full(2, 4, np.uint8)), np.array([7, 300], np.int32))
    back = class_masks.decode(class_masks.encode(masks))
    np.testing.assert_array_equal(back.class_ids, [7, 300])
    np.testing.assert_array_equal(back.bank.probs, probs)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    clip, sam = str(write_clip(folder / "clip")), str(write_sam(folder / "sam"))
    from pipelines.references import resolve

    return Models(clip, sam, {path: resolve(path).digest for path in (clip, sam)})


def test_the_stage_asks_about_the_tagged_classes_on_stored_evidence(tmp_path: Path, models: Models) -> None:
    run = run_at(tmp_path)
    cat = photographs.chelsea()
    observer = Observer(run.config.observe, models.path(models.clip), models.path(models.sam), "cpu")
    [seen] = observer.finish(observer.forward([observer.prepare(cat, cat.shape[:2], Hints.none())]))
    run.store.write_shard([{"asset": "a", "evidence_key": "k", "outcome": "ok", **evidence.encode(seen)}])
    shard = run.store.index()["shard"][0].as_py()
    config = run.config
    text = text_bank(models.path(models.clip), run.classes)
    stage = HeatStage(HeatStageConfig(run.store, run.classes, text, config.observe, config.heat), models, "cpu")
    for name, other, class_id in (("cat", "dog", 1), ("dog", "cat", 2)):
        tags = f'{{"tags":[{{"class":"{name}","present":true}},{{"class":"{other}","present":false}}]}}'
        record = {"picture": cat, "hints": HeatStage.hints(shard, "k", tags)}
        stage.finish(stage.forward([stage.prepare(record)]), [record])
        assert record["mask_class"] and set(record["mask_class"]) == {class_id}
        assert record["mask_shape"][0] == len(record["mask_class"]) and "picture" not in record


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "student"
    torch.manual_seed(0)
    classes = ({"id": 0, "name": "background"}, {"id": 5, "name": "Dog"}, {"id": 9, "name": "lamp"})
    config = StudentConfig("ffnet-xs")
    save_student(folder, build_student(config, 3), StudentCard(config, classes, True, 96))
    return folder


def test_a_student_speaks_of_the_classes_it_shares_by_name(tmp_path: Path, student: Path) -> None:
    run = run_at(tmp_path, heat={"kind": "none"}, labelers=["clip", "sam", f"student:{student}"])
    [kind] = second.kinds(run)
    assert kind.class_ids() == {5: 2}  # "dog" is the second of the run's classes
    # Its evidence is its own: other classes ask for nothing, another student does.
    other_classes = run_at(tmp_path, "dog, cup", heat={"kind": "none"}, labelers=["clip", "sam", f"student:{student}"])
    assert second.kinds(other_classes)[0].run.observe_id == kind.run.observe_id
    with pytest.raises(UsageError, match="knows none of the classes"):
        second.kinds(run_at(tmp_path, "cup", heat={"kind": "none"}, labelers=["clip", "sam", f"student:{student}"]))
    with pytest.raises(UsageError, match="labelers"):
        second.kinds(run_at(tmp_path, heat={"kind": "none"}, labelers=["clip", "sam", f"student:{tmp_path}"]))

    stage = StudentStage(NetworkStageConfig(str(student), kind.found.digest, ""), "cpu")
    record = {"picture": photographs.chelsea()}
    stage.finish(stage.forward([stage.prepare(record)]), [record])
    masks = class_masks.decode(record)
    assert masks.class_ids.tolist() == [5, 9] and max(masks.bank.probs.shape[1:]) <= 96
    shared = masks.renamed(kind.class_ids())
    assert shared.class_ids.tolist() == [2] and len(shared.bank.probs) == 1
    np.testing.assert_array_equal(shared.bank.probs[0], masks.bank.probs[0])


def test_deciding_alone_takes_what_a_student_saw_on_another_device(tmp_path: Path, student: Path) -> None:
    options = {"heat": {"kind": "none"}, "labelers": ["clip", "sam", f"student:{student}"]}
    here = run_at(tmp_path, **options)
    [elsewhere] = second.kinds(replace(here, layout=replace(here.layout, device="cuda")))
    elsewhere.run.store.write_shard([{"asset": "a", "evidence_key": "k", "outcome": "ok", "masks": b""}])
    assert second.kinds(here)[0].run.observe_id != elsewhere.run.observe_id
    [alone] = second.kinds(run_at(tmp_path, from_evidence=True, **options))
    assert alone.run.observe_id == elsewhere.run.observe_id


@pytest.mark.parametrize("labelers", ["clip", "clip,sam,dino", "student:x"])
def test_labelers_that_cannot_be_are_named(tmp_path: Path, labelers: str) -> None:
    with pytest.raises(ValueError, match=r"name both|no labeler"):
        run_at(tmp_path, labelers=labelers.split(","))
