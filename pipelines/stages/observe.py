"""Observe: the actors that turn pictures into evidence. They hold the models, and nothing else does."""

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.stages.base import Record
from pipelines.stages.coordinator import DEATHS_ALONE
from pipelines.stages.read import ReadConfig, ReadStage, quarantine
from pipelines.tables.evidence import DATA, INDEX

# Pictures of so many chunks wait in memory while the device works on one.
READ_AHEAD_CHUNKS = 2


class ModelStage:
    """A model as a stage: `prepare` on the host, `forward` on the device, `finish` on the host, for a few records."""

    def prepare(self, record: Record) -> Any:
        raise NotImplementedError

    def forward(self, prepared: list[Any]) -> Any:
        raise NotImplementedError

    def finish(self, raw: Any, records: list[Record]) -> None:
        """Put the results into the records."""
        raise NotImplementedError


@dataclass(frozen=True)
class PoolConfig:
    """What an actor of the pool needs to know.

    build: makes the model stage, called once in the actor. read: how to read images, None for a pool that gets pictures
    from the pool before it. columns: what the pool gives on, as Arrow fields.
    """

    build: Callable[[], ModelStage]
    read: ReadConfig | None
    columns: pa.Schema
    chunk_images: int
    threads: int


class ObservePool:
    """The function that Ray Data runs in every actor of the pool: a block of asset rows in, a block of evidence out."""

    def __init__(self, config: PoolConfig, coordinator: Any) -> None:
        limit_threads(config.threads)
        self.config = config
        self.coordinator = coordinator
        self.read = ReadStage(config.read) if config.read else None
        self.model = config.build()
        # One thread finishes a chunk while the device works on the next.
        self.host = ThreadPoolExecutor(1, thread_name_prefix="finish")

    def __call__(self, block: pa.Table) -> pa.Table:
        records = [unpack(row) for row in block.to_pylist()]
        assets = [record["asset"] for record in records]
        died = self._ask("begin", assets)
        started = time.perf_counter()
        records = [self._alone(record) for record in records] if died else self._process(records)
        self._ask("end", assets)
        seconds = time.perf_counter() - started
        for record in records:
            record["pool_seconds"] = record.get("pool_seconds", 0.0) + seconds / len(records)
        return to_table(records, self.config.columns)

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self.coordinator, method).remote(*arguments))

    def _alone(self, record: Record) -> Record:
        """Process one image by itself, unless it was alone in hand when its process died before."""
        deaths = self._ask("begin_alone", record["asset"])
        if deaths >= DEATHS_ALONE:
            reason = f"the process that handled this image died {deaths} times while it had no other in hand"
            return quarantine(record, "observe", "kills_its_process", reason)
        [record] = self._process([record])
        self._ask("end", [record["asset"]])
        return record

    def _process(self, records: list[Record]) -> list[Record]:
        finishing = []
        for chunk in self._read(records):
            chosen = self._claimed(chunk)
            if chosen:
                finishing.append(self._model(chosen))
        for future in finishing:
            future()
        return records

    def _read(self, records: list[Record]) -> Iterator[list[Record]]:
        """The records in chunks, the next two being read meanwhile: the device waits for the first chunk only."""
        size = self.config.chunk_images
        chunks = [records[i : i + size] for i in range(0, len(records), size)]
        if self.read is None:
            yield from chunks
            return
        waiting: deque[list[tuple[Record, Future[Record]]]] = deque()
        for ahead in range(len(chunks) + READ_AHEAD_CHUNKS):
            if ahead < len(chunks):
                waiting.append([(record, self.read.submit(record)) for record in chunks[ahead]])
            if ahead < READ_AHEAD_CHUNKS:
                continue
            reading = waiting.popleft()
            for record, future in reading:
                try:
                    future.result()
                except Exception as error:
                    fail(record, "read", error)
            yield [record for record, _ in reading]

    def _claimed(self, records: list[Record]) -> list[Record]:
        """Those whose bytes nobody has observed and nobody else is observing."""
        good = [record for record in records if record.get("outcome") == "ok"]
        if not good or self.read is None:
            return [record for record in good if "picture" in record]
        claims = self._ask("claim", [r["evidence_key"] for r in good], [r["asset"] for r in good])
        for record, claim in zip(good, claims, strict=True):
            if not claim:
                record.pop("picture", None)
        return [record for record, claim in zip(good, claims, strict=True) if claim]

    def _model(self, records: list[Record]) -> Callable[[], None]:
        """Start the model on the records; the returned function waits until the results are in them."""
        try:
            raw = self.model.forward([self.model.prepare(record) for record in records])
        except Exception:
            self._one_by_one(records)
            return lambda: None
        future = self.host.submit(self.model.finish, raw, records)

        def wait() -> None:
            try:
                future.result()
            except Exception:
                self._one_by_one(records)

        return wait

    def _one_by_one(self, records: list[Record]) -> None:
        """A chunk failed: find the images that fail by themselves, and lose no other."""
        for record in records:
            try:
                self.model.finish(self.model.forward([self.model.prepare(record)]), [record])
            except Exception as error:
                fail(record, "observe", error)


def limit_threads(threads: int) -> None:
    """One process an actor and as many actors as cores: more threads would only get in each other's way."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def fail(record: Record, stage: str, error: Exception) -> None:
    """Mark the record as one that we failed on; it is done again by the next run."""
    text = "".join(traceback.format_exception(error, limit=-3)).strip()
    record.update(outcome="failed", stage=stage, error=type(error).__name__, reason=text)


def pool_columns(*more: pa.Field) -> pa.Schema:
    """What a pool gives on: the index columns, the evidence columns and `more`."""
    evidence = [field for field in DATA if field.name not in INDEX.names and field.name != "schema_version"]
    index = [field for field in INDEX if field.name not in ("shard", "run_id", "schema_version")]
    return pa.schema([*index, *evidence, pa.field("pool_seconds", pa.float64()), *more])


ARRAY = pa.struct([("dtype", pa.string()), ("shape", pa.list_(pa.int32())), ("data", pa.binary())])


def to_table(records: Iterable[Record], columns: pa.Schema) -> pa.Table:
    """Records as an Arrow table of exactly `columns`; NumPy arrays travel as ARRAY structs."""
    return pa.Table.from_pylist([{n: _pack(r.get(n)) for n in columns.names} for r in records], schema=columns)


def _pack(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [_pack(item) for item in value]
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "data": value.tobytes()}
    return value


def unpack(row: Record) -> Record:
    """The record of an Arrow row: columns that are null are absent, ARRAY structs are arrays again."""
    return {name: _array(value) for name, value in row.items() if value is not None}


def _array(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_array(item) for item in value]
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "data"}:
        return np.frombuffer(value["data"], dtype=value["dtype"]).reshape(value["shape"])
    return value
