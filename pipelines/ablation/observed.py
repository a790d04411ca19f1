"""Photographs with gold, observed again in this process under other settings; kept beside the results."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from models import evidence as evidence_record
from models.device import pick_device
from models.evidence import ENCODING_VERSION, Evidence
from models.observe_config import ALGORITHM_VERSION, ObserveConfig
from pipelines import storage
from pipelines import weak as weak_labels
from pipelines.evaluation.cases import Source
from pipelines.flow.progress import Progress
from pipelines.flow.run import digest
from pipelines.flow.stop import RunFailed
from pipelines.forgetting.memory import Forgotten
from pipelines.references import resolve
from pipelines.stages.observers import Models, ObserveAll
from pipelines.stages.read import ReadConfig, ReadStage
from pipelines.tables.evidence import EvidenceStore

SHARD_IMAGES = 8
"""What a killed run observes again, at most."""


class Again:
    """The gold photographs under several observe-configs."""

    def __init__(self, source: Source, folder: str, device: str, progress_seconds: float) -> None:
        self._source, self._folder, self._every = source, folder, progress_seconds
        self._device = str(pick_device(device))
        self._stores: dict[str, EvidenceStore] = {}

    def observe(self, config: ObserveConfig) -> str:
        """Observe what was not observed so before; the id of the evidence. Raises RunFailed."""
        clip, sam = resolve(config.clip.model), resolve(config.sam.model)
        told = asdict(config)
        told["clip"]["model"], told["sam"]["model"] = clip.digest, sam.digest
        observe_id = digest([told, ALGORITHM_VERSION, ENCODING_VERSION, self._device])
        store = EvidenceStore(storage.join(self._folder, "evidence"), observe_id)
        self._stores[observe_id] = store
        there = set(store.index()["asset"].to_pylist())
        todo = [row for row in self._source.rows if row["asset"] not in there]
        if not todo:
            return observe_id
        digests = {config.clip.model: clip.digest, config.sam.model: sam.digest}
        stage = ObserveAll(config, Models(config.clip.model, config.sam.model, digests), self._device)
        read = self._reader(config, observe_id)
        progress = Progress("observe", len(todo), self._every)
        for number, records in enumerate(self._records(read, todo)):
            if number == 0:
                stage.forward([stage.prepare(records[0])])  # unseen: the first image of all waits for more
            started = time.process_time()
            stage.finish(stage.forward([stage.prepare(record) for record in records]), records)
            seconds = time.process_time() - started
            store.write_shard(records)
            note = json.dumps({"images": len(records), "seconds": seconds}).encode()
            storage.write_bytes(storage.join(self._notes(observe_id), f"{uuid.uuid4().hex}.json"), note)
            progress.add(len(records))
        progress.close()
        return observe_id

    def seconds(self, observe_id: str) -> float:
        """CPU seconds that an image took; of the host alone where a GPU did the work."""
        notes = [json.loads(storage.read_bytes(url)) for url in storage.list_files(self._notes(observe_id))]
        return float(sum(note["seconds"] for note in notes) / sum(note["images"] for note in notes))

    def evidence(self, observe_id: str, assets: Sequence[str]) -> Mapping[str, Evidence]:
        """By asset."""
        store = self._stores[observe_id]
        index = {row["asset"]: row for row in store.index().to_pylist()}
        rows = [index[asset] for asset in assets]
        shards = {row["evidence_key"]: row["shard"] for row in index.values() if row["shard"]}
        wanted = {(shards[row["evidence_key"]], row["evidence_key"]) for row in rows}
        found = {row["evidence_key"]: evidence_record.decode(row) for row in store.read(sorted(wanted))}
        return {row["asset"]: found[row["evidence_key"]] for row in rows}

    def _notes(self, observe_id: str) -> str:
        return storage.join(self._folder, "observed", observe_id[:16])

    def _reader(self, config: ObserveConfig, observe_id: str) -> ReadStage:
        images, forgotten = self._source.past.config.images, Forgotten.load(self._source.output)
        sides = config.picture_px, config.tile_above_px
        return ReadStage(ReadConfig(observe_id, *sides, images.max_pixels, images.read_threads, forgotten))

    def _records(self, read: ReadStage, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        for start in range(0, len(rows), SHARD_IMAGES):
            futures = []
            for row in rows[start : start + SHARD_IMAGES]:
                hints = weak_labels.hints(json.loads(row["weak"] or "{}"))
                told = {"asset": row["asset"], "uri": row["uri"], "size_bytes": 0, "mtag": "", "hints": hints}
                futures.append(read.submit({**told, "hints_digest": digest(hints) if hints else ""}))
            records = [future.result() for future in futures]
            for record, row in zip(records, rows[start:], strict=False):
                if record["outcome"] != "ok":
                    raise RunFailed(f"{row['uri']} cannot be observed again: {record['reason']}")
                if record["digest"] != row["digest"]:
                    raise RunFailed(f"{row['uri']} has other bytes now than when it was labeled: label it again")
            yield records
