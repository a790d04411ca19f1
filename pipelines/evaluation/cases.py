"""Images that are decided again and again: evidence, weak labels and gold, loaded from a labeled output."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models import class_masks
from models import evidence as evidence_record
from models.class_masks import ClassMasks
from models.decide.config import DecideConfig
from models.decide.decide import marked_classes, noted_classes
from models.decide.seeds import has_seeds
from models.decide.types import ClassArrays, TextBank, WeakArrays
from models.evidence import Evidence
from pipelines import execution, storage
from pipelines import weak as weak_labels
from pipelines.config import UsageError
from pipelines.evaluation.compare import PastRuns
from pipelines.evaluation.config import GoldConfig
from pipelines.evaluation.gold import Gold, Matching, match, open_gold, read_names
from pipelines.evaluation.runs import PastRun
from pipelines.flow import observing, second
from pipelines.flow.listing import Wanted
from pipelines.flow.progress import say
from pipelines.flow.run import Run, decide_digest
from pipelines.tables.evidence import DATA, MASKS
from pipelines.tables.labels import LabelTable

COLUMNS = ("asset", "uri", "digest", "weak", "weak_digest", "evidence_key", "label_key", "run_id", "class_set_digest")


@dataclass(frozen=True)
class Case:
    """One image. gold: int16 [H, W], common indices (`Cases.names`), their number where a pixel is not judged; None
    without gold."""

    asset: str
    evidence: Evidence
    weak: WeakArrays
    of_classes: tuple[ClassMasks, ...]
    gold: npt.NDArray[np.int16] | None


@dataclass(frozen=True)
class Cases:
    """names: what the common indices mean. index_of: int16 [highest id + 1], class id to common index."""

    items: tuple[Case, ...]
    text: TextBank
    classes: ClassArrays
    names: tuple[str, ...]
    index_of: npt.NDArray[np.int16]

    @property
    def nbytes(self) -> int:
        """About what the arrays take."""
        return sum(
            one.evidence.features.nbytes
            + one.evidence.bank.probs.nbytes
            + one.evidence.guide.nbytes
            + (one.gold.nbytes if one.gold is not None else 0)
            + sum(masks.bank.probs.nbytes for masks in one.of_classes)
            + sum(m.nbytes for m in (one.weak.partial, one.weak.noisy) if m is not None)
            for one in self.items
        )


@dataclass(frozen=True)
class Source:
    """Where the cases come from. rows: label rows, by asset."""

    output: str
    snapshot: int
    past: PastRun
    gold: Gold | None
    matching: Matching
    rows: tuple[dict[str, Any], ...]

    @property
    def base(self) -> DecideConfig:
        """The settings that the newest labels were made with."""
        return self.past.config.decide


def open_source(labels: str, snapshot: int | None, told: GoldConfig | None) -> Source:
    """The label rows of an output, of those with a gold mask where there is gold to compare with. Raises UsageError
    where there are none."""
    output = storage.absolute(labels)
    table = LabelTable(storage.join(output, "labels"))
    snapshot = table.version() if snapshot is None else snapshot
    if snapshot is None:
        raise UsageError(f"--labels: {output} has no published labels")
    rows = [row for batch in table.newest(COLUMNS, version=snapshot) for row in batch.to_pylist()]
    if not rows:
        raise UsageError(f"--labels: snapshot {snapshot} of {output} has no label")
    past = PastRuns(output)[max(row["run_id"] for row in rows)]
    if any(row["class_set_digest"] != past.classes.digest for row in rows):
        raise UsageError("--labels: the labels were made with several class sets; label the corpus with one")
    gold = None
    if told is not None:
        only = None if told.list is None else read_names(told.list)
        gold = open_gold(told.uri, told.split, told.classes, past.classes, told.ignore, only, ())
        rows = [row for row in rows if gold.name_of(row["asset"]) is not None]
        if not rows:
            raise UsageError(f"--gold: none of the {len(gold.masks)} masks belongs to a labeled image")
    ignore = GoldConfig.model_fields["ignore"].default if told is None else told.ignore
    matching = match(gold.classes if gold else past.classes, past.classes, ignore)
    return Source(output, snapshot, past, gold, matching, tuple(sorted(rows, key=lambda row: str(row["asset"]))))


def with_evidence(source: Source) -> Source:
    """The source without the images whose evidence is gone, which are told. Raises UsageError where none is left."""
    shards = source.past.shards
    rows = tuple(row for row in source.rows if row["evidence_key"] in shards)
    if not rows:
        raise UsageError(f"--labels: the evidence of {source.output} is gone, or was made by another run")
    if len(rows) < len(source.rows):
        say(f"{len(source.rows) - len(rows)} images have no evidence of the newest run, and are left out")
    return replace(source, rows=rows)


def load(source: Source, rows: Sequence[Mapping[str, Any]]) -> Cases:
    """Decode these of the source's rows, in their order. Images whose evidence is gone are told and left out.

    Raises UsageError where none is left, ValueError for gold of another size.
    """
    run = run_of(source)
    places, class_ids = _places(source, run, rows)
    extra = _second(run, places, class_ids)
    stored: dict[str, dict[str, Any]] = {}
    wanted = [(place[0], place[1]) for place, _ in places.values()]
    for found in run.store.read(wanted, DATA.names):
        stored[found["evidence_key"]] = found
    items = []
    for row in rows:
        if row["asset"] not in places or row["evidence_key"] not in stored:
            continue
        _, others = places[row["asset"]]
        seen = [extra[key] for *_, key in others]
        items.append(_case(source, row, stored[row["evidence_key"]], seen))
    if len(items) < len(rows):
        say(f"{len(rows) - len(items)} of {len(rows)} images have no evidence of the newest run, and are left out")
    if not items:
        raise UsageError(f"--labels: the evidence of {source.output} is gone, or was made by another run")
    matching = source.matching
    ids = np.arange(max(int(source.past.classes.arrays().ids.max()), 0) + 1)
    index_of = matching.label(ids).astype(np.int16)
    return Cases(tuple(items), source.past.text, source.past.classes.arrays(), matching.names, index_of)


def _case(source: Source, row: Mapping[str, Any], stored: Mapping[str, Any], seen: Sequence[ClassMasks]) -> Case:
    evidence = evidence_record.decode(stored)
    size = (evidence.height, evidence.width)
    classes = source.past.classes
    valid, _ = weak_labels.validate(json.loads(row["weak"] or "{}"), classes, size)
    gold = None
    if source.gold is not None:
        mask = source.gold.read(str(source.gold.name_of(row["asset"])))
        if mask.shape != size:
            raise ValueError(f"{row['asset']}: the image has {size} pixels, its gold mask {mask.shape}")
        indices = source.matching.gold(mask)
        gold = np.where(indices < 0, len(source.matching.names), indices).astype(np.int16)
    return Case(row["asset"], evidence, weak_labels.to_arrays(valid, classes, *size), tuple(seen), gold)


def run_of(source: Source) -> Run:
    """The past run as the steps of the labeling job know it, in the folder where its output lies now, before anything
    was learned."""
    past = source.past
    config = past.config.model_copy(update={"output": source.output})
    plain = execution.layout(1, 0, "cpu", 1, 0)
    decided_by = decide_digest(config.decide, past.clip_digest, past.knowledge)
    return Run(config, past.classes, past.observe_id, decided_by, {"clip": past.clip_digest}, plain, past.knowledge)


def look_up(run: Run, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Wanted], observing.Known]:
    """Label rows as the labeling job wants them, and what evidence there is of them. Rows without any are left out."""
    read = (row for row in run.store.index().to_pylist() if row["outcome"] == "ok")
    indexed = {(row["asset"], row["evidence_key"]): row for row in read}
    both = ((row, indexed.get((row["asset"], row["evidence_key"]))) for row in rows)
    wanted = [_wanted(row, found) for row, found in both if found is not None]
    return wanted, observing.look_up(run, wanted)


Place = tuple[str, str, str]


def _places(
    source: Source, run: Run, rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, tuple[Place, list[Place]]], dict[str, Mapping[int, int]]]:
    """By asset: (shard, key, digest) of its evidence, and (observe id, shard, key) of each of the second kind. And by
    observe id: stored class id to the class set's, where they differ."""
    wanted, known = look_up(run, rows)
    kinds = []
    for kind in _kinds(run):
        kind.look_up(wanted, known)
        kinds.append(kind)
    second.join(known, kinds)
    class_ids = {kind.run.observe_id: ids for kind in kinds if (ids := kind.class_ids()) is not None}
    return {asset: (found, known.second.get(asset, [])) for asset, found in known.evidence.items()}, class_ids


