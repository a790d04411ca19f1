"""Decide: stored evidence, class set and weak labels to label rows. Reads no image and needs no GPU."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from models import class_masks
from models import evidence as evidence_record
from models.class_masks import ClassMasks
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.types import Label, TextBank, WeakArrays
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.stages.base import Record, StageSpec
from pipelines.stages.judge import Judge
from pipelines.stages.observe import fail, limit_threads
from pipelines.tables.evidence import DATA, MASKS, EvidenceStore
from pipelines.tables.human import HumanTable, paint
from pipelines.tables.labels import SCHEMA, SCHEMA_VERSION, LabelTable, human_digest
from pipelines.tables.pictures import png
from pipelines.tables.pictures import read_png as read_png

# What a block of work says of each asset.
WORK = pa.schema(
    [
        ("asset", pa.string()),
        ("uri", pa.string()),
        ("digest", pa.string()),
        ("evidence_key", pa.string()),
        ("shard", pa.string()),
        ("second", pa.string()),  # JSON list of [observe id, shard, evidence key], or ""
        ("weak", pa.string()),
        ("weak_digest", pa.string()),
        ("weak_problems", pa.list_(pa.string())),
        ("human", pa.string()),  # JSON list of the ids of people's corrections, in order, or ""
        ("label_key", pa.string()),
        ("cause", pa.string()),
    ]
)

# The cause of work whose label is as it should be; it is decided once more, and not published.
RECHECK = "recheck"

SPEC = StageSpec(
    name="decide",
    needs=tuple(name for name in WORK.names if name not in ("label_key", "cause", "weak_digest", "weak_problems")),
    adds=tuple(name for name in SCHEMA.names if name not in WORK.names),
    pool="decide",
)

SUMMARY = pa.schema(
    [
        ("rows", pa.int64()),
        ("file", pa.string()),
        ("size_bytes", pa.int64()),
        ("weak_problems", pa.int64()),
        ("pool_seconds", pa.float64()),
        ("failures", pa.string()),  # JSON list of [asset, stage, reason]
    ]
)


@dataclass(frozen=True)
class DecideStageConfig:
    """All that a worker needs. prefix: of the names of the files it writes; strict: a bad weak label is a failure;
    class_ids: by observe id of evidence of the second kind, stored class id to the class set's, where they differ;
    judge: what it says of finished labels."""

    store: EvidenceStore
    labels_url: str
    human_url: str
    prefix: str
    classes: ClassSet
    text: TextBank
    config: DecideConfig
    decide_digest: str
    head_digest: str
    sequence: int
    run_id: str
    created_at: datetime
    strict: bool
    class_ids: Mapping[str, Mapping[int, int]]
    judge: Judge = field(default_factory=Judge)


class DecideStage:
    """Ray Data runs this in a pool of CPU actors: a block of work in, the name of a staged file of labels out."""

    def __init__(self, config: DecideStageConfig) -> None:
        limit_threads(1)
        self.config = config
        self.classes = config.classes.arrays()
        self.table = LabelTable(config.labels_url)
        self.human = HumanTable(config.human_url)
        background = config.classes.background
        self.names = {entry.id: entry.name for entry in config.classes.classes}
        self.names |= {background.id: "background"} if background else {}

    def __call__(self, block: pa.Table) -> pa.Table:
        started = time.perf_counter()
        work = block.to_pylist()
        rows, failures = [], []
        by_key: dict[str, list[Record]] = {}
        for item in work:
            by_key.setdefault(item["evidence_key"], []).append(item)
        second, corrections = self.second(work), self.corrections(work)
        for found in self.config.store.read([(item["shard"], item["evidence_key"]) for item in work], DATA.names):
            for item in by_key.pop(found["evidence_key"], []):
                try:
                    rows.append(self.label(found, item, second, corrections.get(item["asset"], [])))
                except Exception as error:
                    fail(item, "decide", error)
                    failures.append([item["asset"], "decide", item["reason"]])
        failures += [[i["asset"], "decide", "its evidence is gone"] for items in by_key.values() for i in items]
        name, size = "", 0
        if rows:
            table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["asset"]), schema=SCHEMA)
            prefix = RECHECK if work[0]["cause"] == RECHECK else self.config.prefix
            file = self.table.write_file(f"{prefix}-{uuid.uuid4().hex}.parquet", table)
            name, size = file.name, file.size_bytes
        problems = sum(len(row["weak_problems"]) for row in rows)
        summary = [len(rows), name, size, problems, time.perf_counter() - started, json.dumps(failures)]
        return pa.Table.from_pylist([dict(zip(SUMMARY.names, summary, strict=True))], schema=SUMMARY)

    def second(self, work: list[Record]) -> dict[str, ClassMasks]:
        """Evidence of the second kind for all of a block, by its key."""
        wanted: dict[str, list[tuple[str, str]]] = {}
        for item in work:
            for observe_id, shard, key in json.loads(item["second"] or "[]"):
                wanted.setdefault(observe_id, []).append((shard, key))
        found = {}
        for observe_id, places in wanted.items():
            for row in self.config.store.beside(observe_id).read(places, MASKS):
                found[row["evidence_key"]] = class_masks.decode(row).renamed(self.config.class_ids.get(observe_id))
        return found

    def corrections(self, work: list[Record]) -> dict[str, list[Record]]:
        """What people corrected in the assets of a block, as far as it counts for their bytes."""
        wanted = {item["asset"]: set(json.loads(item["human"])) for item in work if item["human"]}
        found = self.human.read(set(wanted))
        return {asset: [one for one in found[asset] if one["id"] in ids] for asset, ids in wanted.items()}

    def label(
        self,
        stored: Mapping[str, Any],
        item: Record,
        second: Mapping[str, ClassMasks],
        corrections: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The label row of one asset."""
        evidence = evidence_record.decode(stored)
        size = (evidence.height, evidence.width)
        weak, problems = weak_labels.validate(json.loads(item["weak"] or "{}"), self.config.classes, size)
        told = list(item["weak_problems"] or []) + [str(problem) for problem in problems]
        if told and self.config.strict:
            raise ValueError("--strict: " + "; ".join(told))
        arrays = weak_labels.to_arrays(weak, self.config.classes, *size)
        if corrections:
            human, unused = paint(corrections, self.config.classes, size)
            arrays = replace(arrays, human=human)
            told += unused + overruled(arrays)
        of_classes = [second[key] for *_, key in json.loads(item["second"] or "[]")]
        label = decide(evidence, self.config.text, self.classes, arrays, self.config.config, of_classes)
        return {
            **{name: item[name] for name in ("asset", "uri", "digest", "weak", "evidence_key", "weak_digest")},
            **{name: item[name] for name in ("label_key", "cause")},
            **self._columns(label),
            **self.config.judge.columns(label, evidence, arrays, self.classes, self.config.text),
            "sequence": self.config.sequence,
            "removed": False,
            "height": evidence.height,
            "width": evidence.width,
            "weak_problems": told,
            "class_set_digest": self.config.classes.digest,
            "decide_digest": self.config.decide_digest,
            "head_digest": self.config.head_digest,
            "human_digest": human_digest(item["human"]),
            "run_id": self.config.run_id,
            "created_at": self.config.created_at,
            "schema_version": SCHEMA_VERSION,
        }

    def _columns(self, label: Label) -> dict[str, Any]:
        names = self.names
        areas = [
            {"class_id": i, "name": names[i], "area": area, "kept": label.kept_areas.get(i, 0.0)}
            for i, area in sorted(label.areas.items())
        ]
        return {
            "class_map": png(label.class_map),
            "confidence": png(label.confidence),
            "provenance": png(label.provenance),
            "keep_threshold": label.keep_threshold,
            "coverage": label.coverage,
            "mean_confidence": label.mean_confidence,
            "disagreement": label.disagreement,
            "areas": areas,
        }


def overruled(weak: WeakArrays) -> list[str]:
    """Where people's corrections and the asset's own partial map contradict each other."""
    if weak.partial is None or weak.human is None:
        return []
    differ = int(((weak.partial >= 0) & (weak.human >= 0) & (weak.partial != weak.human)).sum())
    return [f"people's corrections overrule {differ:,} pixels of the partial map"] if differ else []
