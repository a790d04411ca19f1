"""The label table: what was decided for each asset, in published, immutable versions (snapshots)."""

import hashlib

import pyarrow as pa

from pipelines import storage
from pipelines.tables.delta import NewestRowTable

SCHEMA_VERSION = 1

AREA = pa.struct([("class_id", pa.int32()), ("name", pa.string()), ("area", pa.float32()), ("kept", pa.float32())])

SCHEMA = pa.schema(
    [
        ("asset", pa.string()),
        ("sequence", pa.int64()),  # orders the rows of an asset
        ("removed", pa.bool_()),
        ("uri", pa.string()),
        ("digest", pa.string()),  # sha256 of the image bytes
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("class_map", pa.binary()),  # PNG of class ids, 8 or 16 bit, full resolution
        ("confidence", pa.binary()),  # PNG, 0..255 for 0..1, a quarter of the resolution
        ("provenance", pa.binary()),  # PNG, index into models.decide.types.PROVENANCE, a quarter of the resolution
        ("keep_threshold", pa.float32()),  # readers use pixels of at least this confidence, 0..1
        ("coverage", pa.float32()),  # share of pixels kept
        ("mean_confidence", pa.float32()),
        ("disagreement", pa.float32()),
        ("areas", pa.list_(AREA)),  # share of the image, and of the kept pixels' part of it, for each class there is
        ("predicted_miou", pa.float32()),  # the label's expected IoU, 0..1; null where nobody asked (quality.use)
        ("predicted_low", pa.float32()),  # the ends of its interval
        ("predicted_high", pa.float32()),
        ("accepted", pa.bool_()),  # predicted_miou is as high as the promised share of bad labels asks for
        ("violations", pa.list_(pa.string())),  # rules of the classes that it breaks, in words; null: not looked at
        ("weak", pa.string()),  # the weak labels that took part, canonical JSON
        ("weak_problems", pa.list_(pa.string())),
        ("evidence_key", pa.string()),
        ("class_set_digest", pa.string()),
        ("weak_digest", pa.string()),
        ("decide_digest", pa.string()),
        ("head_digest", pa.string()),  # of what the corpus taught, "" for nothing; null in older files
        ("human_digest", pa.string()),  # of people's corrections that took part, "" for none; null in older files
        ("quality_digest", pa.string()),  # of what predicted its quality, "" for nothing; null in older files
        ("label_key", pa.string()),  # everything that the decision came from
        ("cause", pa.string()),  # new image, new evidence, new decision, human, vanished, unreadable
        ("run_id", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("schema_version", pa.int32()),
    ]
)

# Columns that say when and by which run a row was made; all others are the same however often a run was interrupted.
LINEAGE = ("sequence", "run_id", "created_at")


class LabelTable(NewestRowTable):
    """`OUTPUT/labels`."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SCHEMA)

    def staged(self, prefix: str) -> list[str]:
        """Addresses of files written by an earlier run for the same decision, which no snapshot mentions."""
        published = {storage.filesystem(file)[1] for file in self.files()}
        found = [url for url in storage.list_files(self.url) if url.rsplit("/", 1)[-1].startswith(prefix)]
        return [url for url in found if storage.filesystem(url)[1] not in published]


def human_digest(ids: str) -> str:
    """sha256, hex, of the corrections that take part in a label: a JSON list of their ids in order, "" for none."""
    return hashlib.sha256(ids.encode()).hexdigest() if ids else ""


def removal(asset: str, uri: str, cause: str, sequence: int, run_id: str, created_at: object) -> dict[str, object]:
    """The row that says: this asset has no label any more."""
    return {
        **dict.fromkeys(SCHEMA.names),
        "asset": asset,
        "uri": uri,
        "sequence": sequence,
        "removed": True,
        "cause": cause,
        "run_id": run_id,
        "created_at": created_at,
        "schema_version": SCHEMA_VERSION,
    }
