"""Parts of forgetting: tables that are read meanwhile, files called after an image, snapshots that are gone."""

import shutil
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from test_forget import Killed, stopped_at

from pipelines import storage
from pipelines.forgetting import delta
from pipelines.forgetting.names import Names
from pipelines.tables import labels
from pipelines.tables.labels import LabelTable
from pipelines.tables.snapshots import roll_back

A = Names({"a.jpg"}, set(), set())
BOTH = Names({"a.jpg", "b.jpg"}, set(), set())


def write_rolled_back(url: str) -> LabelTable:
    """Good labels, then bad ones, then the good ones again; the log has a checkpoint of the bad ones."""
    table = LabelTable(url)
    base = {**dict.fromkeys(labels.SCHEMA.names), "removed": False}
    for number, run_id in enumerate(("good", "bad")):
        rows = [{**base, "asset": f"{n}.jpg", "sequence": number, "run_id": run_id} for n in "abc"]
        file = table.write_file(f"part-{run_id}.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))
        table.replace(["part-good.parquet"] if number else [], [file])
    deltalake.DeltaTable(url).create_checkpoint()
    roll_back(table, 1, "back", "they are bad")
    return table


def read(table: LabelTable, version: int) -> set[tuple[str, str]]:
    assert len(table.files(version)) == 1
    columns = ["asset", "run_id"]
    found = [row for batch in table.newest(columns, version) for row in batch.to_pylist()]
    return {(row["asset"], row["run_id"]) for row in found}


def clean(table: LabelTable, names: Names) -> None:
    paths = storage.tree(table.url)
    delta.clean(table.url, paths, delta.look(table.url, paths, names), names)


def test_readers_see_every_version_as_it_was_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rolled_back(str(tmp_path / "before"))
    expected = {1: "good", 2: "bad", 3: "good"}
    for step in range(100):
        table = LabelTable(str(tmp_path / f"killed-{step}"))
        shutil.copytree(tmp_path / "before", table.url)
        with monkeypatch.context() as patch:
            stopped_at(step, patch)
            try:
                clean(table, A)
                break
            except Killed:
                pass
        for version, run_id in expected.items():
            assert read(table, version) - {("a.jpg", run_id)} == {("b.jpg", run_id), ("c.jpg", run_id)}, step
        clean(table, BOTH)  # it goes on, and forgets another image with it
        for version, run_id in expected.items():
            assert read(table, version) == {("c.jpg", run_id)}, step
        assert len(list(Path(table.url).glob("*.parquet"))) == 2
    assert step > 10
    assert all(read(table, v) == {("b.jpg", run_id), ("c.jpg", run_id)} for v, run_id in expected.items())
