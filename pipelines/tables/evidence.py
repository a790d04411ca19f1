"""The evidence store: immutable shards, each written whole or not at all, with a thin index beside each.

`OUTPUT/evidence/<observe id>/data-<shard>.parquet` holds the evidence, `index-<shard>.parquet` one row for every asset
that was read: its address, size, modification tag, digest and outcome. A shard's data is written before its index, so
what the index says is there, is there. What is in the manifest and not in here is still to do: that is the only
resume mechanism. A file written twice (a retried task) does no harm: keys are the same and so are the bytes.
"""

import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines import storage

SCHEMA_VERSION = 1

DATA = pa.schema(
    [
        ("evidence_key", pa.string()),
        ("digest", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("grid", pa.list_(pa.int32())),
        ("features", pa.binary()),
        ("features_scale", pa.binary()),
        ("embedding", pa.binary()),
        ("masks", pa.binary()),
        ("mask_shape", pa.list_(pa.int32())),
        ("mask_iou", pa.list_(pa.float32())),
        ("mask_stability", pa.list_(pa.float32())),
        ("mask_source", pa.list_(pa.int32())),
        ("mask_class", pa.list_(pa.int32())),  # class ids, in evidence that knows classes; null in all other
        ("guide", pa.binary()),
        ("schema_version", pa.int32()),
    ]
)

# What evidence that knows classes has of them.
MASKS = tuple(name for name in DATA.names if name.startswith("mask"))

INDEX = pa.schema(
    [
        ("asset", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtag", pa.string()),
        ("hints_digest", pa.string()),
        ("digest", pa.string()),
        ("evidence_key", pa.string()),
        ("shard", pa.string()),  # data file that holds the evidence; null for a second asset with the same bytes
        ("outcome", pa.string()),  # ok, quarantined
        ("stage", pa.string()),
        ("error", pa.string()),
        ("reason", pa.string()),
        ("run_id", pa.string()),
        ("schema_version", pa.int32()),
    ]
)

# Above this many index files the driver merges them, so that a later run opens few.
COMPACT_ABOVE_FILES = 64


class EvidenceStore:
    """The evidence of one output under one observe-config (its digest is `observe_id`)."""

    def __init__(self, url: str, observe_id: str) -> None:
        self.root = url
        self.url = storage.join(url, observe_id[:16])

    def beside(self, observe_id: str) -> "EvidenceStore":
        """The evidence of the same output under another id."""
        return EvidenceStore(self.root, observe_id)

    def write_shard(self, rows: Sequence[Mapping[str, Any]], run_id: str = "") -> tuple[int, int]:
        """Write the evidence and the index of `rows`; returns the number of evidence rows and of bytes written.

        A row has the columns of INDEX; one that carries evidence (`masks` present) has those of DATA too.
        """
        shard = uuid.uuid4().hex
        evidence = {row["evidence_key"]: row for row in rows if row.get("masks") is not None}
        written = 0
        if evidence:
            version = {"schema_version": SCHEMA_VERSION}
            data = [{name: row.get(name) for name in DATA.names} | version for row in evidence.values()]
            # One row group for a few images, so that reading one image does not read a whole shard.
            table = pa.Table.from_pylist(data, schema=DATA)
            written = storage.write_parquet(storage.join(self.url, f"data-{shard}.parquet"), table, row_group_size=8)
        index = []
        for row in rows:
            own = row.get("masks") is not None
            index.append(
                {
                    **{name: row.get(name) for name in INDEX.names},
                    "shard": f"data-{shard}.parquet" if own else None,
                    "run_id": run_id,
                    "schema_version": SCHEMA_VERSION,
                }
            )
        storage.write_parquet(
            storage.join(self.url, f"index-{shard}.parquet"), pa.Table.from_pylist(index, schema=INDEX)
        )
        return len(evidence), written

    def index(self, merge: bool = False) -> pa.Table:
        """Every index row there is; an asset can have several (its bytes changed, or a shard was written twice).

        merge: put many small index files into one, for a run that has the store to itself.
        """
        files = [url for url in storage.list_files(self.url) if url.rsplit("/", 1)[-1].startswith("index-")]
        tables = [storage.read_parquet(url) for url in files]
        table = pa.concat_tables(tables) if tables else INDEX.empty_table()
        if merge and len(files) > COMPACT_ABOVE_FILES:
            # The merged file is there before the parts go; until then a reader sees rows twice, which is harmless.
            storage.write_parquet(storage.join(self.url, f"index-{uuid.uuid4().hex}.parquet"), table)
            for url in files:
                storage.remove(url)
        return table

    def read(self, wanted: Iterable[tuple[str, str]], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the evidence rows of (shard, evidence_key) pairs, shard by shard, a few rows in memory at a time."""
        import pyarrow.dataset as pads

        by_shard: OrderedDict[str, list[str]] = OrderedDict()
        for shard, key in wanted:
            by_shard.setdefault(shard, []).append(key)
        names = list(dict.fromkeys(["evidence_key", *(columns or DATA.names)]))
        for shard, keys in by_shard.items():
            if not storage.exists(storage.join(self.url, shard)):
                continue  # Its rows are missing from the answer, which is what callers look at.
            fs, path = storage.arrow_filesystem(storage.join(self.url, shard))
            dataset = pads.dataset(path, schema=DATA, format="parquet", filesystem=fs)
            scanner = dataset.scanner(
                columns=names,
                filter=pads.field("evidence_key").isin(keys),
                batch_size=8,
                batch_readahead=1,
                fragment_readahead=1,
            )
            for batch in scanner.to_batches():
                yield from batch.to_pylist()
