"""Read: an asset's address to its digest, its evidence key and an upright picture, or the reason why not."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pipelines.corpus.read import read_bytes
from pipelines.forgetting.memory import Forgotten
from pipelines.stages.base import Record, StageSpec
from pipelines.stages.decode import BadImage, decode

SPEC = StageSpec(
    name="read",
    needs=("asset", "uri", "size_bytes", "mtag", "hints", "hints_digest"),
    adds=("digest", "evidence_key", "height", "width", "picture", "outcome", "stage", "error", "reason"),
    pool="observe",
)


@dataclass(frozen=True)
class ReadConfig:
    """observe_id: digest of what makes the numbers; picture_px, tile_above_px: as in ObserveConfig. forgotten: images
    that are left out by their bytes, whatever they are called now."""

    observe_id: str
    picture_px: int
    tile_above_px: int
    max_pixels: int
    threads: int
    forgotten: Forgotten = field(default_factory=Forgotten)


def evidence_key(digest: str, observe_id: str, hints_digest: str) -> str:
    """Everything that the evidence of an image depends on, as one sha256."""
    return hashlib.sha256(f"{digest}/{observe_id}/{hints_digest}".encode()).hexdigest()


class ReadStage:
    """Reads in threads, because a store far away answers slowly; decodes there too, as Pillow lets go of the GIL."""

    def __init__(self, config: ReadConfig) -> None:
        self.config = config
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="read")

    def submit(self, record: Record) -> Future[Record]:
        return self._threads.submit(self.read_one, record)

    def read_one(self, record: Record) -> Record:
        try:
            try:
                data = read_bytes(record["uri"])
            except FileNotFoundError as error:
                raise BadImage("vanished", "the file was listed but is not there any more") from error
            except PermissionError as error:
                raise BadImage("no_permission", f"the file may not be read ({error})") from error
            digest = hashlib.sha256(data).hexdigest()
            if self.config.forgotten.holds("digest", digest):
                # Its digest is written nowhere again.
                raise BadImage("forgotten", "these are the bytes of an image that was forgotten: delete the file")
            record["digest"] = digest
            record["evidence_key"] = evidence_key(record["digest"], self.config.observe_id, record["hints_digest"])
            picture = decode(data, self.config.picture_px, self.config.max_pixels, self.config.tile_above_px)
        except BadImage as error:
            return quarantine(record, "read", error.error, str(error))
        record.update(outcome="ok", picture=picture.pixels, height=picture.height, width=picture.width)
        return record


def quarantine(record: Record, stage: str, error: str, reason: str) -> Record:
    """Mark the record as one that cannot be processed, through no fault of ours."""
    record.update(outcome="quarantined", stage=stage, error=error, reason=reason)
    return record
