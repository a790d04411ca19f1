"""Snapshots of the label table: compacted without touching a label, vacuumed by age, brought back."""

import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.config import UsageError
from pipelines.nightly import candidates
from pipelines.nightly.candidates import Candidate
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.job import _let_go
from pipelines.tables import snapshots
from pipelines.tables.delta import CommitConflict
from pipelines.tables.labels import SCHEMA, LabelTable, removal
from pipelines.tables.snapshots import compact, readable, roll_back, vacuum, withdrawn


def rows(assets: list[str], sequence: int, key: str) -> pa.Table:
    base = {**dict.fromkeys(SCHEMA.names), "removed": False, "sequence": sequence, "label_key": key}
    return pa.Table.from_pylist([{**base, "asset": asset, "class_map": b"x" * 50} for asset in assets], schema=SCHEMA)


def newest(table: LabelTable, version: int | None = None) -> dict[str, str]:
    batches = table.newest(["asset", "label_key"], version)
    return {row["asset"]: row["label_key"] for batch in batches for row in batch.to_pylist()}


@pytest.fixture
def table(tmp_path: Path) -> LabelTable:
    """1: a b c d; 2: a b c are newer and d is gone; 3: e."""
    found = LabelTable(str(tmp_path / "labels"))
    found.append("one.parquet", rows(["a", "b", "c", "d"], 1, "old"), {"run_id": "first"})
    later = [*rows(["a", "b", "c"], 2, "new").to_pylist(), removal("d", "", "vanished", 2, "r", None)]
    found.append("two.parquet", pa.Table.from_pylist(later, schema=SCHEMA))
    found.append("three.parquet", rows(["e"], 3, "new"))
    return found


def test_compaction_drops_what_is_superseded_and_changes_no_label(table: LabelTable) -> None:
    before = newest(table)
    assert before == {"a": "new", "b": "new", "c": "new", "e": "new"}
    assert compact(table, "tidy") == 4
    assert newest(table) == before and newest(table, 1) == dict.fromkeys("abcd", "old")
    assert [Path(file).name for file in table.files() if "one" in file] == []
    assert compact(table, "tidy") is None
    assert [(one.version, one.same_as) for one in snapshots.snapshots(table)] == [
        (4, 3),
        (3, None),
        (2, None),
        (1, None),
    ]
    # A removal goes on hiding what it hides, also beside files that still hold the older row.
    assert dict(table.newest(["asset"], removed=True).__next__().to_pydict())["asset"]


