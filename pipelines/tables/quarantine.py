"""The quarantine: assets of the corpus that could not be processed, each with where and why."""

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError

from pipelines import storage
from pipelines.tables.delta import data_files

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        ("asset", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtag", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),  # short name of the kind of failure
        ("reason", pa.string()),  # a sentence
        ("run_id", pa.string()),
        ("schema_version", pa.int32()),
    ]
)


class QuarantineTable:
    """`OUTPUT/quarantine`: each version is the whole list as it stood after a run."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self) -> list[dict[str, object]]:
        """All rows of the newest version, by asset."""
        try:
            table = DeltaTable(self.url)
        except TableNotFoundError:
            return []
        tables = [storage.read_parquet(file) for file in data_files(self.url, table)]
        rows = [row for part in tables for row in part.to_pylist()]
        return sorted(rows, key=lambda row: row["asset"])

    def replace(self, rows: list[dict[str, object]], run_id: str) -> None:
        """Publish `rows` as the whole quarantine; writes nothing when that is what it says already."""
        told = [{**row, "schema_version": SCHEMA_VERSION} for row in sorted(rows, key=lambda row: str(row["asset"]))]
        before = [{**row, "run_id": None} for row in self.rows()]
        if before == [{**row, "run_id": None} for row in told]:
            return
        told = [{**row, "run_id": run_id} for row in told]
        properties = CommitProperties(custom_metadata={"run_id": run_id})
        write_deltalake(
            self.url, pa.Table.from_pylist(told, schema=SCHEMA), mode="overwrite", commit_properties=properties
        )
