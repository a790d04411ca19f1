"""Write: a block of evidence to one shard of the store, off the actors that hold the models."""

import json
from typing import Any

import pyarrow as pa

from pipelines.stages.base import StageSpec
from pipelines.stages.observe import unpack
from pipelines.tables.evidence import EvidenceStore

SPEC = StageSpec(
    name="write evidence",
    needs=("asset", "evidence_key", "masks", "outcome"),
    adds=("observed", "known", "quarantined", "failed", "bytes", "pool_seconds", "failures"),
    drops=("masks",),
    pool="write",
)

SUMMARY = pa.schema(
    [
        ("rows", pa.int64()),
        ("observed", pa.int64()),
        ("known", pa.int64()),
        ("quarantined", pa.int64()),
        ("failed", pa.int64()),
        ("bytes", pa.int64()),
        ("pool_seconds", pa.float64()),
        ("failures", pa.string()),  # JSON list of [asset, stage, reason]
    ]
)


def write_evidence(block: pa.Table, store: EvidenceStore, run_id: str) -> pa.Table:
    """Write the rows that came to an end; those we failed on stay to do."""
    rows: list[dict[str, Any]] = [unpack(row) for row in block.to_pylist()]
    done = [row for row in rows if row["outcome"] != "failed"]
    observed, size = store.write_shard(done, run_id) if done else (0, 0)
    quarantined = sum(row["outcome"] == "quarantined" for row in rows)
    failures = [[row["asset"], row["stage"], row["reason"]] for row in rows if row["outcome"] == "failed"]
    summary = {
        "rows": len(rows),
        "observed": observed,
        "known": len(done) - observed - quarantined,
        "quarantined": quarantined,
        "failed": len(failures),
        "bytes": size,
        "pool_seconds": sum(row.get("pool_seconds", 0.0) for row in rows),
        "failures": json.dumps(failures),
    }
    return pa.Table.from_pylist([summary], schema=SUMMARY)
