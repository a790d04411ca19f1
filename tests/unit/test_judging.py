"""What is said of labels beside them: broken rules, where they come from, where they are told; and older tables."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from decide_scene import CLASSES, make_world, weak
from label_scene import label_row, make_scene
from report_scene import CLASSES as REPORT_CLASSES
from report_scene import item
from test_flow import run_at

from models.checks import CheckConfig, Rules
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.quality.features import FEATURES, QualityBasis
from models.quality.model import QualityModel
from models.quality.predictor import Predictor
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.flow import deciding
from pipelines.flow.judging import find, rules_of
from pipelines.flow.learning import features_of
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.present import build
from pipelines.nightly.causes import cause
from pipelines.quality.cards import Card, save
from pipelines.report.page import ReportBuilder
from pipelines.reviewing.config import RankConfig
from pipelines.reviewing.rank import value_of
from pipelines.stages.judge import Judge
from pipelines.tables.delta import NewestRowTable
from pipelines.tables.labels import SCHEMA

WORLD = make_world()
ADDED = ("predicted_miou", "predicted_low", "predicted_high", "accepted", "violations", "quality_digest")


def tagged(number: int, present: str, complete: bool = True) -> Wanted:
    names = present.split(", ") if present else []
    told: dict[str, Any] = {"tags": [{"class": name, "present": True} for name in names]}
    told |= {"tags_complete": True} if complete else {}
    text = json.dumps(told, separators=(",", ":"))
    return Wanted(f"{number}", f"/{number}", 3, "1", "", text, "", (), "", "")


def test_a_worker_says_which_rules_a_label_breaks_and_nothing_where_nobody_asks() -> None:
    given = weak(tags=[0, 1, 2])
    label = decide(WORLD.evidence, WORLD.text, CLASSES, given, DecideConfig())
    assert set(label.areas) >= {1, 2, 3}
    parents = dict.fromkeys(CLASSES.names) | {"cat": "dog"}  # Cats are dogs here.
    rules = Rules.of(CLASSES.names, CLASSES.ids.tolist(), parents)
    judged = Judge(rules=rules).columns(label, WORLD.evidence, given, CLASSES, WORLD.text)
    [message] = judged["violations"]
    assert "dog" in message and "cat" in message
    assert [judged[name] for name in ADDED if name != "violations"] == [None, None, None, None, ""]
    unruly = Judge(rules=rules, checks=CheckConfig(min_area=0.9))
    assert unruly.columns(label, WORLD.evidence, weak(), CLASSES, WORLD.text)["violations"] == []
    assert Judge().columns(label, WORLD.evidence, given, CLASSES, WORLD.text)["violations"] is None
    missing = replace(label, areas={0: 1.0})
    told = Judge(rules=rules).columns(missing, WORLD.evidence, given, CLASSES, WORLD.text)["violations"]
    assert "the tags say that there is a sofa, and the label has none" in told


def test_what_never_meets_is_learned_from_complete_tags_only(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    run.classes = ClassSet.load("cat, dog, sofa")
    alone = [tagged(number, ("cat, sofa", "dog", "cat", "")[number % 4]) for number in range(60)]
    rules = rules_of(run, alone, CheckConfig())
    assert rules.lift is not None
    assert rules.lift[0, 1] == 0 and rules.lift[0, 2] > 1
    half = [tagged(number, ("cat", "dog")[number % 2], complete=False) for number in range(60)]
    assert rules_of(run, half, CheckConfig()).lift is None, "who tags cats only says nothing of dogs"
    assert rules_of(run, [Wanted("a", "/a", 3, "1", "", "", "", (), "", "")], CheckConfig()).lift is None
    told = rules_of(run, [*alone, *half], CheckConfig()).lift
    np.testing.assert_array_equal(told, rules.lift)
    point = Wanted("p", "/p", 3, "1", "", '{"points":[{"class":"tags","x":1,"y":1}]}', "", (), "", "")
    assert rules_of(run, [point], CheckConfig()).lift is None, "a class that is called tags is no tag"


@pytest.mark.parametrize("use", ["auto", "elsewhere"])
def test_a_quality_model_that_is_gone_or_changed_stops_the_run_before_it_starts(tmp_path: Path, use: str) -> None:
    folder = tmp_path / ("out" if use == "auto" else "fitted")
    run = run_at(tmp_path / "out", quality={"use": use if use == "auto" else str(folder)})
    run.model_digests["clip"] = "c" * 64
    features = np.random.default_rng(0).normal(size=(12, len(FEATURES)))
    model = QualityModel.fit(features, np.linspace(0, 1, 12), np.arange(12))
    predictor = Predictor(model, QualityBasis.fit(np.eye(3, 8, dtype=np.float32), np.ones((3, 1), np.float32)), 0.5)
    card = Card(
        "", "2026", run.classes.digest, features_of(run), 12, ["run"], 0.5, 0.1, 0.5, 0.9, 0.1, "labels", 1, "gold", "g"
    )
    card = save(str(folder), predictor, card)
    assert find(run) == card
    model_file = next(folder.glob("learned/quality/*.npz"))
    model_file.write_bytes(model_file.read_bytes()[:-1] + b"\1")
    with pytest.raises(UsageError, match=r"--quality.use: .* was changed"):
        find(run)
    model_file.unlink()
    with pytest.raises(UsageError, match=r"--quality.use: what predicts quality cannot be used"):
        find(run)


def test_rare_company_that_the_tags_tell_is_no_violation() -> None:
    seen = np.zeros((200, 4), bool)
    seen[:100, 0] = seen[100:, 1] = True
    rules = Rules.of(CLASSES.names, CLASSES.ids.tolist(), {}, seen=seen)
    label = decide(WORLD.evidence, WORLD.text, CLASSES, weak(tags=[0, 1]), DecideConfig())

    def told(known: Any) -> list[str]:
        found = Judge(rules=rules).columns(label, WORLD.evidence, known, CLASSES, WORLD.text)["violations"]
        return [message for message in found if "hardly ever" in message]

    assert len(told(weak())) == 1 and told(weak(tags=[0, 1])) == []


def test_labels_of_before_are_read_kept_and_reused(tmp_path: Path) -> None:
    old = NewestRowTable(str(tmp_path / "labels"), pa.schema([field for field in SCHEMA if field.name not in ADDED]))
    run, asset = run_at(tmp_path), Wanted("a", "/a", 3, "1", "", "", "", (), "", "")
    known = Known(evidence={"a": ("shard", "e", "bytes")})
    row = {**dict.fromkeys(old.schema.names), "removed": False, "sequence": 1, "asset": "a", "evidence_key": "e"}
    row["label_key"] = run.label_key("e", "")
    old.append("old.parquet", pa.Table.from_pylist([row], schema=old.schema))
    assert deciding.plan(run, [asset], known).reused == 1
    newer = {**dict.fromkeys(SCHEMA.names), "removed": False, "sequence": 2, "asset": "b", "predicted_miou": 0.5}
    newer |= {"violations": ["x"], "accepted": True}
    run.labels.append("new.parquet", pa.Table.from_pylist([newer], schema=SCHEMA))
    rows = {row["asset"]: row for batch in run.labels.newest(["asset", *ADDED]) for row in batch.to_pylist()}
    assert [rows["a"][name] for name in ADDED] == [None] * len(ADDED)
    assert (rows["b"]["predicted_miou"], rows["b"]["violations"], rows["b"]["accepted"]) == (0.5, ["x"], True)
    run.quality_digest = "q"
    [work] = deciding.plan(run, [asset], known).work
    assert work["cause"] == "new decision" and work["label_key"] != row["label_key"]


def test_a_night_names_another_quality_model_as_the_cause() -> None:
    before = dict.fromkeys(SCHEMA.names, "1") | {"quality_digest": None}
    after = before | {"quality_digest": "q", "label_key": "2"}
    assert cause(before, after) == ("new decision", ["what predicts quality"])


def test_a_review_wants_what_is_predicted_to_be_bad_or_breaks_a_rule(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    row = label_row(scene, "plain.jpg", 0)
    plain = value_of(row, RankConfig())
    assert value_of(row, RankConfig(quality=9, violations=9)) == plain, "nothing is known of it"
    bad, good = (value_of(row | {"predicted_miou": miou}, RankConfig()) for miou in (0.2, 0.9))
    assert bad > good >= plain and bad - good == pytest.approx(0.5 * 0.7)
    assert value_of(row | {"violations": ["a rule"]}, RankConfig()) == pytest.approx(plain + 0.5)
    assert value_of(row | {"violations": [], "predicted_miou": 0.2}, RankConfig(quality=0)) == plain


def test_the_page_shows_what_is_said_of_an_image() -> None:
    builder = ReportBuilder(REPORT_CLASSES)
    builder.add(item("plain.jpg", 1))
    silent = builder.render("x", {}, "")
    assert "predicted IoU" not in silent and 'class="broken"' not in silent
    rules = ("some pixels are animal, others its kind <b>cat</b>",)
    builder.add(replace(item("told.jpg", 2), predicted=(0.62, 0.42, 0.82), accepted=True, violations=rules))
    page = builder.render("x", {}, "")
    assert "predicted IoU <b>0.62</b> (0.42–0.82)" in page and "<span>accepted</span>" in page
    assert '<p class="broken">some pixels are animal, others its kind &lt;b&gt;cat&lt;/b&gt;</p>' in page


def test_a_run_tells_how_many_labels_break_which_rules(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    run = run_at(scene.output)
    broken = {"plain.jpg": ["a", "b"], "grey.png": ["b"], "plain.png": []}
    rows = [
        label_row(scene, asset, 0, sequence=2, violations=told, accepted=asset == "grey.png", predicted_miou=0.5)
        for asset, told in broken.items()
    ]
    scene.labels.append("part-2.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    details: dict[str, Any] = {}
    run.config = run.config.model_copy(update={"report": run.config.report.model_copy(update={"images": 0})})
    page, _ = build(run, Known(), details)
    assert details == {
        "rule_breaking_images": 2,
        "broken_rules": {"b": 2, "a": 1},
        "accepted_images": 1,
        "not_accepted_images": 2,
    }
    assert "rule breaking images" in page


def test_other_checks_decide_anew_and_the_usual_ones_are_no_part_of_a_key(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    usual = run.label_key("e", "")
    keys = set()
    for told in ({"enabled": False}, {"max_lift": 0.5}):
        run.config = run.config.model_copy(update={"checks": type(run.config.checks)(**told)})
        keys.add(run.label_key("e", ""))
    assert len(keys | {usual}) == 3
    run.config = run.config.model_copy(update={"checks": type(run.config.checks)()})
    assert run.label_key("e", "") == usual
