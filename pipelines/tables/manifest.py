"""The manifest: the assets of the corpus, and the digest of their bytes once they were read."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines.tables.delta import NewestRowTable

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        ("asset", pa.string()),
        ("sequence", pa.int64()),
        ("removed", pa.bool_()),
        ("corpus", pa.string()),  # address of the whole corpus
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtag", pa.string()),  # modification tag: time or ETag, as the store gives it
        ("digest", pa.string()),  # sha256 of the bytes; null until they were read
        ("split", pa.string()),
        ("weak", pa.string()),  # weak labels as listed, canonical JSON
        ("tags", pa.string()),  # licence and the like, JSON
        ("run_id", pa.string()),
        ("schema_version", pa.int32()),
    ]
)


class ManifestTable(NewestRowTable):
    """`OUTPUT/manifest`."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SCHEMA)

    def gone(self) -> dict[str, str]:
        """Assets that vanished from the corpus and have not come back, with the addresses they had."""
        found = {}
        for batch in self.newest(["asset", "uri", "removed"], batch_rows=4096, removed=True):
            found.update({row["asset"]: row["uri"] for row in batch.to_pylist() if row["removed"]})
        return found

    def corpus(self) -> str | None:
        """Address of the corpus that the output belongs to, None while it has none."""
        batch = next(self.newest(["corpus"], batch_rows=1, removed=True), None)
        return None if batch is None else batch["corpus"][0].as_py()

    def rows(self) -> Iterator[dict[str, object]]:
        for batch in self.newest([name for name in SCHEMA.names if name != "removed"], batch_rows=4096):
            yield from batch.to_pylist()
