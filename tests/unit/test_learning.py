"""What a corpus teaches about its classes: when it is learned, from what, and that labels are decided with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import local_ray
import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak
from pictures import write_crops
from small_models import write_clip, write_sam

from models import evidence as evidence_record
from models.corpus.head import Head, HeadConfig
from models.corpus.targets import patches_of
from models.decide.config import DecideConfig
from models.decide.decide import decide
from pipelines import weak as weak_labels
from pipelines.config import LabelConfig, UsageError
from pipelines.evaluation.runs import PastRun
from pipelines.flow.job import label_corpus
from pipelines.flow.publish import Proposal, Published, Publisher
from pipelines.forgetting.reach import remarks
from pipelines.learned import HEAD, cards, load, taught
from pipelines.nightly.candidates import Candidate
from pipelines.tables.labels import LabelTable
from pipelines.tables.pictures import read_png

TAGGED = 10


class Place:
    """A corpus whose images are all tagged, by turns, and its outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus = folder, folder / "corpus"

    def grow(self, count: int) -> None:
        write_crops(self.corpus, count)
        names = sorted(path.name for path in self.corpus.glob("*.jpg"))
        tags = [["cat"], ["dog", "person"]]
        lines = [json.dumps({"path": name, "tags": tags[number % 2]}) for number, name in enumerate(names)]
        (self.folder / "weak.jsonl").write_text("\n".join(lines) + "\n")

    def label(
        self,
        output: str = "out",
        classes: str = "cat, dog, person",
        more: dict[str, Any] | None = None,
        publisher: Publisher | None = None,
        **learn: Any,
    ) -> dict[str, Any]:
        """more: of the other settings. learn: of what is learned."""
        config = {
            "corpus": str(self.corpus),
            "weak_file": str(self.folder / "weak.jsonl"),
            "output": str(self.folder / output),
            "classes": classes,
            "tracking": {"enabled": False},
            "observe": {"clip": {"model": str(self.folder / "clip")}, "sam": {"model": str(self.folder / "sam")}},
            "learn": {"min_tagged": TAGGED, "min_images": 2, **learn},
            **(more or {}),
        }
        outcome = label_corpus(LabelConfig.model_validate(config), publisher)
        assert outcome.exit_code == (publisher is not None) * 4 and outcome.summary is not None
        return outcome.summary

    def labels(self) -> LabelTable:
        return LabelTable(str(self.folder / "out" / "labels"))

    def heads(self, output: str = "out") -> int:
        return len(cards(str(self.folder / output)))


class Refusing(Publisher):
    """A gate that lets nothing through, as a night's does."""

    def __call__(self, proposal: Proposal) -> Published:
        run = proposal.run
        files = tuple(file.name for file in proposal.decided.files)
        Candidate(run.run_id, f"{run.created_at}", None, files, ("bad",), proposal.metadata).keep(run.output)
        return Published(run.labels.version(), exit_code=4, candidate=files)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    local_ray.use(monkeypatch)
    write_clip(tmp_path / "clip")
    write_sam(tmp_path / "sam")
    return Place(tmp_path)


def test_it_is_learned_once_and_again_when_the_corpus_has_grown(place: Place) -> None:
    place.grow(TAGGED)
    place.label()
    card = cards(str(place.folder / "out"))[0]
    assert card.images == TAGGED and card.tagged == [5, 5, 5]
    head = load(str(place.folder / "out"), HEAD, card.digest)
    assert isinstance(head, Head) and head.valid.all()
    again = place.label()
    assert (again["labeled"], again["reused"]) == (0, TAGGED)

    place.grow(TAGGED + 2)
    few = place.label()
    assert (few["labeled"], few["reused"]) == (2, TAGGED) and place.heads() == 1
    place.grow(2 * TAGGED)
    many = place.label()
    assert (many["observed"], many["labeled"]) == (TAGGED - 2, 2 * TAGGED) and place.heads() == 2


def test_part_of_the_corpus_and_other_thresholds_keep_what_was_learned(place: Place) -> None:
    place.grow(TAGGED)
    place.label()
    few = place.label(more={"limit": 3})
    assert (few["labeled"], few["reused"]) == (0, 3)
    moved = place.label(more={"decide": {"mask_top": 1}})
    assert moved["labeled"] == TAGGED and place.heads() == 1
    rows = [row for batch in place.labels().newest(["asset", "head_digest"]) for row in batch.to_pylist()]
    assert {row["head_digest"] for row in rows} == {cards(str(place.folder / "out"))[0].digest}


def test_labels_without_tags_are_asked_for_without_what_tags_taught(place: Place) -> None:
    place.grow(TAGGED)
    place.label(more={"weak": ["points"]})
    assert place.heads() == 0


def test_classes_that_are_too_rare_are_labeled_by_their_text(place: Place) -> None:
    place.grow(TAGGED)
    summary = place.label(min_images=TAGGED)
    assert summary["labeled"] == TAGGED and place.heads() == 0