def test_many_small_files_become_few(table: LabelTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SMALL_FILES", 1)
    monkeypatch.setattr(snapshots, "FILE_ROWS", 1)
    before = newest(table)
    assert compact(table, "tidy") == 4
    assert newest(table) == before
    assert len(table.files()) == 2  # One for each batch that was read.


def test_vacuum_lets_go_of_what_was_replaced_long_ago_and_never_of_what_is_published(table: LabelTable) -> None:
    compact(table, "tidy")
    folder = Path(table.url)
    for file in folder.glob("*.parquet"):
        os.utime(file, (time.time() - 3600, time.time() - 3600))
    (folder / "staged-x.parquet").write_bytes(b"decided just now")
    os.utime(folder / "staged-x.parquet", (time.time() + 60, time.time() + 60))
    published = newest(table)
    assert vacuum(table, datetime.now(UTC) - timedelta(days=1)) == ([], 0)
    lost, freed = vacuum(table, datetime.now(UTC))
    assert lost == [3, 2, 1] and freed > 0
    assert newest(table) == published
    assert (folder / "staged-x.parquet").exists() and not (folder / "one.parquet").exists()
    assert not readable(table, 1)
    with pytest.raises(UsageError, match="vacuumed"):
        roll_back(table, 1, "r", "why")
    assert vacuum(table, datetime.now(UTC))[1] == 0


def test_a_rollback_brings_back_every_label_and_remembers_what_it_took_back(table: LabelTable) -> None:
    table.write_file("again.parquet", rows(["a", "z"], 9, "newest"))
    assert withdrawn(table, [f"{table.url}/two.parquet"]) == []
    assert roll_back(table, 1, "me", "why not") == 4
    assert newest(table) == dict.fromkeys("abcd", "old")
    assert withdrawn(table, [f"{table.url}/two.parquet"]) == ["a", "b", "c"]
    assert withdrawn(table, [f"{table.url}/again.parquet"]) == []
    shutil.rmtree(Path(table.url) / "_withdrawn")  # Rollbacks of before noted nothing; their files tell it.
    assert withdrawn(table, [f"{table.url}/two.parquet"]) == ["a", "b", "c"]
    table.append("five.parquet", rows(["a"], 5, "new"))
    assert withdrawn(table, [f"{table.url}/two.parquet"]) == []  # Somebody published those labels anyway.
    with pytest.raises(UsageError, match="no snapshot 17"):
        roll_back(table, 17, "me", "why not")


def test_what_a_rollback_took_back_is_known_when_its_files_are_gone(table: LabelTable) -> None:
    table.append("four.parquet", rows(["c"], 4, "newer"))
    compact(table, "tidy")
    roll_back(table, 1, "me", "why not")
    again = table.write_file("again.parquet", rows(["a", "b", "z"], 9, "new"))
    unlike = table.write_file("unlike.parquet", rows(["a"], 9, "old"))
    urls = [f"{table.url}/{file.name}" for file in (again, unlike)]
    vacuum(table, datetime.now(UTC) + timedelta(hours=1), ["again.parquet", "unlike.parquet"])
    assert not list(Path(table.url).glob("two*.parquet")) and not list(Path(table.url).glob("compact*.parquet"))
    assert (withdrawn(table, urls[:1]), withdrawn(table, urls[1:])) == (["a", "b", "z"], [])
    # Forgetting gives a file that held the image another name.
    [noted] = (Path(table.url) / "_withdrawn").iterdir()
    noted.rename(noted.with_name(f"{noted.stem}-f0123abcd.parquet"))
    assert withdrawn(table, urls[:1]) == ["a", "b", "z"]


def test_a_rollback_while_files_are_rewritten_is_not_undone(table: LabelTable) -> None:
    with pytest.raises(CommitConflict):
        compact(table, "tidy", confirm=lambda: roll_back(table, 1, "me", "why not") and None)
    assert newest(table) == dict.fromkeys("abcd", "old")


def kept(table: LabelTable, base: int, created_at: datetime) -> Candidate:
    file = table.write_file(f"staged-{base}.parquet", rows(["a"], 9, "candidate"))
    os.utime(Path(table.url) / file.name, (0, 0))  # what an earlier night had decided
    candidate = Candidate(f"night-{base}", created_at.isoformat(), base, (file.name,), ("no",), {"run_id": "night"})
    candidate.keep(str(Path(table.url).parent))
    return candidate


def test_a_night_holds_the_files_of_its_candidates_and_a_day_to_come_deletes_nothing(table: LabelTable) -> None:
    output, asked = str(Path(table.url).parent), []
    old, new = kept(table, 1, datetime.now(UTC) - timedelta(days=3)), kept(table, 3, datetime.now(UTC))
    night = {"corpus": "x", "output": output, "keep": {"snapshots": 86_400}}
    _let_go(NightlyConfig.model_validate({**night, "as_of": "2999-01-01"}), lambda: asked.append("may I"))
    assert asked == ["may I"]
    assert [readable(table, version) for version in (1, 2, 3)] == [True, True, True]
    assert [one.name for one in candidates.candidates(output)] == [new.name]
    there = {path.name for path in Path(table.url).glob("*.parquet")}
    assert new.files[0] in there and old.files[0] not in there


def test_a_candidate_follows_its_base_also_in_other_files_and_nothing_else(table: LabelTable) -> None:
    output = str(Path(table.url).parent)
    kept(table, 3, datetime.now(UTC))
    assert compact(table, "tidy") == 4
    assert candidates.publish(output, "night-3", "looked at") == 5
    assert newest(table)["a"] == "candidate"
    kept(table, 4, datetime.now(UTC))
    with pytest.raises(UsageError, match="published since"):
        candidates.publish(output, "night-4", "looked at")


def test_a_commit_that_must_follow_a_version_does_or_fails(table: LabelTable) -> None:
    file = table.write_file("four.parquet", rows(["x"], 4, "k"))
    with pytest.raises(CommitConflict):
        table.commit([file], after=2)
    assert table.version() == 3
    assert table.commit([file], after=3) == 4
