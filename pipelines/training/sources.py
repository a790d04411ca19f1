"""From what the config names to a plan: which images train, validate or are unlabeled, and where their targets are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.classes import ClassSet, ClassSetError
from pipelines.config import ImagesConfig, UsageError
from pipelines.corpus.base import Asset, CorpusError
from pipelines.evaluation.gold import read_names
from pipelines.forgetting.memory import Forgotten
from pipelines.training.config import TrainConfig
from pipelines.training.gold_source import GoldImages, open_gold_images
from pipelines.training.groups import groups, split
from pipelines.training.label_source import open_labels
from pipelines.training.plan import NO_SOURCE, Images, Indices, Plan
from pipelines.training.targets import Channels, TargetSource

#: The recipes that look at images without labels.
USE_UNLABELED = ("semi_supervised", "distill")


@dataclass
class Prepared:
    """All that a training reads. snapshot: version of the label table, None without labels. validated_by: what the
    validation's targets are: "gold", "labels" or "nothing". corpus: what was labeled, or the gold. remarks: what a
    person should know."""

    plan: Plan
    sources: list[TargetSource]
    channels: Channels
    classes: ClassSet
    snapshot: int | None
    validated_by: str
    corpus: str
    remarks: list[str] = field(default_factory=list)


def prepare(config: TrainConfig, snapshot: int | None) -> Prepared:
    """Read tables and listings; opens no picture, but every gold mask once.

    snapshot: the version to pin, None for the newest. Raises UsageError for whatever cannot be trained on.
    """
    try:
        return _prepare(config, snapshot)
    except (ClassSetError, CorpusError) as error:
        raise UsageError(str(error)) from error


def _prepare(config: TrainConfig, snapshot: int | None) -> Prepared:
    remarks: list[str] = []
    sources: list[TargetSource] = []
    exclude = set(read_names(config.exclude))
    labels = None
    if config.labels is not None:
        labels = open_labels(config, snapshot, len(sources))
        sources.append(labels.source)
    gold = None
    if config.gold.uri is not None:
        gold = open_gold_images(config.gold, labels.classes if labels else None, exclude, len(sources))
        sources.append(gold.source)
    classes = labels.classes if labels else gold.classes if gold else None
    assert classes is not None, "the config was checked: there are labels or gold"
    gold_validates = gold is not None and labels is not None and config.gold.use != "train"

    train_parts = []
    if labels is not None:
        rows, told = _allowed(labels.images, exclude, gold if gold_validates else None)
        remarks += told
        train_parts.append(labels.images.take(rows))
    if gold is not None and not gold_validates:
        train_parts.append(gold.images)
    known = [*train_parts, *([gold.images] if gold else [])]
    unlabeled = _unlabeled(config, gold, known, exclude, remarks)
    parts = [*train_parts, *([gold.images] if gold_validates and gold else []), *unlabeled]
    channels = Channels.of(classes)
    images = Images.join(parts)
    plan, validated_by = _roles(config, images, sum(map(len, train_parts)), gold if gold_validates else None)
    if not len(plan.train):
        raise UsageError("no image is left to train on (after --exclude and the validation split)")
    version = labels.snapshot if labels else None
    corpus = labels.corpus if labels else str(config.gold.uri)
    return Prepared(plan, sources, channels, classes, version, validated_by, corpus, remarks)


def _roles(config: TrainConfig, images: Images, trained: int, gold: GoldImages | None) -> tuple[Plan, str]:
    """trained: so many of the first images have targets to learn from; gold, if given, follows and validates."""
    data = config.data
    train = np.arange(trained)
    gold_count = len(gold.images) if gold else 0
    unlabeled = np.arange(trained + gold_count, len(images))
    if gold is not None:
        rows = np.arange(trained, trained + gold_count)
        if gold_count > data.validation_images:
            picked = np.random.default_rng([config.seed, 2]).permutation(gold_count)[: data.validation_images]
            rows = trained + np.sort(picked)
        return Plan(images, train, rows, unlabeled), "gold"
    if not data.validation_share:
        return Plan(images, train, np.arange(0), unlabeled), "nothing"
    head = images.take(train)
    group_of = groups(head.assets.to_pylist(), list(_texts(head.digests)), data.group_by, data.validation_share)
    stay, aside = split(group_of, data.validation_share, data.validation_images, config.seed)
    if not len(aside):
        raise UsageError(
            f"data.validation_share {data.validation_share} of {trained} images in {len(set(group_of.tolist()))} "
            "groups sets no group aside: give a larger share, another data.group_by, or gold masks; 0 validates nothing"
        )
    return Plan(images, stay, aside, unlabeled), "labels" if config.labels is not None else "gold"


def _texts(values: Sequence[str] | pa.StringArray) -> Iterable[str]:
    return values.to_pylist() if isinstance(values, pa.Array) else values


def _allowed(images: Images, exclude: set[str], gold: GoldImages | None) -> tuple[Indices, list[str]]:
    """Rows of labeled images that may be trained on: not excluded, and not what gold validates with."""
    keep, left_out, validating = [], 0, 0
    for row, asset in enumerate(images.assets.to_pylist()):
        if _names(asset) & exclude:
            left_out += 1
        elif gold is not None and gold.has(asset):
            validating += 1
        else:
            keep.append(row)
    told = [f"{left_out:,} labeled images are excluded"] if left_out else []
    told += [f"{validating:,} labeled images are gold, and validate instead"] if validating else []
    return np.array(keep, np.int64), told


def _names(asset: str) -> set[str]:
    """What a list of image names may call it."""
    stem = asset.rpartition(".")[0] or asset
    return {asset, stem, stem.rpartition("/")[2]}


@dataclass
class _Corpus:
    """What `open_corpus` wants to know of the unlabeled images."""

    corpus: str
    split: str | None
    weak_file: str | None = None
    weak: tuple[str, ...] = ()
    images: ImagesConfig = field(default_factory=ImagesConfig)


def _unlabeled(
    config: TrainConfig, gold: GoldImages | None, known: list[Images], exclude: set[str], remarks: list[str]
) -> list[Images]:
    """Images without targets, without those that have one, are excluded, or were forgotten where the labels are."""
    from pipelines.corpus.open import open_corpus

    found: list[Asset] = []
    if config.gold.rest_unlabeled and gold is not None:
        found += gold.rest
    if config.unlabeled is not None:
        found += open_corpus(_Corpus(config.unlabeled, config.unlabeled_split)).list()
    taken = {uri for part in known for uri in part.uris.to_pylist()}
    memory = Forgotten.load(storage.absolute(config.labels)) if config.labels else Forgotten()
    free = [asset for asset in found if asset.uri not in taken and not _names(asset.asset) & exclude]
    free = [a for a in free if not memory.holds("uri", a.uri) and not memory.holds("asset", a.asset)]
    rows: dict[str, Asset] = {asset.uri: asset for asset in free}
    if found and not rows:
        raise UsageError("every unlabeled image has a label or a mask, or is excluded: leave --unlabeled out")
    if config.data.unlabeled_ratio == 0 or not rows:
        return []
    if config.recipe not in USE_UNLABELED:
        remarks.append(
            f"the {len(rows):,} unlabeled images are not used: the recipe {config.recipe} learns from labels"
        )
        return []
    return [without_targets(list(rows.values()), known[0].areas.shape[1])]


def without_targets(assets: Sequence[Any], channels: int) -> Images:
    """Rows for images that nothing is known of; assets: anything with `asset` and `uri`."""
    count = len(assets)
    return Images(
        pa.array([asset.asset for asset in assets], pa.string()),
        pa.array([asset.uri for asset in assets], pa.string()),
        np.full(count, NO_SOURCE, np.int8),
        np.zeros(count, np.int64),
        (np.arange(count) // 256).astype(np.int32),
        np.zeros((count, channels), np.float16),
        np.ones(count, np.float32),
        pa.array([""] * count, pa.string()),
    )
