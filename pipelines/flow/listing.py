"""List: the corpus into the manifest, with the weak labels of every asset checked."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines import weak as weak_labels
from pipelines.config import LabelConfig, UsageError
from pipelines.corpus.base import Corpus
from pipelines.corpus.open import open_corpus
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import Run, digest
from pipelines.flow.stop import RunFailed
from pipelines.tables import manifest

# So many problems of weak labels are told on the terminal; all of them are in the label rows.
TOLD_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """An asset that should end with a label. weak, hints: canonical JSON, "" for none."""

    asset: str
    uri: str
    size_bytes: int
    mtag: str
    tags: str
    weak: str
    weak_digest: str
    weak_problems: tuple[str, ...]
    hints: str
    hints_digest: str

    @property
    def version(self) -> tuple[str, int, str, str]:
        """What must be the same for the asset to need no reading."""
        return (self.asset, self.size_bytes, self.mtag, self.hints_digest)


def list_corpus(run: Run) -> list[Wanted]:
    """Every asset of the corpus, at most --limit of them, in the corpus' order.

    Raises:
        CorpusError: the corpus cannot be listed. UsageError: the output belongs to another corpus.
        RunFailed: the corpus is empty, or --strict and a weak label is wrong.
    """
    config: LabelConfig = run.config
    progress = Progress("list", None, config.execution.progress_seconds)
    found: list[Wanted] = []
    problems = left_out = 0
    corpus = open_corpus(config)
    own_corpus(run, corpus)
    for asset in corpus.list():
        if config.limit and len(found) >= config.limit:
            break
        if run.forgotten.holds("asset", asset.asset) or run.forgotten.holds("uri", asset.uri):
            left_out += 1
            continue
        weak = weak_labels.select_forms(asset.weak, config.weak)
        told = weak_labels.hints(weak)
        weak, wrong = weak_labels.validate(weak, run.classes)
        for problem in wrong:
            problems += 1
            if problems <= TOLD_PROBLEMS:
                say(f"weak label of {asset.asset}: {problem}")
        found.append(
            Wanted(
                asset=asset.asset,
                uri=asset.uri,
                size_bytes=asset.size_bytes,
                mtag=asset.mtag,
                tags=json.dumps(asset.tags, sort_keys=True) if asset.tags else "",
                weak=json.dumps(weak, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if weak else "",
                weak_digest=weak_labels.weak_digest(weak),
                weak_problems=tuple(str(problem) for problem in wrong),
                hints=told,
                hints_digest=digest(told) if told else "",
            )
        )
        progress.add(1)
    progress.close()
    if left_out:
        say(f"list: {left_out:,} images were forgotten and are left out; their files are still in the corpus")
    for remark in corpus.remarks():
        say(f"list: {remark}")
    if problems > TOLD_PROBLEMS:
        say(f"... and {problems - TOLD_PROBLEMS} more weak labels that cannot be used; each is in its label row")
    if problems and config.strict:
        raise RunFailed(f"{problems} weak labels cannot be used (listed above), and --strict stops for that")
    if not found:
        raise RunFailed(f"the corpus {config.corpus} holds no image: check the address and --split")
    return found


def write_manifest(run: Run, rows: Iterable[Wanted], digests: dict[str, str], whole: bool) -> None:
    """Bring the manifest up to date with one commit of what changed, if anything did.

    digests: sha256 by asset, for those that were read. whole: rows is all of the corpus (of its split), so that what is
    not in it has vanished.
    """
    wanted = {row.asset: row for row in rows}
    split = run.config.split or ""
    changed: list[dict[str, Any]] = []
    for old in run.manifest.rows():
        row = wanted.pop(str(old["asset"]), None)
        if row is None:
            if whole and old["split"] == split:
                kept = ("asset", "corpus", "uri", "split")
                changed.append({**{name: old[name] for name in kept}, "removed": True})
            continue
        new = _manifest_row(run, row, digests, split)
        if new["digest"] is None and (old["size_bytes"], old["mtag"]) == (row.size_bytes, row.mtag):
            new["digest"] = old["digest"]
        if any(old[name] != value for name, value in new.items()):
            changed.append(new)
    changed += [_manifest_row(run, row, digests, split) for row in wanted.values()]
    if changed:
        sequence = run.manifest.next_sequence()
        common = {"sequence": sequence, "run_id": run.run_id, "schema_version": manifest.SCHEMA_VERSION}
        filled = [{"removed": False, **row, **common} for row in changed]
        table = pa.Table.from_pylist(filled, schema=manifest.SCHEMA)
        run.manifest.append(f"part-{run.run_id}-{sequence}.parquet", table, {"run_id": run.run_id})


def _manifest_row(run: Run, row: Wanted, digests: dict[str, str], split: str) -> dict[str, Any]:
    return {
        "asset": row.asset,
        "corpus": run.corpus,
        "uri": row.uri,
        "size_bytes": row.size_bytes,
        "mtag": row.mtag,
        "digest": digests.get(row.asset),
        "split": split,
        "weak": row.weak,
        "tags": row.tags,
    }


def own_corpus(run: Run, corpus: Corpus) -> None:
    """Raises UsageError where the output holds the labels of another corpus: they would count as vanished."""
    run.corpus = corpus.root
    owner = run.manifest.corpus()
    if owner is not None and owner != run.corpus:
        raise UsageError(
            f"{run.output} holds the labels of {owner}, not of {run.corpus}: give every corpus an --output of its own"
        )
