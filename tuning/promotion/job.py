"""Promotions: a version of a registered model becomes the champion, is refused, or gives the place back."""

import getpass
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.config import UsageError, config_digest
from pipelines.flow.progress import say
from pipelines.gates import read_gate
from pipelines.tracking import Tracker, fetch_model
from pipelines.tracking_names import without_password
from pipelines.tracking_registry import Registry, Run, Version
from pipelines.tracking_store import MODEL_TAG
from tuning.promotion import decides, siblings, students
from tuning.promotion.config import PromoteConfig
from tuning.promotion.decides import Searched
from tuning.promotion.gate import PromotionGate, Side, verdict
from tuning.promotion.students import STUDENT, Incomparable

CHAMPION, CHALLENGER = "champion", "challenger"
DECIDE, RESULT = "decide.yaml", "result.json"


@dataclass
class Promotion:
    """What all steps of one promotion share."""

    config: PromoteConfig
    registry: Registry
    gate: PromotionGate
    champion: Version | None

    @classmethod
    def open(cls, config: PromoteConfig) -> "Promotion":
        """Raises UsageError where there is no registry or no such gate."""
        try:
            registry = Registry(config.tracking.uri)
        except FileNotFoundError as error:
            raise UsageError(f"{error}: give --tracking.uri, or set MLFLOW_TRACKING_URI") from error
        gate = read_gate(config.gate, PromotionGate) if config.gate else PromotionGate()
        return cls(config, registry, gate, registry.by_alias(config.model, CHAMPION))


def promote(config: PromoteConfig) -> dict[str, Any]:
    """Compare with the champion and promote or refuse; what the last line of stdout says. Raises UsageError."""
    this = Promotion.open(config)
    runs = siblings.seeds(this.registry, config.run) if config.run else []
    if runs and runs[0].tags["job"] != "tune_labels":
        return _students(this, runs)
    return _decides(this, [_of_run(this, run) for run in runs] or [_of_file(path) for path in config.decide])


def _students(this: Promotion, runs: Sequence[Run]) -> dict[str, Any]:
    _check_kind(this, "student")
    model = runs[0].tags.get("model_uri", "")
    if not model:
        raise UsageError(f"--run: {runs[0].name} has no model in MLflow; it is not finished, or a trial of a search")
    student = runs[0].tags.get(STUDENT, "")
    if runs[0].tags.get(MODEL_TAG, student) != student:
        raise UsageError(
            f"--run: the model of {runs[0].name} in MLflow is not of its newest student; log it again first"
        )
    # A search that goes on may have another winner: one run, several models.
    made = (runs[0].run_id, model)
    known = [one for one in this.registry.versions(this.config.model) if (one.run_id, one.source) == made]
    tags = {"kind": "student", STUDENT: student}
    version = known[0] if known else _create(this, model, runs[0].run_id, tags, model.removeprefix("models:/"))
    this.registry.tag(version, tags)
    old = _runs_of(this) if this.champion else []
    try:
        sides = students.sides(this.registry, this.gate, runs, old)
    except Incomparable as error:
        return _end(this, version, None, [str(error)])
    return _judge(this, version, *sides, {"seeds": json.dumps([run.run_id for run in runs])})


def _runs_of(this: Promotion) -> list[Run]:
    """The champion's training, and its seeds."""
    assert this.champion is not None
    ids = json.loads(this.champion.tags.get("seeds", "[]")) or [this.champion.run_id]
    try:
        itself, *others = [this.registry.run(run_id) for run_id in ids]
    except LookupError as error:
        raise UsageError(f"the run of {this.champion}, the champion, is gone: {error}") from error
    student = this.champion.tags.get(STUDENT) or itself.tags.get(STUDENT, "")
    return [replace(itself, tags={**itself.tags, STUDENT: student}), *others]


def _decides(this: Promotion, searches: Sequence[Searched]) -> dict[str, Any]:
    _check_kind(this, "decide")
    decides.check_seeds(searches)
    digest = config_digest_of(searches[0])
    known = [one for one in this.registry.versions(this.config.model) if one.tags.get("config_digest") == digest]
    version = known[0] if known else _register_decide(this, searches[0], digest)
    if this.champion is not None and version.version == this.champion.version:
        return _end(this, version, None, ["these are the champion's settings already"])
    old = _of_version(this, this.champion) if this.champion else None
    try:
        sides = decides.sides(this.gate, searches, old)
    except Incomparable as error:
        return _end(this, version, None, [str(error)])
    return _judge(this, version, *sides, {})


def _of_file(path: str) -> Searched:
    """A decide.yaml, with the result.json beside it."""
    result = storage.join(path.rpartition("/")[0] or ".", RESULT)
    try:
        return _searched(path, storage.read_bytes(path).decode(), storage.read_bytes(result).decode())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--decide {path}: {error}; give the decide.yaml of tune_labels.py, with {RESULT} beside it"
        ) from error


def _of_run(this: Promotion, run: Run) -> Searched:
    with tempfile.TemporaryDirectory() as scratch:
        texts = [this.registry.text(run.run_id, name, Path(scratch)) for name in (DECIDE, RESULT)]
    return _searched(run.name, *texts)


def _of_version(this: Promotion, version: Version) -> Searched:
    with tempfile.TemporaryDirectory() as scratch:
        folder = fetch_model(str(version), Path(scratch), this.registry.uri)
        texts = [next(folder.rglob(name)).read_text() for name in (DECIDE, RESULT)]
    return _searched(str(version), *texts)


