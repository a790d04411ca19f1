"""The steps of a run that need no cluster: what is still to do, what has to go, which hints a record gives."""

from pathlib import Path

import pytest

from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError
from pipelines.execution import layout
from pipelines.flow import deciding, listing, observing
from pipelines.flow import present as flow_present
from pipelines.flow.finish import finish
from pipelines.flow.listing import Wanted
from pipelines.flow.publish import Proposal, Published
from pipelines.flow.run import Run
from pipelines.stages.base import ChainError, StageSpec, check_chain
from pipelines.tables.labels import SCHEMA


def run_at(output: Path, corpus: str = "/photos", **options: object) -> Run:
    config = LabelConfig(corpus=corpus, output=str(output), **options)  # type: ignore[arg-type]
    run = Run(config, ClassSet.load("cat"), "o" * 64, "d" * 64, {}, layout(2, 0, "auto", "auto", 0))
    run.corpus = corpus
    return run


def wanted(asset: str, size: int = 3) -> Wanted:
    return Wanted(asset, f"/photos/{asset}", size, "1", "", "", "", (), "", "")


def index_row(asset: str, key: str = "", outcome: str = "ok", error: str = "") -> dict[str, object]:
    row: dict[str, object] = {"asset": asset, "size_bytes": 3, "mtag": "1", "hints_digest": "", "digest": "d"}
    row |= {"evidence_key": key, "outcome": outcome, "error": error}
    return row | ({"masks": b"x"} if outcome == "ok" and key else {})


def test_what_could_not_be_reached_is_tried_again_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    before = run_at(tmp_path)
    bad = {"gone": "vanished", "locked": "no_permission", "huge": "too_many_pixels", "cut": "truncated"}
    rows = [index_row(asset, outcome="quarantined", error=error) for asset, error in bad.items()]
    before.store.write_shard([*rows, index_row("good", "k")], before.run_id)
    assets = [wanted(asset) for asset in (*bad, "good", "new")]

    found = observing.look_up(run_at(tmp_path), assets)
    assert [row.asset for row in found.todo] == ["new", "gone", "locked", "huge"]
    assert set(found.bad) == {"cut"} and set(found.evidence) == {"good"}
    # In the run that found them so, they are done with.
    assert set(observing.look_up(before, assets).bad) == set(bad)
    again = observing.look_up(run_at(tmp_path, retry_quarantined=True), assets)
    assert {row.asset for row in again.todo} == {"new", *bad}


def test_the_second_of_two_same_photographs_waits_for_evidence_that_is_there(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    run.store.write_shard([{**index_row("b", "k"), "masks": None}], run.run_id)
    assert [row.asset for row in observing.look_up(run, [wanted("b")]).todo] == ["b"]
    run.store.write_shard([index_row("a", "k")], run.run_id)
    assert set(observing.look_up(run, [wanted("b")]).evidence) == {"b"}


def test_a_vanished_photograph_loses_its_label_even_if_the_run_that_noticed_was_killed(tmp_path: Path) -> None:
    import pyarrow as pa

    run = run_at(tmp_path)
    listing.write_manifest(run, [wanted("a"), wanted("b")], {}, whole=True)
    row = {**dict.fromkeys(SCHEMA.names), "removed": False, "sequence": 1}
    run.labels.append("x.parquet", pa.Table.from_pylist([{**row, "asset": a} for a in "ab"], schema=SCHEMA))
    listing.write_manifest(run_at(tmp_path), [wanted("a")], {}, whole=True)  # ... and then it was killed.
    later = run_at(tmp_path)
    listing.write_manifest(later, [wanted("a")], {}, whole=True)
    todo = deciding.plan(later, [wanted("a")], observing.look_up(later, [wanted("a")]))
    assert [(row["asset"], row["cause"]) for row in todo.removals] == [("b", "vanished")]


def test_an_output_belongs_to_one_corpus(tmp_path: Path) -> None:
    from pipelines.corpus.folder import FolderCorpus

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run = run_at(tmp_path / "out", str(tmp_path / "one"))
    listing.own_corpus(run, FolderCorpus(str(tmp_path / "one")))
    listing.write_manifest(run, [wanted("a")], {}, whole=True)
    listing.own_corpus(run, FolderCorpus(str(tmp_path / "one")))
    with pytest.raises(UsageError, match="an --output of its own"):
        listing.own_corpus(run, FolderCorpus(str(tmp_path / "two")))


def test_whole_actors_fit_on_a_gpu_and_writers_find_room_on_two_cores() -> None:
    assert layout(16, 2, "auto", 3, 0).resources.gpus == 0.5
    assert layout(16, 1, "auto", "auto", 0).device == "cuda"
    cpu = layout(2, 0, "auto", "auto", 0)
    assert cpu.actors == 2 and cpu.actors * cpu.resources.cpus < 2
    with pytest.raises(ValueError, match=r"execution\.device"):
        layout(2, 0, "cuda", "auto", 0)


def test_gpus_that_an_autoscaler_has_yet_to_bring_are_asked_for_by_number_and_share() -> None:
    for there in (0, 1, 4):
        plan = layout(4, there, "cuda", 4, 0, gpu_share=1.0)
        assert (plan.actors, plan.resources.gpus, plan.device) == (4, 1.0, "cuda")
    for actors, share in (("auto", 1.0), (4, 0.0)):
        with pytest.raises(ValueError, match=r"execution\.actors"):
            layout(4, 0, "cuda", actors, 0, gpu_share=share)


def test_a_chain_whose_columns_do_not_fit_is_refused() -> None:
    one = StageSpec("one", needs=("uri",), adds=("picture",))
    two = StageSpec("two", needs=("picture", "size"), adds=("label",), drops=("picture",))
    assert check_chain([one], ["uri"]) == [("uri", "picture")]
    with pytest.raises(ChainError, match="two needs size"):
        check_chain([one, two], ["uri"])


@pytest.mark.parametrize(("published", "code"), [(0, 3), (4, 4)])
def test_labels_that_were_refused_are_told_though_the_budget_was_used_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: int, code: int
) -> None:
    monkeypatch.setattr(flow_present, "present", lambda *_: None)
    proposal = Proposal(run_at(tmp_path), 2, observing.Known(), deciding.Plan(), deciding.Decided())
    observed = observing.Observed(out_of_budget=True)
    outcome = finish(proposal, observed, Published(1, published), None)  # type: ignore[arg-type]
    assert outcome.exit_code == code
