"""Decide what has no current label: rows in staged files, which one atomic commit makes a snapshot."""

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from models.decide.types import TextBank
from pipelines import storage
from pipelines.execution import set_up_data
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import Run, digest
from pipelines.metrics_export import tell_corpus
from pipelines.stages.decide import RECHECK, WORK, DecideStage, DecideStageConfig
from pipelines.stages.judge import Judge
from pipelines.tables import labels
from pipelines.tables.delta import DataFile
from pipelines.tables.snapshots import withdrawn

# Images that one decide task takes: a few seconds of work, and one staged file.
ROWS_PER_TASK = 64


@dataclass
class Plan:
    """work: rows of WORK to decide. removals: label rows that say an asset has no label any more. reused: how many
    assets have the label that they should have already. recheck: rows of WORK for some of those. corrected: how many
    have corrections by people that count; stale: assets with corrections of bytes that they do not have any more."""

    work: list[dict[str, Any]] = field(default_factory=list)
    recheck: list[dict[str, Any]] = field(default_factory=list)
    removals: list[dict[str, Any]] = field(default_factory=list)
    reused: int = 0
    corrected: int = 0
    stale: list[str] = field(default_factory=list)


def plan(run: Run, rows: Sequence[Wanted], known: Known, recheck: int = 0) -> Plan:
    """What the newest snapshot lacks: everything whose label key is not the one it should be, and what has to go.

    recheck: how many labels that are as they should be are decided once more, if there is work at all.
    """
    current = {}
    for batch in run.labels.newest(["asset", "label_key", "evidence_key"], batch_rows=4096):
        for row in batch.to_pylist():
            current[row["asset"]] = (row["label_key"], row["evidence_key"])
    people = run.human.known()
    made_from = _made_from(run, people)
    result = Plan()
    chance = random.Random(run.run_id)
    reused: list[dict[str, Any]] = []
    for wanted in rows:
        if wanted.asset in known.bad and wanted.asset in current:
            result.removals.append({"asset": wanted.asset, "uri": wanted.uri, "cause": "unreadable"})
        if wanted.asset not in known.evidence:
            continue
        corrections = people.get(wanted.asset, [])
        human = [one for one, drawn_on in corrections if drawn_on == known.evidence[wanted.asset][2]]
        result.corrected += bool(human)
        result.stale += [wanted.asset] if len(human) < len(corrections) else []
        before = made_from.get(wanted.asset, {})
        work = _work(run, wanted, known, human, current.get(wanted.asset), before)
        if work["cause"] != RECHECK:
            result.work.append(work)
            continue
        result.reused += 1
        # A sample of all, without knowing how many there will be (algorithm R: Vitter 1985).
        place = chance.randrange(result.reused)
        if len(reused) < recheck:
            reused.append(work)
        elif place < recheck:
            reused[place] = work
    gone = run.manifest.gone()
    result.removals += [{"asset": asset, "uri": gone[asset], "cause": "vanished"} for asset in current if asset in gone]
    result.recheck = reused if result.work else []
    # One task reads few shards.
    result.work.sort(key=lambda row: (row["shard"], row["asset"]))
    return result


def _made_from(run: Run, assets: Collection[str]) -> dict[str, dict[str, Any]]:
    """What the labels of some assets say that they were decided from."""
    if not assets:
        return {}
    inputs = ("class_set_digest", "decide_digest", "head_digest", "quality_digest", "weak_digest", "human_digest")
    batches = run.labels.newest(["asset", *inputs], batch_rows=4096, assets=assets)
    return {row.pop("asset"): row for batch in batches for row in batch.to_pylist()}


def _work(
    run: Run,
    wanted: Wanted,
    known: Known,
    human: Sequence[str],
    before: tuple[str, str] | None,
    before_from: Mapping[str, Any],
) -> dict[str, Any]:
    """A row of WORK. human: ids of the corrections that count, in order. before: (label key, evidence key) of the label
    that there is; before_from: what it was decided from, as far as an asset with corrections says so."""
    shard, evidence_key, image_digest = known.evidence[wanted.asset]
    second = known.second.get(wanted.asset, [])
    # Keys with none, one, two ... of the corrections: the last is the one that the label should have.
    made_from = (evidence_key, wanted.weak_digest, [key for *_, key in second])
    *earlier, key = (run.label_key(*made_from, human[:count]) for count in range(len(human) + 1))
    corrections = json.dumps(human) if human else ""
    now = {
        "class_set_digest": run.classes.digest,
        "decide_digest": run.decide_digest,
        "head_digest": run.head_digest,
        "quality_digest": run.quality_digest,
        "weak_digest": wanted.weak_digest,
        "human_digest": labels.human_digest(corrections),
    }
    by_people = _by_people(before_from, now) or (before is not None and before[0] in earlier)
    return {
        "asset": wanted.asset,
        "uri": wanted.uri,
        "digest": image_digest,
        "evidence_key": evidence_key,
        "shard": shard,
        "second": json.dumps(second) if second else "",
        "weak": wanted.weak,
        "weak_digest": wanted.weak_digest,
        "weak_problems": list(wanted.weak_problems),
        "human": corrections,
        "label_key": key,
        "cause": _cause(before, evidence_key, key, by_people),
    }


def _by_people(before: Mapping[str, Any], now: Mapping[str, str]) -> bool:
    """Whether corrections are all that differs. Labels of before do not say which took part, so of them nothing is
    said here."""
    if before.get("human_digest") is None:
        return False
    return [name for name in now if (before[name] or "") != now[name]] == ["human_digest"]


