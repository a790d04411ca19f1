"""Predicted quality in the jobs: what a fit is judged by, what labels say with it, and what stays as it was without."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import local_ray
import numpy as np
import pytest
from pictures import write_crops
from PIL import Image
from small_models import write_clip, write_sam

from models.quality.config import QualityConfig
from models.quality.features import ENTROPY_MEAN, FEATURES
from pipelines import fit_quality as script
from pipelines.config import LabelConfig, UsageError
from pipelines.evaluation.cases import open_source
from pipelines.evaluation.config import GoldConfig
from pipelines.evaluation.runs import PastRun
from pipelines.flow.job import label_corpus
from pipelines.forgetting.reach import remarks
from pipelines.quality.cards import Card, cards
from pipelines.quality.config import FitQualityConfig
from pipelines.quality.job import _source
from pipelines.quality.present import table
from pipelines.quality.records import Records, different, together
from pipelines.quality.report import groups_of, kept_mean, report, within
from pipelines.tables.labels import LabelTable

IMAGES = 9
CLASSES = [{"name": "animal"}, {"name": "cat", "parent": "animal"}, {"name": "person"}]
PREDICTED = ("predicted_miou", "predicted_low", "predicted_high", "accepted")
CONFIG = QualityConfig()


class Place:
    """A corpus with random gold, and its labels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        names = write_crops(folder / "corpus", IMAGES)
        tags = [["animal", "cat"], ["person"], []]
        lines = [{"path": name, "tags": tags[number % 3]} for number, name in enumerate(names)]
        (folder / "weak.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        random = np.random.default_rng(0)
        (folder / "gold").mkdir()
        for name in names:
            with Image.open(folder / "corpus" / name) as image:
                coarse = Image.fromarray(random.integers(0, 4, (3, 3)).astype(np.uint8))
                coarse.resize(image.size, Image.Resampling.NEAREST).save(folder / "gold" / name.replace("jpg", "png"))
        write_clip(folder / "clip")
        write_sam(folder / "sam")

    def label(self, output: str = "out", **more: Any) -> dict[str, Any]:
        """What summary.json says of the run."""
        config = {
            "corpus": str(self.folder / "corpus"),
            "weak_file": str(self.folder / "weak.jsonl"),
            "output": str(self.folder / output),
            "classes": CLASSES,
            "tracking": {"enabled": False},
            "observe": {"clip": {"model": str(self.folder / "clip")}, "sam": {"model": str(self.folder / "sam")}},
            **more,
        }
        outcome = label_corpus(LabelConfig.model_validate(config))
        assert outcome.exit_code == 0 and outcome.summary is not None
        summary = self.folder / output / "runs" / outcome.summary["run_id"] / "summary.json"
        return dict(json.loads(summary.read_text()))

    def rows(self, output: str = "out") -> dict[str, dict[str, Any]]:
        table = LabelTable(str(self.folder / output / "labels"))
        names = table.schema.names
        return {row["asset"]: row for batch in table.newest(names) for row in batch.to_pylist()}

    def fit(self, *flags: object) -> int:
        given = ("--labels", self.output, "--gold.uri", self.folder / "gold", "--tracking.enabled", "false")
        few = ("--resamples", 100, "--splits", 2, "--model.folds", 2, "--model.coverage", 0.6, "--risk", 0.3)
        try:
            return script.main([*map(str, (*given, *few, *flags))])
        except SystemExit as stopped:
            return int(str(stopped.code))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        local_ray.use(patch)
        patch.setattr(script, "keep_stdout_for_results", lambda: None)
        place = Place(tmp_path_factory.mktemp("quality"))
        place.label()
        yield place


def test_labels_say_how_good_they_are_once_a_model_is_asked_for(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    before = place.rows()
    assert {row[name] for row in before.values() for name in PREDICTED} == {None}
    assert {row["quality_digest"] for row in before.values()} == {""}
    rule = "some pixels are animal, others its kind cat: one of the two is meant"
    both = {name for name, row in before.items() if row["violations"] == [rule]}
    assert both >= {f"crop-{number:04d}.jpg" for number in range(0, IMAGES, 3)}, "those that are tagged both"
    silent = place.label(quality={"use": "auto"})
    assert silent["reused"] == IMAGES, "there is no model, and nothing changes"
    assert (silent["rule_breaking_images"], silent["broken_rules"]) == (len(both), {rule: len(both)})
    capfd.readouterr()

    assert place.fit() == 0
    out, err = capfd.readouterr()
    told = json.loads(out.strip().splitlines()[-1])
    assert (told["images"], told["labelers"][0]) == (IMAGES, "run")
    assert "mean entropy alone" in err and "verdict:" in err
    digest = cards(str(place.output))[0].digest
    assert place.fit() == 0 and [card.digest for card in cards(str(place.output))] == [digest], "the same again"
    assert any("quality models" in line and f"{IMAGES} images" in line for line in remarks(str(place.output)))

    assert place.label()["reused"] == IMAGES, "a model that nobody asks for changes nothing"
    summary = place.label(quality={"use": "auto"})
    assert (summary["labeled"], summary["quality_model"]) == (IMAGES, digest)
    after = place.rows()
    for asset, row in after.items():
        assert row["quality_digest"] == digest and row["cause"] == "new decision"
        assert 0 <= row["predicted_low"] <= row["predicted_miou"] <= row["predicted_high"] <= 1
        assert row["accepted"] == (told["threshold"] is not None and row["predicted_miou"] >= told["threshold"])
        for same in ("class_map", "confidence", "provenance", "keep_threshold", "areas", "decide_digest", "violations"):
            assert row[same] == before[asset][same], same
    accepted = sum(row["accepted"] for row in after.values())
    assert (summary.get("accepted_images"), summary.get("not_accepted_images")) == (accepted, IMAGES - accepted)
    assert place.label(quality={"use": "auto"})["reused"] == IMAGES

    assert place.label("other", quality={"use": str(place.output)})["quality_model"] == digest
    for asset, row in place.rows("other").items():
        assert [row[name] for name in PREDICTED] == [after[asset][name] for name in PREDICTED]
    assert [card.digest for card in cards(str(place.folder / "other"))] == [digest], "its copy stays with the labels"

    assert place.label()["labeled"] == IMAGES
    keys = {asset: row["label_key"] for asset, row in place.rows().items()}
    assert keys == {asset: row["label_key"] for asset, row in before.items()}


def test_a_model_that_does_not_fit_is_refused(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"--quality.use: .* has no quality model; fit_quality.py makes one"):
        place.label("third", quality={"use": str(place.folder / "corpus")})
    assert place.fit("--output", place.folder / "fitted") == 0
    with pytest.raises(UsageError, match="another class set"):
        place.label("third", quality={"use": str(place.folder / "fitted")}, classes="cat, dog")
    assert not (place.folder / "third").exists(), "it was refused before anything was done"
    model = next((place.folder / "fitted" / "learned" / "quality").glob("*.npz"))
    model.write_bytes(model.read_bytes()[:-1] + b"\1")
    with pytest.raises(UsageError, match="was changed after it was fitted"):
        place.label("third", quality={"use": str(place.folder / "fitted")})
    capfd.readouterr()
    assert place.fit("--labelers", "run,heet") == 2 and "'heet' is no labeler: run, heat" in capfd.readouterr().err
    assert place.fit("--model.folds", 5) == 2 and "--model.folds" in capfd.readouterr().err


def test_images_without_evidence_are_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = {"labels": str(place.output), "gold": {"uri": str(place.folder / "gold")}}
    source = open_source(str(place.output), None, GoldConfig(uri=str(place.folder / "gold")))
    left = dict(source.past.shards)
    del left[source.rows[0]["evidence_key"]]
    monkeypatch.setattr(PastRun, "shards", left)
    assert len(_source(FitQualityConfig.model_validate(told)).rows) == IMAGES - 1
    assert "1 images have no evidence of the newest run" in capfd.readouterr().err


def test_labelers_that_come_to_the_same_are_decided_once(place: Place) -> None:
    source = open_source(str(place.output), None, GoldConfig(uri=str(place.folder / "gold")))
    assert source.past.text.head is None
    assert different(("run", "no_head", "no_masks", "no_tags"), source) == ("run", "no_masks", "no_tags")


def made_up(labelers: int = 4, images: int = 60, seed: int = 0) -> Records:
    """Labels whose IoU one sign tells; their entropy tells nothing. Every image has a sign of its own too."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(labelers, images, len(FEATURES))).astype(np.float32)
    truth = np.clip(0.6 + 0.12 * features[..., 0] + rng.normal(0, 0.03, (labelers, images)), 0, 1)
    main = np.arange(images) % 3
    return Records(tuple("abcdefg"[:labelers]), features, truth, main, np.arange(images), ("x", "y", "z"), 0.001)


def numbers(records: Records) -> dict[str, Any]:
    return report(records, CONFIG, bad_below=0.5, risk=0.1, refuse=0.2, splits=4, resamples=100)


def test_the_report_finds_what_a_sign_tells_and_its_promises_hold() -> None:
    found = numbers(made_up())
    rank = found["rank_within_class"]
    assert rank["predicted"] > 0.8 and abs(rank["entropy"]) < 0.3 and rank["interval_95"][0] > 0.3
    assert [row["images"] for row in found["classes"]] == [20, 20, 20]
    assert found["kept"]["predicted"] > found["miou"] + 0.02 and found["kept"]["interval_95"][0] > 0
    assert 0.8 < found["coverage"]["held"] <= 1
    promise = found["promise"]
    assert promise["bad_and_accepted"] <= 0.12 and 0.1 < promise["bad"] < 0.4 and promise["accepted"] > 0.4
    assert promise["miou_of_accepted"] > found["miou"]


def test_the_labeler_that_is_judged_taught_nothing() -> None:
    records = made_up()
    odd = records.truth.copy()
    odd[0] = np.clip(1.2 - odd[0], 0, 1)  # Its good labels look like bad ones of all others.
    found = numbers(dataclasses.replace(records, truth=odd))
    assert found["rank_within_class_own"]["predicted"] < -0.7
    assert found["coverage"]["a"] < found["coverage"]["b"] - 0.2


def test_the_images_that_are_judged_taught_nothing() -> None:
    records = made_up(labelers=5, images=len(FEATURES) - 1)
    rng = np.random.default_rng(3)
    images = records.truth.shape[1]
    marks = np.zeros_like(records.features)
    marks[:, np.arange(images), np.arange(images)] = 1  # Each image could be learned by heart.
    truth = np.tile(rng.uniform(0.2, 1, images), (5, 1))
    found = numbers(dataclasses.replace(records, features=marks, truth=truth))
    assert found["rank"]["predicted"] < 0.3


def test_neither_did_images_that_look_the_same() -> None:
    videos, frames = len(FEATURES), 4
    records = made_up(labelers=4, images=videos * frames)
    of = np.arange(videos * frames) // frames
    marks = np.zeros_like(records.features)
    marks[:, np.arange(len(of)), of] = 1
    worth = np.random.default_rng(3).uniform(0.2, 1, videos)[of]  # All frames of a video are as good as each other.
    records = dataclasses.replace(records, features=marks, truth=np.tile(worth, (4, 1)))
    alone, grouped = (numbers(dataclasses.replace(records, groups=one)) for one in (np.arange(len(of)), of))
    assert alone["rank"]["predicted"] > 0.5 > 0.3 > grouped["rank"]["predicted"], "each gives the other away"
    assert alone["promise"]["accepted"] > 0.5 > 0.1 > grouped["promise"]["accepted"]


def test_frames_and_copies_stay_together() -> None:
    rows = [{"asset": f"walk_{number:03d}.jpg", "digest": f"{number}"} for number in range(80)]
    found = together(rows, 5)
    assert (np.diff(found) >= 0).all() and len(np.unique(found)) == 20
    copies = [{"asset": name, "digest": digest} for name, digest in (("a", "x"), ("b", "y"), ("c", "x"), ("d", None))]
    assert together(copies, 2).tolist() == [0, 1, 0, 2]


def test_the_report_says_what_it_did_not_see() -> None:
    def told(labelers: int) -> str:
        records = made_up(labelers=labelers)
        card = Card(
            "", "", "", "", 60, list(records.labelers), 0.5, 0.1, 0.5, 0.9, 0.1, "", 1, "", "",
            {**numbers(records), "milliseconds_per_label": 1.0},
        )  # fmt: skip
        return table(card)

    assert "of labelers and images that the model did not learn from" in told(2)
    assert "of images that the model did not learn from" in told(1)


def test_the_runs_own_labels_come_first() -> None:
    config = FitQualityConfig.model_validate({"labels": "x", "gold": {"uri": "y"}, "labelers": ["heat", "run", "heat"]})
    assert config.labelers == ("run", "heat")


def test_ranks_are_compared_within_classes_of_enough_images() -> None:
    main = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, -1, -1, -1, -1])
    groups = groups_of(main, range(14))
    assert [group.tolist() for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    truth = np.array([[0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.6, *[0.5] * 6]])
    scores = np.arange(14, dtype=float)[None]
    assert within(scores, truth, groups) == 0 and within(scores, truth, groups[:1]) == pytest.approx(1)
    assert np.isnan(within(scores, np.full((1, 14), 0.5), groups))
    assert kept_mean(np.array([[3.0, 1, 2, 0, 4]]), np.array([[0.8, 0.2, 0.6, 0.1, 1.0]]), 0.2) == pytest.approx(0.65)


def test_less_entropy_counts_as_better() -> None:
    records = made_up()
    features = records.features.copy()
    features[..., ENTROPY_MEAN] = -records.truth
    assert numbers(dataclasses.replace(records, features=features))["rank_within_class"]["entropy"] == 1
