"""Fitting what predicts quality as a sequence of steps: find gold, decide by several labelers, judge, fit, store."""

import dataclasses
import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from models.quality.predictor import Predictor
from pipelines import storage
from pipelines.config import UsageError
from pipelines.evaluation.cases import Source, open_source, run_of, with_evidence
from pipelines.flow.learning import features_of
from pipelines.flow.progress import duration, say
from pipelines.quality.cards import Card, address, save
from pipelines.quality.config import FitQualityConfig
from pipelines.quality.present import table, track
from pipelines.quality.records import Groups, basis_of, collect, different, together
from pipelines.quality.report import fitted, report
from pipelines.stages.observe import limit_threads

MIN_IMAGES_A_FOLD = 4
"""The report leaves a fold out, and a model needs folds of its own of the rest."""


def fit_quality(config: FitQualityConfig) -> dict[str, Any]:
    """Run it all; what the last line of stdout says. Raises UsageError, Interrupted."""
    started = time.monotonic()
    limit_threads(1)
    source = _source(config)
    assert source.gold is not None
    _enough(together(source.rows, config.model.folds), config)
    labelers = different(config.labelers, source)
    say(f"decide: {len(source.rows):,} images with gold, by {len(labelers)} labelers: {', '.join(labelers)}")
    basis = basis_of(source)
    records = collect(source, labelers, basis, config.model.folds, config.progress_seconds)
    images = records.truth.shape[1]
    _enough(records.groups, config)
    say(f"report: {len(labelers)} labelers, left out one by one, on images that are left out too")
    numbers = report(
        records, config.model, config.bad_below, config.risk, config.refuse, config.splits, config.resamples
    )
    numbers["milliseconds_per_label"] = round(1000 * records.seconds, 2)
    model = fitted(records, range(len(labelers)), range(images), config.model)
    threshold = model.accept_threshold(config.bad_below, config.risk)
    run = run_of(source)
    card = Card(
        digest="",
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}",
        class_set=run.classes.digest,
        features=features_of(run),
        images=images,
        labelers=list(labelers),
        bad_below=config.bad_below,
        risk=config.risk,
        threshold=threshold if math.isfinite(threshold) else None,
        coverage=config.model.coverage,
        margin=model.margin if math.isfinite(model.margin) else 1.0,
        labels=source.output,
        snapshot=source.snapshot,
        gold=config.gold.uri,
        gold_digest=source.gold.digest,
        numbers=numbers,
    )
    output = storage.absolute(config.output or source.output)
    card = save(output, Predictor(model, basis, threshold), card)
    text = table(card)
    say(text)
    track(config, source, output, card, text)
    say(f"fit_quality: {duration(time.monotonic() - started)}; use it: --quality.use {_use(config, output)}")
    told = {name: value for name, value in dataclasses.asdict(card).items() if name != "numbers"}
    return {**told, **numbers, "card": address(output, card.digest, "json")}


def _enough(group_of: Groups, config: FitQualityConfig) -> None:
    images = len(np.unique(group_of))
    if images < MIN_IMAGES_A_FOLD * config.model.folds:
        raise UsageError(
            f"--gold: {images} different images with gold are too few to cut into {config.model.folds} folds of "
            f"{MIN_IMAGES_A_FOLD}: give more, or fewer --model.folds"
        )


def _use(config: FitQualityConfig, output: str) -> str:
    return output if config.output else "auto"


def _source(config: FitQualityConfig) -> Source:
    if config.gold.images is not None:
        raise UsageError("--gold.images means nothing here: labels are decided from stored evidence")
    return with_evidence(open_source(config.labels, config.snapshot, config.gold))
