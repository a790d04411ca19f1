"""Weighing sources as a sequence of steps: choose the images, ask, fit, compare, decide the gold again, write."""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.decide.config import DecideConfig
from models.decide.source_votes import fusion_weights
from pipelines import storage
from pipelines.ablation.compare import metrics_of, rounded
from pipelines.ablation.variants import Counted, Decisions, Part, Variant, parts_of
from pipelines.config import UsageError, config_digest
from pipelines.evaluation.bootstrap import paired_interval
from pipelines.evaluation.cases import Source, open_source, with_evidence
from pipelines.flow.progress import Progress, duration, say
from pipelines.flow.run import digest
from pipelines.learned import by_digest
from pipelines.stages.decide import read_png
from pipelines.stages.observe import limit_threads
from pipelines.tables.labels import LabelTable
from pipelines.training.groups import groups
from pipelines.weighing import judge
from pipelines.weighing.collect import LEVELS, Collector, Level, joined, seeded
from pipelines.weighing.config import WeighConfig
from pipelines.weighing.present import markdown, track, write

Weights = Mapping[str, float]


def weigh(config: WeighConfig, argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run it all; what the last line of stdout says. Raises UsageError, RunFailed, Interrupted."""
    started = time.monotonic()
    limit_threads(1)
    golden, others = _images(config)
    parts = [*(parts_of(golden, config.weak) if golden else ()), *parts_of(others, config.weak)]
    told = [config_digest(others.base), *(config_digest(one) for one in (config.sample, config.votes, config.model))]
    name = f"weights-{digest([_identity(parts), *told])[:10]}"
    folder = storage.absolute(config.output or storage.join(others.output, "weights", name))
    half = _halves(golden, len(others.rows), config.sample.seed)
    levels = _ask(config, parts)
    fits = {level: judge.fit(levels[level], half, config.model) for level in LEVELS}
    say(f"fitted, {duration(time.monotonic() - started)} from the start")
    pixels = fits["pixels"]
    weights = _weights(pixels.told or pixels.blind)
    result: dict[str, Any] = {
        "labels": others.output,
        "corpus": others.past.config.corpus,
        "snapshot": others.snapshot,
        "images": len(half),
        "gold_images": int((half >= 0).sum()),
        "gold": config.gold.uri,
        "split": config.gold.split,
        "gold_digest": "",
        "command": shlex.join(["python", "pipelines/weigh_sources.py", *argv]),
        "resamples": config.resamples,
        "items": {name: len(level.votes) for name, level in levels.items()},
        "sources": {name: judge.sources(levels[name], fits[name]) for name in LEVELS},
        "ways": {name: judge.compare(levels[name], fits[name], half, config.penalty) for name in LEVELS},
        "run": {name: getattr(others.base, name) for name in weights},
        "weights": weights,
        "without_gold": _weights(pixels.blind),
        "decided": None,
    }
    if golden is not None and golden.gold is not None:
        result["gold_digest"] = golden.gold.digest_of(row["asset"] for row in golden.rows)
        result["decided"] = _decide(config, golden, folder, fits["pixels"], half)
    table = markdown(result)
    files = write(folder, result, table)
    say(table)
    track(config, others, folder, name, result, table)
    seconds = time.monotonic() - started
    say(f"weigh: {len(half):,} images in {duration(seconds)}")
    return {
        "images": len(half),
        "gold_images": result["gold_images"],
        "weights": weights,
        "decided": result["decided"],
        "seconds": round(seconds, 1),
        **files,
    }


def _images(config: WeighConfig) -> tuple[Source | None, Source]:
    """So many with gold, and so many others. Raises UsageError."""
    told = config.gold
    if told.images is not None:
        raise UsageError("--gold.images means nothing here: evidence is read, not photographs")
    if not told.uri and (told.split or told.list):
        raise UsageError("--gold.uri is missing: --gold.split and --gold.list choose among its masks")
    golden = with_evidence(open_source(config.labels, config.snapshot, told)) if told.uri else None
    if golden is not None and len(golden.rows) < 2:
        raise UsageError("--gold: one half of the images with gold judges the other; at least two are needed")
    source = with_evidence(open_source(config.labels, config.snapshot, None))
    taken = {row["asset"] for row in golden.rows} if golden else set()
    rest = _drawn([row for row in source.rows if row["asset"] not in taken], config.sample.images, config.sample.seed)
    if golden is not None:
        # By name, as they would be if all were taken.
        chosen = _drawn(golden.rows, config.sample.gold, config.sample.seed)
        golden = replace(golden, rows=tuple(sorted(chosen, key=lambda row: str(row["asset"]))))
    if not rest and golden is None:
        raise UsageError("--sample.images 0: without gold there is nothing to learn from")
    # One past run: its text is embedded once.
    return golden, replace(source, rows=tuple(rest), past=golden.past if golden else source.past)


def _drawn(rows: Sequence[dict[str, Any]], most: int, seed: int) -> list[dict[str, Any]]:
    """At most so many, the same ones in whatever order they come."""
    return sorted(rows, key=lambda row: seeded(seed, row["asset"]))[:most]


def _identity(parts: Sequence[Part]) -> list[Any]:
    """Images, what is known of them, and their gold."""
    told = []
    for part in parts:
        rows = [[row["asset"], row["label_key"], row["weak"]] for row in part.rows]
        told.append([rows, "" if part.source.gold is None else part.identity])
    return told


def _halves(golden: Source | None, others: int, seed: int) -> npt.NDArray[np.int8]:
    """Of each image, those with gold first: 0 or 1, at random, the same for all that must stay together; -1 of the
    others. Raises UsageError where one half would be empty."""
    rows = golden.rows if golden else ()
    half = np.full(len(rows) + others, -1, np.int8)
    group_of = groups([row["asset"] for row in rows], [row["digest"] or "" for row in rows], "auto", 0.5)
    together = [np.flatnonzero(group_of == group) for group in range(int(group_of.max(initial=-1)) + 1)]
    if len(together) == 1:
        raise UsageError("--gold: all images with gold are the same; one half of them judges the other")
    sizes = [0, 0]
    for members in sorted(together, key=lambda members: seeded(seed + 1, rows[members[0]]["asset"])):
        side = int(sizes[1] < sizes[0])
        half[members] = side
        sizes[side] += len(members)
    return half


def _ask(config: WeighConfig, parts: Sequence[Part]) -> dict[str, Level]:
    progress = Progress("ask", sum(len(part.rows) for part in parts), config.progress_seconds)
    found: dict[str, list[Level]] = {level: [] for level in LEVELS}
    image = 0
    for part in parts:
        for said in _said(config, part, image):
            for level, items in said.items():
                found[level].append(items)
            image += 1
            progress.add(1)
        part.forget()
    progress.close()
    return {level: joined(items) for level, items in found.items()}


def _said(config: WeighConfig, part: Part, image: int) -> Iterator[dict[str, Level]]:
    source, assets = part.source, [row["asset"] for row in part.rows]
    table = LabelTable(storage.join(source.output, "labels"))
    maps = {
        row["asset"]: row["class_map"]
        for batch in table.newest(("asset", "class_map"), version=source.snapshot, assets=assets)
        for row in batch.to_pylist()
    }
    collect = Collector(part.cases, source.base, config)
    for number, case in enumerate(part.cases.items):
        yield collect(case, read_png(maps[case.asset]), image + number)


def _weights(model: Any) -> dict[str, float]:
    """Fields of DecideConfig; of four digits, which is more than is known."""
    return {name: round(value, 4) for name, value in fusion_weights(model).items()}


def _decide(
    config: WeighConfig, golden: Source, folder: str, fits: judge.Fits, half: npt.NDArray[np.int8]
) -> dict[str, Any]:
    """What the labels of the gold images are worth as they are, and with weights that were not learned from them."""
    past, base = golden.past, golden.base
    learned = by_digest(past.text, past.head_digest)

    def never(*told: Any) -> Any:
        raise AssertionError(f"nothing is observed or told anew: {told}")

    own = Variant(base, past.head_digest)
    assert fits.halves is not None
    blind, *sides = (_variant(own, base, _weights(model)) for model in (fits.blind, *fits.halves))
    decisions = Decisions(
        parts_of(golden, config.weak), folder, learned, never, never, config.progress_seconds, "decide"
    )
    counts = decisions.count([own, blind, *sides])
    of = half[half >= 0][:, None, None]
    sums = {
        "run": _sums(counts, own),
        "label_model": _sums(counts, blind),
        "label_model_with_gold": np.where(of == 0, _sums(counts, sides[0]), _sums(counts, sides[1])),
    }
    found: dict[str, Any] = {name: {} for name in sums}
    for metric in metrics_of(golden.matching.names):
        for name, counted in sums.items():
            value = metric(counted.sum(0))
            found[name][metric.name] = {"mean": rounded(value)}
            if name == "run":
                continue

            def gain(chosen: Sequence[int], counted: Any = counted, metric: Any = metric) -> float:
                return float(metric(counted[chosen].sum(0)) - metric(sums["run"][chosen].sum(0)))

            interval = paired_interval(len(counted), gain, config.sample.seed, config.resamples)
            found[name][metric.name] |= {
                "gain": rounded(value - metric(sums["run"].sum(0))),
                "interval_95": interval and [rounded(one) for one in interval],
            }
    return found


def _variant(own: Variant, base: DecideConfig, weights: Weights) -> Variant:
    return replace(own, decide=replace(base, **weights))  # type: ignore[arg-type]


def _sums(counts: Mapping[Variant, Counted], variant: Variant) -> npt.NDArray[np.int64]:
    return counts[variant.plain()].sums
