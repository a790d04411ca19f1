"""A curve from confidence to the share that is right, fitted on gold masks and judged on images it did not see."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.decide.calibrate import LEVELS, Table, apply_table, isotonic_table, temperature_table
from models.decide.confidence import keep_threshold
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.metrics import Calibration, TradeOff, expand_quarter
from pipelines import storage
from pipelines.config import UsageError
from pipelines.evaluation.bootstrap import paired_interval
from pipelines.evaluation.cases import Source, load, open_source, with_evidence
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import digest
from pipelines.stages.observe import limit_threads
from pipelines.tracking import Tracker
from pipelines.training.groups import groups
from tuning.config import CalibrateConfig
from tuning.files import write_json, write_yaml

FITS = {"isotonic": isotonic_table, "temperature": temperature_table}
PART_IMAGES = 128
"""Images in memory at once."""
Counts = npt.NDArray[np.int64]
"""Judged pixels by level of confidence, and those of them that are right: int64 [N, 2, 256] of N images."""
Parts = npt.NDArray[np.int64]


def calibrate(config: CalibrateConfig) -> dict[str, Any]:
    """Fit, judge and write; what the last line of stdout says. Raises UsageError, RunFailed, Interrupted."""
    started = time.monotonic()
    limit_threads(1)
    source = with_evidence(open_source(config.labels, config.snapshot, config.gold))
    base = source.base
    if base.keep_policy == "per-class":
        raise UsageError("--labels: with keep_policy=per-class the confidence is bent by class; calibrate without it")
    parts(source.rows, config.folds, config.seed)
    plain = replace(base, confidence_table=())
    counts, rows = count(source, plain, config.execution.progress_seconds)
    part_of = parts(rows, config.folds, config.seed)
    judged = judge(counts, config.kind, base.confidence_table, part_of, config.seed)
    table = FITS[config.kind](*counts.sum(0))
    chosen = replace(base, confidence_table=table)
    result = {
        "labels": source.output,
        "snapshot": source.snapshot,
        "gold": source.gold.address if source.gold else None,
        "kind": config.kind,
        "images": len(counts),
        "folds": config.folds,
        **judged,
        "coverage": {"before": coverage(counts, base), "after": coverage(counts, chosen)},
        "decide": json.loads(json.dumps(dataclasses.asdict(chosen))),
        "seconds": round(time.monotonic() - started, 1),
    }
    folder = _write(config, source, result)
    say(sentence(result))
    say(f"yaml     {folder}/decide.yaml")
    _track(config, source, folder, result)
    kept = ("kind", "images", "calibration_error", "gain_interval_95", "helps", "coverage", "seconds")
    return {**{name: result[name] for name in kept}, "yaml": f"{folder}/decide.yaml"}


def count(source: Source, config: DecideConfig, progress_seconds: float) -> tuple[Counts, list[dict[str, Any]]]:
    """Decide every image, and count how right its confidence is; also the rows of those that have evidence."""
    progress = Progress("calibrate", len(source.rows), progress_seconds)
    row_of = {row["asset"]: row for row in source.rows}
    found, rows = [], []
    for start in range(0, len(source.rows), PART_IMAGES):
        cases = load(source, source.rows[start : start + PART_IMAGES])
        for case in cases.items:
            label = decide(case.evidence, cases.text, cases.classes, case.weak, config, case.of_classes)
            assert case.gold is not None
            levels = expand_quarter(label.confidence, *case.gold.shape).astype(np.uint8)
            known = case.gold < len(cases.names)
            image = TradeOff()
            image.update(levels[known], (cases.index_of[label.class_map] == case.gold)[known])
            found.append(np.stack([image.pixels, image.right]))
            rows.append(row_of[case.asset])
            progress.add(1)
    progress.close()
    return np.stack(found), rows


def parts(rows: Sequence[Mapping[str, Any]], folds: int, seed: int) -> Parts:
    """The part that each label row is in, near-duplicates in the same. Raises UsageError where one would be empty."""
    group_of = groups([row["asset"] for row in rows], [row["digest"] or "" for row in rows], "auto", 1 / folds)
    different = len(np.unique(group_of))
    if different < folds:
        raise UsageError(f"--folds {folds}: only {different} different labeled images have a gold mask")
    return (np.random.default_rng(seed).permutation(different) % folds)[group_of]


def judge(counts: Counts, kind: str, table: Table, part_of: Parts, seed: int) -> dict[str, Any]:
    """Calibration error before and after, of curves that never saw the image's part; `table` is the one of before."""
    before = np.stack([through(one, table) for one in counts])
    after = np.empty_like(before)
    for part in np.unique(part_of):
        unseen = part_of == part
        fitted = FITS[kind](*counts[~unseen].sum(0))
        after[unseen] = [through(one, fitted) for one in counts[unseen]]

    def gain(chosen: Sequence[int]) -> float:
        return error_of(before[chosen].sum(0)) - error_of(after[chosen].sum(0))

    interval = paired_interval(len(counts), gain, seed)
    errors = {"before": round(error_of(before.sum(0)), 5), "after": round(error_of(after.sum(0)), 5)}
    return {
        "calibration_error": errors,
        "gain_interval_95": interval and [round(value, 5) for value in interval],
        "helps": interval is not None and interval[0] > 0,
    }