def test_a_head_that_a_gate_refused_waits_until_the_corpus_has_grown_again(place: Place) -> None:
    place.grow(TAGGED)
    place.label()
    first = cards(str(place.folder / "out"))[0].digest
    place.grow(2 * TAGGED)
    place.label(publisher=Refusing())
    assert place.heads() == 2
    after = place.label()
    assert (after["labeled"], after["reused"]) == (TAGGED, TAGGED)
    columns = ["asset", "head_digest"]
    used = {row["head_digest"] for batch in place.labels().newest(columns) for row in batch.to_pylist()}
    assert used == {first} and place.heads() == 2
    anyway = place.label(more={"publish_anyway": "it is better"})
    assert anyway["labeled"] == 2 * TAGGED


def test_who_reads_a_past_run_decides_as_it_did(place: Place) -> None:
    place.grow(TAGGED)
    summary = place.label()
    past = PastRun.load(str(place.folder / "out"), summary["run_id"])
    assert past.text.head is not None
    columns = ["asset", "weak", "evidence_key", "class_map"]
    rows = [
        row for batch in LabelTable(str(place.folder / "out" / "labels")).newest(columns) for row in batch.to_pylist()
    ]
    stored = {row["evidence_key"]: row for row in past.evidence([row["evidence_key"] for row in rows])}
    assert len(rows) == TAGGED
    for row in rows:
        evidence = evidence_record.decode(stored[row["evidence_key"]])
        size = evidence.height, evidence.width
        valid, _ = weak_labels.validate(json.loads(row["weak"]), past.classes, size)
        arrays = weak_labels.to_arrays(valid, past.classes, *size)
        label = decide(evidence, past.text, past.classes.arrays(), arrays, past.config.decide)
        assert np.array_equal(label.class_map, read_png(row["class_map"]))


def test_too_few_tags_teach_nothing(place: Place) -> None:
    place.grow(TAGGED - 1)
    summary = place.label()
    assert place.heads() == 0
    assert PastRun.load(str(place.folder / "out"), summary["run_id"]).text.head is None


def test_another_output_uses_what_was_learned_if_it_fits(place: Place) -> None:
    place.grow(TAGGED)
    place.label()
    taught = cards(str(place.folder / "out"))[0].digest
    summary = place.label("other", use=str(place.folder / "out"), min_tagged=10**6)
    past = PastRun.load(str(place.folder / "other"), summary["run_id"])
    assert past.head_digest == taught and past.text.head is not None and place.heads("other") == 1
    shutil.rmtree(place.folder / "out")
    assert PastRun.load(str(place.folder / "other"), summary["run_id"]).text.head is not None
    place.label()
    seen = set(place.folder.iterdir())
    with pytest.raises(UsageError, match=r"--learn.use: .* knows other classes: cat, dog, person"):
        place.label("third", "cat, dog", use=str(place.folder / "out"))
    with pytest.raises(UsageError, match=r"--learn.use: nothing was learned in"):
        place.label("fourth", use=str(place.folder / "corpus"))
    with pytest.raises(UsageError, match=r"--learn.use: images of .* with other observe.clip"):
        clip = {"model": str(place.folder / "clip"), "flip": True}
        observe = {"clip": clip, "sam": {"model": str(place.folder / "sam")}}
        place.label("fifth", use=str(place.folder / "out"), more={"observe": observe})
    assert {path.name for path in set(place.folder.iterdir()) - seen} == set()


def test_forgetting_says_that_it_may_know_the_image(place: Place) -> None:
    place.grow(TAGGED)
    place.label("none", enabled=False)
    assert not [line for line in remarks(str(place.folder / "none")) if "learned" in line]
    place.label()
    assert any(f"up to {TAGGED} images" in line for line in remarks(str(place.folder / "out")))


def test_a_changed_head_is_not_used(place: Place) -> None:
    place.grow(TAGGED)
    place.label()
    output = str(place.folder / "out")
    card = cards(output)[0]
    address = next((place.folder / "out" / "learned").glob("*.safetensors"))
    address.write_bytes(address.read_bytes()[:-1] + b"\0")
    with pytest.raises(UsageError, match="gone or was changed"):
        taught(make_world().text, output, card.digest)
    place.grow(TAGGED + 1)
    with pytest.raises(UsageError, match=r"--learn.enabled false"):
        place.label()


def test_only_classes_that_are_known_to_be_there_are_learned_from() -> None:
    world = make_world()
    config, head = DecideConfig(), HeadConfig(patches=50)
    assert patches_of(world.evidence, world.text, CLASSES, weak(), config, head, 0) is None
    told = patches_of(world.evidence, world.text, CLASSES, weak(tags=[1]), config, head, 0)
    assert told is not None and len(told.features) == 50
    assert told.allowed[0].tolist() == [True, *(row == 1 for row in range(len(CLASSES.ids)))]
    assert (told.targets[~told.allowed] == 0).all()
    assert np.allclose(told.targets.sum(1), 1, atol=2e-3)
    again = patches_of(world.evidence, world.text, CLASSES, weak(tags=[1]), config, head, 0)
    assert again is not None and np.array_equal(again.features, told.features)
