"""Nights on one output: what each does and no more, what it says of the changes, what it refuses, and the way back."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import local_ray
import pyarrow.parquet as pq
import pytest
from pictures import write_crops
from small_models import write_clip, write_sam

from pipelines import snapshots as snapshots_script
from pipelines.config import LabelConfig
from pipelines.flow.job import Outcome, label_corpus
from pipelines.flow.stop import RunFailed
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.job import relabel_nightly
from pipelines.tables.labels import LabelTable
from pipelines.tables.snapshots import snapshots

IMAGES = 6


class Nights:
    """One corpus and its output; `night` runs once more with other settings."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.corpus, self.output = folder / "corpus", folder / "out"
        self.settings: dict[str, Any] = {
            "corpus": str(self.corpus),
            "output": str(self.output),
            "classes": "cat, dog, person",
            "tracking": {"enabled": False},
            "observe": {"clip": {"model": str(models / "clip")}, "sam": {"model": str(models / "sam")}},
            "gate": {"recheck_images": 2, "maximum_coverage_fall": None},
        }

    def night(self, **changes: Any) -> Outcome:
        return relabel_nightly(NightlyConfig.model_validate({**self.settings, **changes}))

    def label(self, **changes: Any) -> Outcome:
        """The same without a gate."""
        own = {name: value for name, value in self.settings.items() if name != "gate"}
        return label_corpus(LabelConfig.model_validate({**own, **changes}))

    @property
    def labels(self) -> LabelTable:
        return LabelTable(str(self.output / "labels"))

    def rows(self, version: int | None = None) -> dict[str, dict[str, Any]]:
        columns = ["asset", "label_key", "class_map", "run_id"]
        return {row["asset"]: row for b in self.labels.newest(columns, version) for row in b.to_pylist()}

    def changes(self, outcome: Outcome) -> dict[str, dict[str, Any]]:
        assert outcome.summary is not None
        table = pq.read_table(self.output / "runs" / outcome.summary["run_id"] / "changes.parquet")
        return {row["asset"]: row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    write_sam(folder / "sam")
    return folder


@pytest.fixture(scope="module")
def first_night(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with one published night, to be copied."""
    folder = tmp_path_factory.mktemp("nights")
    write_crops(folder / "corpus", IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        local_ray.use(patch)
        done = Nights(models, folder).night()
    assert done.exit_code == 0 and done.summary is not None
    assert (done.summary["outcome"], done.summary["observed"], done.summary["snapshot"]) == ("published", IMAGES, 1)
    return folder


@pytest.fixture
def nights(models: Path, first_night: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nights]:
    """The same place for every test, so that addresses are the same; put back as it was afterwards."""
    local_ray.use(monkeypatch)
    kept = first_night.with_name(first_night.name + "-kept")
    if not kept.exists():
        shutil.copytree(first_night, kept)
    yield Nights(models, first_night)
    shutil.rmtree(first_night)
    shutil.copytree(kept, first_night)


def test_nights_do_what_changed_and_say_why(nights: Nights) -> None:
    names = sorted(path.name for path in nights.corpus.iterdir())
    write_crops(nights.corpus / "new", 2, seed=1)
    shutil.copy(nights.corpus / "new" / "crop-0001.jpg", nights.corpus / names[0])
    (nights.corpus / names[1]).unlink()
    (nights.output.parent / "weak.jsonl").write_text(json.dumps({"path": names[2], "tags": ["cat"]}) + "\n")
    more = {"weak_file": str(nights.output.parent / "weak.jsonl")}
    second = nights.night(**more)
    assert second.summary is not None
    # One of the new ones has the bytes that the changed one has now, so they share evidence.
    assert (second.summary["observed"], second.summary["labeled"], second.summary["reused"]) == (2, 4, IMAGES - 3)
    causes = {asset: (row["cause"], row["inputs"]) for asset, row in nights.changes(second).items()}
    assert causes == {
        names[0]: ("new evidence", ["image bytes"]),
        names[1]: ("vanished", None),
        names[2]: ("new decision", ["weak labels"]),
        "new/crop-0000.jpg": ("new image", None),
        "new/crop-0001.jpg": ("new image", None),
    }
    details = json.loads((nights.output / "runs" / second.summary["run_id"] / "summary.json").read_text())
    assert details["found"] == {"new decision": 1, "new evidence": 1, "new image": 2, "vanished": 1}
    report = Path(second.summary["report"])
    assert "Changes since snapshot 1" in report.read_text()
    assert "most changed first" in report.with_name("changes.html").read_text()

    third = nights.night(**more, decide={"mask_top": 1})
    assert third.summary is not None
    assert (third.summary["observed"], third.summary["labeled"]) == (0, IMAGES + 1)
    told = nights.changes(third).values()
    assert all((row["cause"], row["inputs"]) == ("new decision", ["decide-config"]) for row in told)
    before = len(snapshots(nights.labels))
    fourth = nights.night(**more, decide={"mask_top": 1})
    assert fourth.summary is not None and fourth.exit_code == 0
    assert (fourth.summary["outcome"], fourth.summary["reused"], fourth.summary["report"]) == (
        "unchanged", IMAGES + 1, None,
    )  # fmt: skip
    # A night without a change leaves no version, though the third superseded all rows.
    assert len(snapshots(nights.labels)) == before
    assert fourth.summary["snapshot"] == before
    fifth = nights.night(**more)
    assert fifth.summary is not None and fifth.summary["snapshot"] == before + 2
    assert [one.same_as for one in snapshots(nights.labels)][:-before] == [None, before]


def test_a_night_of_images_that_came_and_went_shows_which(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    gone = sorted(path.name for path in nights.corpus.iterdir())[0]
    (nights.corpus / gone).unlink()
    write_crops(nights.corpus / "new", 1, seed=1)
    done = nights.night()
    told = capsys.readouterr().err
    assert done.summary is not None and (done.summary["labeled"], done.summary["vanished"]) == (1, 1)
    assert "0 without a label; 1 vanished" in told
    report = Path(done.summary["report"])
    page = report.with_name("changes.html")
    assert f"changes  {page}" in told and '<a href="changes.html">' in report.read_text()
    text = page.read_text()
    assert "Images that came or went: new image 1, vanished 1" in text
    assert gone in text and "new/crop-0000.jpg" in text
    assert "No pixel of an image that both snapshots label is of another class." in text


def gold_of(nights: Nights) -> dict[str, Any]:
    """The published labels as gold: every other label is worse."""
    folder = nights.output.parent / "gold"
    folder.mkdir()
    for asset, row in nights.rows().items():
        (folder / asset).with_suffix(".png").write_bytes(row["class_map"])
    return {"gold": {"uri": str(folder)}}


BAD = {"decide": {"background_threshold": 0.9}}


def test_a_bad_config_is_refused_while_readers_read_and_can_be_published_and_taken_back(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    gold, good = gold_of(nights), nights.rows()
    seen: list[dict[str, str]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append({asset: row["label_key"] for asset, row in nights.rows().items()})

    reader = threading.Thread(target=read)
    reader.start()
    refused = nights.night(**gold, **BAD)
    over.set()
    reader.join()
    assert refused.summary is not None
    assert (refused.exit_code, refused.summary["outcome"], refused.summary["snapshot"]) == (4, "refused", 1)
    assert any("miou" in reason for reason in refused.summary["refused_because"])
    assert seen and all(keys == {asset: row["label_key"] for asset, row in good.items()} for keys in seen)
    name = refused.summary["candidate"]
    told = capsys.readouterr().err
    assert f"{IMAGES} images: {IMAGES} labeled in a candidate that was refused, 0 as they were" in told
    assert f"(snapshot 1, as before; candidate {name} was refused)" in told
    assert json.loads((nights.output / "candidates" / name / "candidate.json").read_text())["base"] == 1

    anyway = nights.night(**gold, **BAD, publish_anyway="we like it so")
    assert anyway.summary is not None
    assert (anyway.exit_code, anyway.summary["outcome"]) == (0, "published anyway")
    published = snapshots(nights.labels)[0]
    assert (published.version, published.reason) == (anyway.summary["snapshot"], "we like it so")
    # What the refused night decided was taken as it was.
    assert {row["run_id"] for row in nights.rows().values()} == {name}
    assert f"{IMAGES} labels were decided by an earlier run that did not publish them" in capsys.readouterr().err

    words = ["--output", str(nights.output), "--rollback", "1"]
    assert snapshots_script.main(words) == 2  # No reason is given.
    assert snapshots_script.main([*words, "--reason", "it was bad after all"]) == 0
    assert nights.rows() == good
    again = nights.night(**BAD, gate={"maximum_coverage_fall": None})
    assert again.summary is not None and again.exit_code == 4
    first = ", ".join(sorted(good)[:3])
    reason = again.summary["refused_because"][0]
    assert reason.startswith(f"{IMAGES} of these labels were taken back by a rollback ({first}, ...); 0 may be")
    assert "--gate.maximum_withdrawn" in reason and '--publish-anyway "reason"' in reason
    told = capsys.readouterr().err
    assert f"{IMAGES} labels were decided and published by an earlier run, and taken back by a rollback" in told
    assert "did not publish them" not in told
    assert nights.rows() == good
    words = ["--output", str(nights.output), "--publish", again.summary["candidate"], "--reason", "after all"]
    assert snapshots_script.main(words) == 0
    assert nights.rows() == {**good, **{a: {**r, "run_id": name} for a, r in nights.rows().items()}} != good
    assert snapshots_script.main(words) == 2  # It is no candidate any more.


def test_labeling_without_a_gate_publishes_nothing_again_that_was_taken_back(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    good = nights.rows()
    assert nights.label(**BAD).exit_code == 0 and nights.rows() != good
    assert snapshots_script.main(["--output", str(nights.output), "--rollback", "1", "--reason", "it was bad"]) == 0
    with pytest.raises(RunFailed, match=rf"{IMAGES} of these labels were taken .* Nothing is published; .* say --pub"):
        nights.label(**BAD)
    assert nights.rows() == good and nights.labels.version() == 3
    capsys.readouterr()
    anyway = nights.label(**BAD, publish_anyway="seen, and good")
    assert anyway.summary is not None and (anyway.exit_code, anyway.summary["snapshot"]) == (0, 4)
    assert "were taken back by a rollback" in capsys.readouterr().err
    assert snapshots(nights.labels)[0].reason == "seen, and good" and nights.rows() != good


def test_pixels_that_change_though_nothing_did_are_found_and_refused(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.decide import config as decide_config
    from pipelines.stages import decide as stage

    write_crops(nights.corpus / "new", 1, seed=1)
    real = stage.decide

    def other(evidence: Any, text: Any, classes: Any, weak: Any, config: Any, more: Any) -> Any:
        # A library that was upgraded, or code that changed without a new version.
        assert isinstance(config, decide_config.DecideConfig)
        label = real(evidence, text, classes, weak, config, more)
        label.class_map[:] = label.class_map[::-1]
        return label

    monkeypatch.setattr(stage, "decide", other)
    done = nights.night()
    assert done.summary is not None and done.exit_code == 4
    assert any("churn without a cause" in reason for reason in done.summary["refused_because"])
    assert not list((nights.output / "labels").glob("recheck-*"))