def through(counts: Counts, table: Sequence[float]) -> Counts:
    """Counts int64 [2, 256] of one image as they are after a table, on the steps that a stored confidence has."""
    values = apply_table((np.arange(LEVELS) / (LEVELS - 1)).astype(np.float32), table)
    levels = np.rint(values * (LEVELS - 1)).astype(np.int64)
    return np.stack([np.bincount(levels, one, LEVELS) for one in counts]).astype(np.int64)


def error_of(counts: Counts) -> float:
    """Expected calibration error of counts int64 [2, 256], 0..1."""
    calibration = Calibration()
    calibration.update_counts(np.arange(LEVELS) / (LEVELS - 1), *counts)
    return calibration.error()


def coverage(counts: Counts, config: DecideConfig) -> float:
    """Share of the judged pixels that the policy keeps; counts: of confidence without a table."""
    kept = total = 0
    for image in counts:
        pixels = through(image, config.confidence_table)[0]
        mean = float(pixels @ np.arange(LEVELS)) / (LEVELS - 1) / max(int(pixels.sum()), 1)
        kept += int(pixels[round(keep_threshold(mean, config) * (LEVELS - 1)) :].sum())
        total += int(pixels.sum())
    return round(kept / max(total, 1), 4)


def sentence(result: dict[str, Any]) -> str:
    """What came out, for people."""
    error, interval = result["calibration_error"], result["gain_interval_95"]
    between = f", 95 % interval of the gain {interval[0]:+.4f} to {interval[1]:+.4f}" if interval else ""
    verdict = "it helps" if result["helps"] else "NOT shown to help: keep the confidence as it is"
    return (
        f"{result['kind']} on {result['images']:,} images, each judged unseen: calibration error {error['before']:.4f} "
        f"-> {error['after']:.4f}{between}: {verdict}"
    )


def _write(config: CalibrateConfig, source: Source, result: dict[str, Any]) -> str:
    gold = source.gold.digest_of(row["asset"] for row in source.rows) if source.gold else ""
    keys = [[row["asset"], row["label_key"]] for row in source.rows]
    name = f"{config.kind}-{digest([keys, gold, config.folds, config.seed])[:10]}"
    folder = storage.absolute(config.output or storage.join(source.output, "calibrations", name))
    comments = [f"{sentence(result)}.", "Give this file to label_corpus.py --config."]
    write_yaml(storage.join(folder, "decide.yaml"), {"decide": result["decide"]}, comments)
    write_json(storage.join(folder, "result.json"), result)
    return folder


def _track(config: CalibrateConfig, source: Source, folder: str, result: dict[str, Any]) -> None:
    settings = config.tracking
    experiment = settings.experiment or source.past.config.corpus
    name = folder.rsplit("/", 1)[-1]
    with Tracker(
        experiment,
        name,
        source.output,
        folder,
        uri=settings.uri,
        enabled=settings.enabled,
        parent=settings.parent,
        say=say,
    ) as tracker:
        tracker.params({**config.model_dump(mode="json"), "decide": result["decide"]})
        tracker.tags({"job": "calibrate", "labels": source.output, "helps": result["helps"]})
        tracker.metrics({name: result[name] for name in ("calibration_error", "coverage", "images")})
        tracker.snapshot(
            storage.join(source.output, "labels"), source.snapshot, f"labels in {source.output}", "calibration"
        )
        if source.gold is not None:
            tracker.dataset(config.gold.uri, source.gold.digest, f"gold {config.gold.uri}", "calibration")
        for file in ("decide.yaml", "result.json"):
            tracker.text(storage.read_bytes(storage.join(folder, file)).decode(), file)
