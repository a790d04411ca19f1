"""An ablation as a sequence of steps: find the images, choose the methods, fit, observe, decide, compare, write."""

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from models.decide.config import DecideConfig
from models.observe_config import ObserveConfig
from pipelines import storage
from pipelines.ablation.compare import MISSED, UNPROVEN, Comparison, Pair, compare, metrics_of, rounded, verdict
from pipelines.ablation.config import AblateConfig
from pipelines.ablation.fits import SEEDED, Fits, Fitted
from pipelines.ablation.methods import BY_NAME, METHODS, Method, alone, beneath, nothing
from pipelines.ablation.present import markdown, track, write
from pipelines.ablation.texts import Texts
from pipelines.ablation.variants import Decisions, Variant, parts_of
from pipelines.config import UsageError, config_digest
from pipelines.evaluation.cases import Source, open_source, with_evidence
from pipelines.flow.progress import duration, say
from pipelines.flow.run import digest
from pipelines.learned import WEIGHTS, Artifact, by_kind, joined
from pipelines.stages.observe import limit_threads


def ablate(config: AblateConfig, argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run it all; what the last line of stdout says. Raises UsageError, RunFailed, Interrupted."""
    started = time.monotonic()
    limit_threads(1)
    source = _source(config)
    parts = parts_of(source, config.weak)
    texts = Texts(source.past)
    name = f"ablation-{digest([one.identity for one in parts] + [config_digest(source.base)])[:10]}"
    folder = storage.absolute(config.output or storage.join(source.output, "ablations", name))
    learned: dict[str, Artifact] = {}
    again: dict[str, Any] = {}
    settings = config.execution
    if config.observe or any(BY_NAME[one].part == "observe" for one in config.methods):
        from pipelines.ablation.observed import Again

        again["photographs"] = Again(source, folder, settings.device, settings.progress_seconds)

    def observed(observe_id: str, assets: Sequence[str]) -> Any:
        return again["photographs"].evidence(observe_id, assets)

    decisions = Decisions(parts, folder, learned, observed, texts.bank, settings.progress_seconds)
    methods = _choose(config, decisions.given(), source.past.config.observe)
    methods = _speaking(config, methods, texts)
    say(f"ablate: {len(methods)} methods on {len(source.rows):,} images: {', '.join(one.name for one in methods)}")
    fitted = _fit(config, source, folder, methods, learned)
    methods = [one for one in methods if one.part != "corpus" or fitted[one.name]]
    own = source.past.head_digest
    compared, costs = [], dict[str, dict[str, float]]()
    for method in methods:
        if method.part == "observe":
            pair, costs[method.name] = _observe(method, source, again["photographs"])
            compared.append(_observed_comparison(method, source.base, *pair))
        elif method.part == "text":
            compared.append(_text_comparison(method, source.base, own, texts.sides(method)))
        else:
            compared.append(_comparison(method, source.base, own, fitted))
    base, floor = Variant(source.base, own), Variant(nothing(source.base))
    wanted = [base, floor, *(variant for one in compared for variant in one.variants)]
    counts = decisions.count(wanted)
    metrics = metrics_of(source.matching.names)

    def counted(variant: Variant) -> Any:
        return counts[variant.plain()]

    rows = []
    for one in compared:
        say(f"compare: {one.method.name}")
        numbers = compare(one, counted, metrics, config.resamples)
        numbers["seconds_per_image"] = costs.get(one.method.name, numbers["seconds_per_image"])
        rows.append(_row(one, numbers, source, fitted, config, texts))
    assert source.gold is not None
    result = {
        "labels": source.output,
        "corpus": source.past.config.corpus,
        "snapshot": source.snapshot,
        "images": len(source.rows),
        "gold": config.gold.uri,
        "split": config.gold.split,
        "gold_digest": source.gold.digest_of(row["asset"] for row in source.rows),
        "weak": None if config.weak is None else list(config.weak),
        "decide": dataclasses.asdict(source.base),
        "config_digest": config_digest(source.base),
        "command": shlex.join(["python", "pipelines/ablate.py", *argv]),
        "seeds": list(config.seeds),
        "resamples": config.resamples,
        "everything": {one.name: rounded(one(counted(base).sums.sum(0))) for one in metrics},
        "nothing": {one.name: rounded(one(counted(floor).sums.sum(0))) for one in metrics},
        "methods": rows,
    }
    table = markdown(result)
    files = write(folder, result, table)
    say(table)
    track(config, source, folder, name, result, table)
    seconds = time.monotonic() - started
    say(f"ablate: {decisions.decided:,} labels decided, {decisions.kept:,} known before, in {duration(seconds)}")
    return {
        "images": len(source.rows),
        "methods": len(rows),
        "decided": decisions.decided,
        "known": decisions.kept,
        "on_unproven": [row["name"] for row in rows if row["verdict"] == UNPROVEN],
        "off_would_help": [row["name"] for row in rows if row["verdict"] == MISSED],
        "seconds": round(seconds, 1),
        **files,
    }


def _source(config: AblateConfig) -> Source:
    if config.gold.images is not None:
        raise UsageError("--gold.images means nothing here: photographs are read where the labels say")
    return with_evidence(open_source(config.labels, config.snapshot, config.gold))


def _choose(config: AblateConfig, given: frozenset[str], observed: ObserveConfig) -> list[Method]:
    """Raises UsageError for a method that is named and cannot matter. observed: what the labels were observed with."""
    used = [one for one in METHODS if one.part == "observe" and _sides(one, observed)[0] == _sides(one, observed)[1]]
    for name in config.methods:
        if missing := sorted(BY_NAME[name].needs - given):
            raise UsageError(f"--methods {name}: these images have nothing of what it needs ({', '.join(missing)})")
    if config.methods:
        chosen = [BY_NAME[name] for name in config.methods]
        for one in used:
            if one in chosen:
                raise UsageError(f"--methods {one.name}: the labels were observed with it; compare it where it was not")
        more = [one for one in METHODS if one.part == "observe" and config.observe and one not in chosen]
        chosen += more
    else:
        chosen = [one for one in METHODS if one.needs <= given and (one.part != "observe" or config.observe)]
    for one in used:
        if one in chosen:
            say(f"{one.name}: the labels were observed with it; left out")
    return [one for one in chosen if one not in used]


def _speaking(config: AblateConfig, methods: Sequence[Method], texts: Texts) -> list[Method]:
    """Without the methods of text that say nothing of these classes. Raises UsageError where one is named."""
    silent = [one.name for one in methods if one.part == "text" and len(set(texts.sides(one))) == 1]
    for name in silent:
        if name in config.methods:
            raise UsageError(f"--methods {name}: there are no such words for these classes; leave it out")
    return [one for one in methods if one.name not in silent]


def _fit(
    config: AblateConfig, source: Source, folder: str, methods: Sequence[Method], learned: dict[str, Artifact]
) -> dict[str, list[Fitted]]:
    """What the methods need, by kind, once or for each seed; none of a kind where too few images are tagged. learned:
    gets these, and what the labels were decided with."""
    made = Fits(config, source, folder)
    found: dict[str, list[Fitted]] = {}
    for method in methods:
        if method.part == "corpus":
            found[method.name] = made.of(method.name)
            if not found[method.name] and method.name in config.methods:
                raise UsageError(
                    f"--methods {method.name}: too few images are tagged to learn from (it takes learn.min_tagged, "
                    f"{source.past.config.learn.min_tagged}, and learn.min_images, "
                    f"{source.past.config.learn.min_images}, of a class): leave {method.name} out"
                )
            if not found[method.name]:
                say(f"{method.name}: nothing can be learned from so few tagged images; left out")
    own = [one for kind in WEIGHTS if (one := made.own(kind)) is not None]
    learned |= {one.digest: one.made for one in [*own, *(one for each in found.values() for one in each)]}
    return found


def _comparison(method: Method, base: DecideConfig, own: str, fitted: Mapping[str, Sequence[Fitted]]) -> Comparison:
    """own: what the labels were decided with; so are the methods that are not fitted themselves."""
    on, off = method.within(base, base), method.without(base)
    alone_on, alone_off = alone(method, base)
    learned = [own]
    if method.part == "corpus":
        learned = [joined({**by_kind(own), method.name: one.digest}) for one in fitted[method.name]]
    return Comparison(method, _pair(on, off, learned), _pair(alone_on, alone_off, learned))


def _text_comparison(method: Method, base: DecideConfig, own: str, text: tuple[str, str]) -> Comparison:
    """text: ids with and without. Within: beside the labels' own head, as the run decides; alone: on text heat."""
    floor = beneath(method, base)
    return Comparison(method, _pair(base, base, (own,), text=text), _pair(floor, floor, (own,), text=text))


def _pair(
    on: DecideConfig,
    off: DecideConfig,
    learned: Sequence[str],
    observed: tuple[str, str] = ("", ""),
    text: tuple[str, str] = ("", ""),
) -> Pair:
    sides = zip((on, off), observed, text, strict=True)
    with_it, without = (tuple(Variant(one, word, seen, told).plain() for word in learned) for one, seen, told in sides)
    return Pair(with_it, without)


def _sides(method: Method, config: ObserveConfig) -> tuple[ObserveConfig, ObserveConfig]:
    """What is observed with an observe method, and without."""
    without = method.baseline(config)
    return method.observe(without), without


def _observe(method: Method, source: Source, again: Any) -> tuple[tuple[str, str], dict[str, float]]:
    """(with, without): ids of the evidence, and what an image cost. Without is observed again too: on this machine."""
    pair = tuple(again.observe(one) for one in _sides(method, source.past.config.observe))
    seconds = partial(round, ndigits=5)
    costs = {name: seconds(again.seconds(one)) for name, one in zip(("with", "without"), pair, strict=True)}
    return (pair[0], pair[1]), costs


def _observed_comparison(method: Method, base: DecideConfig, on: str, off: str) -> Comparison:
    """Without what the corpus taught: that speaks of features as they were stored."""
    for one in METHODS:
        base = one.without(base) if one.part == "corpus" else base
    floor = nothing(base)
    return Comparison(method, _pair(base, base, ("",), (on, off)), _pair(floor, floor, ("",), (on, off)))


def _row(
    one: Comparison,
    numbers: dict[str, Any],
    source: Source,
    fitted: Mapping[str, Sequence[Fitted]],
    config: AblateConfig,
    texts: Texts,
) -> dict[str, Any]:
    method = one.method
    told = [fit.seconds for fit in fitted.get(method.name, ()) if fit.seconds is not None]
    in_run = method.is_on(source.base) and (method.part != "corpus" or method.name in by_kind(source.past.head_digest))
    if method.part == "text":
        in_run = texts.is_on(method)
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "part": method.part,
        "default": method.default,
        "on_in_labels": in_run,
        "seeds": list(config.seeds) if method.name in SEEDED else [],
        **numbers,
        "fit_seconds": round(sum(told) / len(told), 1) if told else None,
        "verdict": verdict(method.default, numbers["gain"]["miou"]),
    }