def _cause(before: tuple[str, str] | None, evidence_key: str, key: str, by_people: bool) -> str:
    """Why a label is made. before: (label key, evidence key) of the one that is there. key: of the one that should be.
    by_people: whether corrections are what differs."""
    if before is None:
        return "new image"
    if before[0] == key:
        return RECHECK
    if before[1] != evidence_key:
        return "new evidence"
    return "human" if by_people else "new decision"


@dataclass
class Decided:
    """What a decide step did. resumed: labels that an earlier run had decided and that were not published. files: what
    is to be published. rechecked: files of labels that were decided once more, to be compared and thrown away."""

    labeled: int = 0
    resumed: int = 0
    images_per_second: float = 0.0
    weak_problems: int = 0
    failures: list[list[str]] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)
    rechecked: list[DataFile] = field(default_factory=list)


def decide(
    run: Run, todo: Plan, text: TextBank | None, class_ids: Mapping[str, Mapping[int, int]], judge: Judge | None = None
) -> Decided:
    """Decide `todo.work` on CPU actors, and stage its labels and the removals. class_ids, judge: see the stage."""
    result = Decided()
    if not todo.work and not todo.removals:
        return result
    prefix = "staged-" + digest([run.classes.digest, run.decide_digest, run.head_digest, run.observe_id])[:16]
    files, work = _staged(run, prefix, todo.work)
    result.resumed = len(todo.work) - len(work)
    back = len(withdrawn(run.labels, [storage.join(run.labels.url, file.name) for file in files])) if files else 0
    if back:
        say(f"decide: {back:,} labels were decided and published by an earlier run, and taken back by a rollback")
    if result.resumed > back:
        say(f"decide: {result.resumed - back:,} labels were decided by an earlier run that did not publish them")
    if work or todo.recheck:
        files += _decide(run, [*work, *todo.recheck], prefix, text, class_ids, judge or Judge(), result)
    result.rechecked = [file for file in files if file.name.startswith(RECHECK)]
    result.files = [file for file in files if not file.name.startswith(RECHECK)]
    result.labeled = sum(file.rows for file in result.files)
    if todo.removals:
        result.files.append(_removals(run, todo.removals))
    return result


def _staged(run: Run, prefix: str, work: list[dict[str, Any]]) -> tuple[list[DataFile], list[dict[str, Any]]]:
    """Files of an interrupted run whose rows are all wanted as they are, and the work that is left."""
    wanted = {(row["asset"], row["label_key"]) for row in work}
    newest = run.labels.newest_sequence()
    files: list[DataFile] = []
    have: set[str] = set()
    for url in run.labels.staged(prefix):
        table = storage.read_parquet(url, ["asset", "label_key", "sequence"])
        pairs = set(zip(table["asset"].to_pylist(), table["label_key"].to_pylist(), strict=True))
        assets = {asset for asset, _ in pairs}
        fresh = table.num_rows and table["sequence"][0].as_py() > newest
        if not fresh or not pairs <= wanted or assets & have:
            continue  # Of another split or of older weak labels; it is in nobody's way.
        fs, path = storage.filesystem(url)
        files.append(DataFile(url.rsplit("/", 1)[-1], int(fs.size(path)), table.num_rows))
        have |= assets
    return files, [row for row in work if row["asset"] not in have]


def _decide(
    run: Run,
    work: list[dict[str, Any]],
    prefix: str,
    text: TextBank | None,
    class_ids: Mapping[str, Mapping[int, int]],
    judge: Judge,
    result: Decided,
) -> list[DataFile]:
    import ray

    set_up_data()
    assert text is not None, "there is work to decide, so the prompts were embedded"
    config = DecideStageConfig(
        store=run.store,
        labels_url=run.labels.url,
        human_url=run.human.url,
        prefix=prefix,
        classes=run.classes,
        text=text,
        config=run.config.decide,
        decide_digest=run.decide_digest,
        head_digest=run.head_digest,
        sequence=run.labels.next_sequence(),
        run_id=run.run_id,
        created_at=run.created_at,
        strict=run.config.strict,
        class_ids=class_ids,
        judge=judge,
    )
    cpus = float(ray.cluster_resources().get("CPU", 1))
    actors = max(1, min(int(cpus), -(-len(work) // ROWS_PER_TASK)))
    size = min(ROWS_PER_TASK, -(-len(work) // actors))
    # Staged files hold either what is to be published or what is not.
    parts = [[row for row in work if (row["cause"] == RECHECK) == again] for again in (False, True)]
    blocks = [
        pa.Table.from_pylist(part[i : i + size], schema=WORK) for part in parts for i in range(0, len(part), size)
    ]
    dataset = ray.data.from_arrow(blocks).map_batches(
        DecideStage,
        fn_constructor_args=(config,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=min(0.9, cpus * 0.9 / actors),
    )
    progress = Progress("decide", len(work), run.config.execution.progress_seconds, actors)
    progress.at_work(actors)
    tell_corpus(run.counts)
    files = []
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            result.weak_problems += row["weak_problems"]
            failures = json.loads(row["failures"])
            result.failures += failures
            progress.add(row["rows"] + len(failures), failed=len(failures), busy_seconds=row["pool_seconds"])
            if row["file"]:
                files.append(DataFile(row["file"], row["size_bytes"], row["rows"]))
    result.images_per_second = progress.rate
    progress.close()
    return files


def _removals(run: Run, removals: list[dict[str, Any]]) -> DataFile:
    sequence = run.labels.next_sequence()
    created: datetime = run.created_at
    rows = [labels.removal(r["asset"], r["uri"], r["cause"], sequence, run.run_id, created) for r in removals]
    return run.labels.write_file(f"removed-{run.run_id}.parquet", pa.Table.from_pylist(rows, schema=labels.SCHEMA))
