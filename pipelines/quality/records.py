"""Labels of the same images by several labelers, with their signs and what they are truly worth."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.decide.baselines import heat_only, heat_par
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.types import WeakArrays
from models.quality.features import FEATURES, QualityBasis, label_features
from models.quality.model import image_miou
from pipelines import storage
from pipelines.config import UsageError
from pipelines.evaluation.cases import Case, Cases, Source, load
from pipelines.flow.progress import Progress, say
from pipelines.tables.labels import LabelTable
from pipelines.training.groups import groups

PART_IMAGES = 64
"""Images in memory at once."""
BASIS_IMAGES = 2000
"""Images whose embeddings say what the corpus looks like, at most."""
NO_CLASS = -1
Groups = npt.NDArray[np.int64]

CONFIGS: dict[str, Callable[[DecideConfig], DecideConfig]] = {
    "run": lambda config: config,
    "heat": heat_only,
    "heat_par": heat_par,
    "no_head": lambda config: replace(config, head_weight=0.0),
    "no_masks": lambda config: replace(config, mask_weight=0.0),
    "no_regions": lambda config: replace(config, region_share=0.0),
    "no_words": lambda config: replace(config, background_words_weight=0.0),
    "no_tags": lambda config: config,
}
BLIND = "no_tags"


@dataclass(frozen=True)
class Records:
    """L labelers' labels of n images. features: float32 [L, n, F]. truth: float64 [L, n], mean IoU. main: int [n], the
    largest class of the gold (common index) beside the background, NO_CLASS for none. groups: int [n], what must not be
    on both sides of a cut. seconds: CPU time that the signs of one label took."""

    labelers: tuple[str, ...]
    features: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float64]
    main: npt.NDArray[np.int64]
    groups: Groups
    names: tuple[str, ...]
    seconds: float


def different(labelers: Sequence[str], source: Source) -> tuple[str, ...]:
    """Those of the labelers that do not come to the same as one before them."""
    found: dict[Any, str] = {}
    for name in labelers:
        config = CONFIGS[name](source.base)
        if source.past.text.head is None:
            config = replace(config, head_weight=0.0)
        first = found.setdefault((config, name == BLIND), name)
        if first != name:
            say(f"{name}: comes to the same as {first}, and is left out")
    return tuple(found.values())


def together(rows: Sequence[Mapping[str, Any]], folds: int) -> Groups:
    """Group of each label row, int64 [n]: near-duplicates, which must not be on both sides where images are cut."""
    assets, digests = [str(row["asset"]) for row in rows], [row["digest"] or "" for row in rows]
    return groups(assets, digests, "auto", 1 / folds)


def collect(
    source: Source, labelers: Sequence[str], basis: QualityBasis, folds: int, progress_seconds: float
) -> Records:
    """Decide every image of the source by every labeler, from stored evidence. Images of which the gold judges nothing
    are left out. folds: that the images will be cut into."""
    progress = Progress("decide", len(source.rows) * len(labelers), progress_seconds, unit="label")
    features, truth, main, kept = [], [], [], []
    row_of = {row["asset"]: row for row in source.rows}
    seconds = 0.0
    names: tuple[str, ...] = ()
    for start in range(0, len(source.rows), PART_IMAGES):
        cases = load(source, source.rows[start : start + PART_IMAGES])
        names = cases.names
        for case in cases.items:
            assert case.gold is not None
            rows, worth = [], []
            for name in labelers:
                label = decide(
                    case.evidence, cases.text, cases.classes, _known(case, cases, name), CONFIGS[name](source.base),
                    case.of_classes,
                )  # fmt: skip
                began = time.process_time()
                rows.append(label_features(label, case.evidence, cases.classes, cases.text, basis))
                seconds += time.process_time() - began
                worth.append(image_miou(case.gold, cases.index_of[label.class_map], len(cases.names)))
            progress.add(len(labelers))
            if not np.isnan(worth).any():
                features.append(rows)
                truth.append(worth)
                main.append(_main_class(case, cases))
                kept.append(row_of[case.asset])
    progress.close()
    if not features:
        raise UsageError("--gold: the masks judge no pixel of any labeled image")
    each = seconds / max(1, progress.done)
    return Records(
        tuple(labelers),
        np.array(features, np.float32).reshape(-1, len(labelers), len(FEATURES)).transpose(1, 0, 2),
        np.array(truth).T,
        np.array(main),
        together(kept, folds),
        names,
        each,
    )


def _known(case: Case, cases: Cases, labeler: str) -> WeakArrays:
    return WeakArrays.none(len(cases.classes.ids)) if labeler == BLIND else case.weak


def _main_class(case: Case, cases: Cases) -> int:
    assert case.gold is not None
    counts = np.bincount(case.gold.ravel(), minlength=len(cases.names) + 1)[: len(cases.names)]
    if cases.classes.background_id is not None:
        counts[cases.index_of[cases.classes.background_id]] = 0
    return int(counts.argmax()) if counts.any() else NO_CLASS


def basis_of(source: Source) -> QualityBasis:
    """What the corpus looks like, from its labels and image embeddings, without gold: of at most BASIS_IMAGES images,
    the same ones in whatever order they come."""
    past = source.past
    table = LabelTable(storage.join(source.output, "labels"))
    rows = [
        row
        for batch in table.newest(["asset", "evidence_key", "areas"], version=source.snapshot, batch_rows=4096)
        for row in batch.to_pylist()
        if row["evidence_key"] in past.shards
    ]
    rows.sort(key=lambda row: hashlib.sha256(row["asset"].encode("utf-8", "surrogatepass")).digest())
    rows = rows[:BASIS_IMAGES]
    if not rows:
        raise UsageError(f"--labels: the evidence of {source.output} is gone, or was made by another run")
    row_of = {int(id): row for row, id in enumerate(past.classes.arrays().ids)}
    areas = np.zeros((len(rows), len(row_of)), np.float32)
    for number, row in enumerate(rows):
        for area in row["areas"]:
            if area["class_id"] in row_of:
                areas[number, row_of[area["class_id"]]] = area["area"]
    places = sorted({(past.shards[row["evidence_key"]], row["evidence_key"]) for row in rows})
    stored = past.store.read(places, ["embedding"])
    found = sorted((row["evidence_key"], row["embedding"]) for row in stored)
    return QualityBasis.fit(np.stack([np.frombuffer(one, "<f4") for _, one in found]), areas)