def _kinds(run: Run) -> list[second.Second]:
    """The second kinds, as the device that has evidence here made them."""
    found: list[second.Second] = []
    for device in ("cpu", "cuda"):
        found = second.kinds(replace(run, layout=replace(run.layout, device=device)))
        if all(storage.list_files(kind.run.store.url) for kind in found):
            break
    return found


def _wanted(row: Mapping[str, Any], indexed: Mapping[str, Any]) -> Wanted:
    return Wanted(
        asset=row["asset"],
        uri=row["uri"],
        size_bytes=indexed["size_bytes"],
        mtag=indexed["mtag"],
        tags="",
        weak=row["weak"],
        weak_digest=row["weak_digest"],
        weak_problems=(),
        hints="",
        hints_digest=indexed["hints_digest"],
    )


def _second(
    run: Run, places: Mapping[str, tuple[Place, list[Place]]], class_ids: Mapping[str, Mapping[int, int]]
) -> dict[str, ClassMasks]:
    """Evidence of the second kind by its key."""
    by_id: dict[str, list[tuple[str, str]]] = {}
    for _, others in places.values():
        for observe_id, shard, key in others:
            by_id.setdefault(observe_id, []).append((shard, key))
    found = {}
    for observe_id, wanted in by_id.items():
        for row in run.store.beside(observe_id).read(wanted, MASKS):
            found[row["evidence_key"]] = class_masks.decode(row).renamed(class_ids.get(observe_id))
    return found