def _searched(who: str, yaml: str, result: str) -> Searched:
    found = json.loads(result)
    if not isinstance(found, dict) or not {"decide", "changed", "seed", "corpus"} <= found.keys():
        raise ValueError(f"{RESULT} is not that of a search")
    return Searched(who, yaml, found)


def config_digest_of(searched: Searched) -> str:
    """Digest of the settings of *decide*, as of every config."""
    from models.decide.config import DecideConfig

    try:
        return config_digest(DecideConfig(**searched.settings))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{searched.who}: its settings are not those of this version ({error})") from error


def _register_decide(this: Promotion, searched: Searched, digest: str) -> Version:
    """Log the two files in a run of their own, and register them as models are."""
    name = f"register-{this.config.model}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with tempfile.TemporaryDirectory() as scratch:
        uri = this.registry.uri
        with Tracker(str(searched.result["corpus"]), name, scratch, scratch, uri=uri, say=say, system=False) as tracker:
            tracker.tags({"job": "promote", "labels": searched.result.get("labels", ""), "decide_digest": digest})
            tracker.params({"decide": searched.settings})
            tracker.metrics({"holdout": searched.result.get("holdout") or {}})
            tracker.text(searched.yaml, f"decide/{DECIDE}")
            tracker.text(json.dumps(searched.result, indent=2), f"decide/{RESULT}")
            tracker.drain()
        if tracker.failure or not tracker.run_id:
            raise RuntimeError(f"the registry at {without_password(uri)} cannot be used: {tracker.failure}")
        source = f"{this.registry.artifact_uri(tracker.run_id)}/decide"
    return _create(this, source, tracker.run_id, {"kind": "decide", "config_digest": digest}, None)


def _create(this: Promotion, source: str, run_id: str, tags: Mapping[str, str], model_id: str | None) -> Version:
    version = this.registry.create(this.config.model, source, run_id, tags, model_id)
    say(f"registered as {version}")
    return version


def _check_kind(this: Promotion, kind: str) -> None:
    found = this.champion.tags.get("kind", kind) if this.champion else kind
    if found != kind:
        raise UsageError(f"--model {this.config.model} is the name of a {found}; give another name to this {kind}")


def _judge(
    this: Promotion, version: Version, new: Side, old: Side | None, judged_by: str, tags: Mapping[str, str]
) -> dict[str, Any]:
    if this.champion is not None and version.version == this.champion.version:
        return _end(this, version, None, [f"{version} is the champion already"])
    reasons = verdict(this.gate, new, old)
    told: dict[str, Any] = {"metric": this.gate.metric, "judged_by": judged_by, CHALLENGER: new.told()}
    if old is not None:
        told[CHAMPION] = old.told()
    return _end(this, version, told, reasons, tags)


def _end(
    this: Promotion,
    version: Version,
    numbers: Mapping[str, Any] | None,
    reasons: Sequence[str],
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Move the aliases, and write down who decided what, when and why."""
    registry, name = this.registry, this.config.model
    record = {"gate": this.gate.model_dump_json(), **({"numbers": json.dumps(numbers)} if numbers else {})}
    before = this.champion
    if reasons:
        if before is None or version.version != before.version:
            registry.point(CHALLENGER, version)
            registry.tag(version, {**record, **_signed("refused", "; ".join(reasons))})
    else:
        why = this.config.reason or _why(numbers, before)
        registry.tag(version, {**record, **(tags or {}), **_signed("promoted", why)})
        registry.set_history(name, [*registry.history(name), version.version])
        registry.point(CHAMPION, version)
        registry.unpoint(CHALLENGER, name)
        if before is not None:
            registry.tag(before, _signed("replaced", f"by {version}"))
    for reason in reasons:
        say(f"refused: {reason}")
    say(f"{version} stays a challenger" if reasons else f"{version} is the champion: {why}")
    champion = before if reasons else version
    return {
        "model": name,
        "version": version.version,
        "promoted": not reasons,
        "reasons": list(reasons),
        "champion": champion.version if champion else None,
        "before": before.version if before else None,
        "numbers": numbers,
    }


def _why(numbers: Mapping[str, Any] | None, before: Version | None) -> str:
    assert numbers is not None, "nothing is promoted without numbers"
    new, old = numbers[CHALLENGER]["mean"], (numbers.get(CHAMPION) or {}).get("mean")
    against = f" against {old:.4f}" if old is not None else ""
    told = f"{numbers['metric']} {new:.4f}{against}, {len(numbers[CHALLENGER]['seeds'])} seeds, {numbers['judged_by']}"
    return told if before else f"{told}; the first champion"


def _signed(what: str, why: str) -> dict[str, str]:
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        who = "unknown"
    return {f"{what}_by": who, f"{what}_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", f"{what}_because": why[:5000]}


def rollback(config: PromoteConfig) -> dict[str, Any]:
    """Give the place back to the champion before. Raises UsageError where there is none."""
    this = Promotion.open(config)
    registry, name = this.registry, config.model
    if this.champion is None:
        raise UsageError(f"--rollback: {name} has no champion in {without_password(registry.uri)}")
    history = registry.history(name)
    if len(history) < 2:
        raise UsageError(f"--rollback: {this.champion} is the only champion that {name} has had")
    before = registry.by_number(name, history[-2])
    registry.point(CHAMPION, before)
    registry.set_history(name, history[:-1])
    registry.tag(this.champion, _signed("rolled_back", config.reason or f"to {before}"))
    say(f"{before} is the champion again; it was {this.champion}")
    return {"model": name, "rolled_back": this.champion.version, CHAMPION: before.version}
