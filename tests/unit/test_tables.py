"""The tables: what is published is whole, the newest row wins, and a shard is there or not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import storage
from pipelines.tables.delta import NewestRowTable
from pipelines.tables.evidence import EvidenceStore
from pipelines.tables.labels import SCHEMA, LabelTable, removal
from pipelines.tables.newest import NewestRows
from pipelines.tables.quarantine import QuarantineTable


def rows(assets: list[str], sequence: int, **columns: object) -> pa.Table:
    base = {**dict.fromkeys(SCHEMA.names), "removed": False, "sequence": sequence, **columns}
    return pa.Table.from_pylist([{**base, "asset": asset} for asset in assets], schema=SCHEMA)


def newest(table: LabelTable, **options: object) -> dict[str, str]:
    batches = table.newest(["asset", "label_key"], **options)  # type: ignore[arg-type]
    return {row["asset"]: row["label_key"] for batch in batches for row in batch.to_pylist()}


@pytest.fixture
def table(tmp_path: Path) -> LabelTable:
    return LabelTable(str(tmp_path / "labels with spaces & ü"))


def test_the_newest_row_of_an_asset_wins_and_older_versions_stay_readable(table: LabelTable) -> None:
    assert table.version() is None
    assert newest(table) == {}
    table.append("a.parquet", rows(["x", "y"], 1, label_key="old"))
    table.append("b.parquet", rows(["y", "z"], 2, label_key="new"))
    assert newest(table) == {"x": "old", "y": "new", "z": "new"}
    assert newest(table, version=1) == {"x": "old", "y": "old"}
    assert newest(table, assets={"y"}) == {"y": "new"}
    # Ten million names are more than the 2 GiB that an array of plain strings can hold.
    assert NewestRows.of(SCHEMA, table.files()).keys["asset"].type == pa.large_string()
    assert table.next_sequence() > 2


def test_a_table_from_before_a_column_was_added_is_read_and_goes_on(tmp_path: Path) -> None:
    older = pa.schema([field for field in SCHEMA if field.name != "human_digest"])
    table = NewestRowTable(str(tmp_path / "labels"), older)
    table.append("a.parquet", rows(["x", "y"], 1, label_key="k").select(older.names))
    now = LabelTable(table.url)
    now.append("b.parquet", rows(["y"], 2, label_key="k", human_digest="h"))
    found = {row["asset"]: row["human_digest"] for b in now.newest(SCHEMA.names) for row in b.to_pylist()}
    assert found == {"x": None, "y": "h"}


def test_a_removal_hides_an_asset_until_it_comes_back(table: LabelTable) -> None:
    table.append("a.parquet", rows(["x", "y"], 1, label_key="k"))
    gone = removal("x", "/x", "vanished", 2, "run", None)
    table.append("b.parquet", pa.Table.from_pylist([gone], schema=SCHEMA))
    assert newest(table) == {"y": "k"}
    assert newest(table, removed=True)["x"] is None
    table.append("c.parquet", rows(["x"], 3, label_key="back"))
    assert newest(table) == {"x": "back", "y": "k"}


def test_rows_are_invisible_until_committed_and_then_all_at_once(table: LabelTable) -> None:
    first = table.write_file("staged-1-a.parquet", rows(["x"], 1, label_key="k"))
    second = table.write_file("staged-1-b.parquet", rows(["y"], 1, label_key="k"))
    assert newest(table) == {}
    assert [url.rsplit("/", 1)[-1] for url in table.staged("staged-1")] == [first.name, second.name]
    table.commit([first, second], {"run_id": "r"})
    assert newest(table) == {"x": "k", "y": "k"}
    assert table.staged("staged-1") == []


def evidence_row(asset: str, key: str, outcome: str = "ok", own: bool = True) -> dict[str, object]:
    row: dict[str, object] = {
        "asset": asset, "uri": f"/{asset}", "size_bytes": 3, "mtag": "1", "hints_digest": "", "digest": "d",
        "evidence_key": key, "outcome": outcome,
    }  # fmt: skip
    if own:
        row |= {"height": 4, "width": 5, "grid": [1, 1, 2], "features": b"ab", "masks": b""}
        row["guide"] = b"jpeg" + key.encode()
    return row


def test_a_shard_gives_back_what_it_was_given_and_the_index_names_it(tmp_path: Path) -> None:
    store = EvidenceStore(str(tmp_path / "evidence"), "0" * 64)
    written, size = store.write_shard([evidence_row("a", "k1"), evidence_row("b", "k1", own=False)])
    assert written == 1 and size > 0
    store.write_shard([{**evidence_row("c", "", own=False), "outcome": "quarantined", "error": "truncated"}])
    index = {row["asset"]: row for row in store.index().to_pylist()}
    assert index["a"]["shard"] and index["b"]["shard"] is None
    assert index["c"]["outcome"] == "quarantined"
    [found] = store.read([(index["a"]["shard"], "k1")], ["guide", "features"])
    assert found["guide"] == b"jpegk1" and found["features"] == b"ab"


def test_many_small_index_files_are_merged_without_losing_a_row(tmp_path: Path) -> None:
    store = EvidenceStore(str(tmp_path / "evidence"), "0" * 64)
    for number in range(70):
        store.write_shard([evidence_row(f"a{number}", f"k{number}")])
    assert len(store.index(merge=True)) == 70
    assert len([url for url in storage.list_files(store.url) if "index-" in url]) == 1
    assert {row["asset"] for row in store.index().to_pylist()} == {f"a{number}" for number in range(70)}


def test_a_file_is_replaced_whole_and_no_temporary_is_left(tmp_path: Path) -> None:
    target = str(tmp_path / "folder" / "file.bin")
    storage.write_bytes(target, b"one")
    storage.write_bytes(target, b"two")
    assert storage.read_bytes(target) == b"two"
    assert storage.list_files(str(tmp_path / "folder")) == [target]


def test_quarantine_is_the_current_list_and_says_nothing_new_when_nothing_changed(tmp_path: Path) -> None:
    table = QuarantineTable(str(tmp_path / "quarantine"))
    row = {"asset": "a", "uri": "/a", "size_bytes": 0, "mtag": "", "stage": "read", "error": "empty", "reason": "r"}
    assert table.rows() == []
    table.replace([row], "run1")
    table.replace([row], "run2")
    assert [found["run_id"] for found in table.rows()] == ["run1"]
    table.replace([], "run3")
    assert table.rows() == []


def test_arrays_survive_the_way_between_two_pools() -> None:
    from pipelines.stages.observe import pool_columns, to_table, unpack
    from pipelines.stages.observers import BETWEEN

    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    views = [np.ones((2, 3, 4), np.float32), np.zeros((1, 1, 4), np.float32)]
    record = {"asset": "a", "outcome": "ok", "picture": picture, "clip_features": views}
    [row] = to_table([record], pool_columns(*BETWEEN)).to_pylist()
    found = unpack(row)
    assert np.array_equal(found["picture"], picture)
    assert all(np.array_equal(a, b) for a, b in zip(found["clip_features"], views, strict=True))
    assert "clip_embeddings" not in found