def given(cases: Iterable[Case], classes: ClassArrays, text: TextBank) -> frozenset[str]:
    """What there is in these images for settings to work on: models.decide.config.Given."""
    learned = {"learned": text.head, "references": text.references, "bias": text.bias}
    found = {name for name, one in learned.items() if one is not None}
    for case in cases:
        found |= _given(case.weak, classes, case.of_classes)
    return frozenset(found)


def _given(weak: WeakArrays, classes: ClassArrays, of_classes: Collection[ClassMasks]) -> set[str]:
    present = weak.present if weak.present is not None else np.zeros_like(weak.absent)
    must = present | marked_classes(weak, classes)
    sure = must | (noted_classes(weak, classes) & ~weak.absent)
    gated = classes.background_id is not None
    competing = bool((~sure & ~weak.absent).any())
    makers = {masks.made_by for masks in of_classes}
    flags = {
        # Classes that nobody named take part by their presence; so do those of noisy maps, for its power.
        "open": competing or bool((sure & ~must).any()),
        "hinted": gated and competing and bool(sure.any()),
        "unhinted": gated and competing and not sure.any(),
        "named": bool(must.any()),
        "points": len(weak.points) > 0,
        "seeds": has_seeds(weak, people=False),
        "boxes": len(weak.boxes) > 0,
        "noisy": weak.noisy is not None,
    }
    return {name for name, there in flags.items() if there} | makers
