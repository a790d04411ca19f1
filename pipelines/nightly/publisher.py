"""What becomes of a night's labels: compared, measured, and published or kept as a candidate."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines import storage
from pipelines.flow.progress import say
from pipelines.flow.publish import Proposal, Published, Publisher
from pipelines.flow.stop import RunFailed
from pipelines.gates import EXIT_REFUSED
from pipelines.nightly import present
from pipelines.nightly.candidates import Candidate
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.diff import Diff, compare_again, diff
from pipelines.nightly.gate import Numbers, on_gold, reasons
from pipelines.nightly.sides import Side, Sides, mean_coverage
from pipelines.tables.delta import CommitConflict
from pipelines.tables.labels import LabelTable
from pipelines.tables.snapshots import ANYWAY, compact, withdrawn


@dataclass
class NightlyPublisher(Publisher):
    """Publishes what the gate lets through."""

    config: NightlyConfig
    confirm: Callable[[], None] = lambda: None
    base: int | None = field(default=None, init=False)

    @property
    def recheck(self) -> int:  # type: ignore[override]
        return self.config.gate.recheck_images

    def __call__(self, proposal: Proposal) -> Published:
        labels, decided = proposal.run.labels, proposal.decided
        base = labels.version()
        what = {"job": "relabel_nightly", "as_of": self.config.moment.isoformat(), **_found(proposal)}
        if not decided.files:
            # Nothing to publish and nothing new to show; a page that says so every night is a page nobody opens.
            return Published(base, summary={"outcome": "unchanged"}, details=what, tags=_tags(what), report=False)
        urls = [storage.join(labels.url, file.name) for file in decided.files]
        sides = Sides(Side(proposal.run.output, base), Side(proposal.run.output, base, tuple(urls)))
        changes = diff(sides, self.config.execution.progress_seconds)
        numbers = self._numbers(proposal, sides, changes, urls)
        wrong = reasons(self.config.gate, numbers)
        published = self._decide(proposal, base, wrong)
        page, notes = present.pages(self.config, proposal, changes, numbers, wrong)
        present.write_table(proposal.run.folder, changes)
        what |= {"diff": present.numbers_of(changes), "gate": present.flat(numbers), "refused_because": wrong}
        return Published(
            published["snapshot"],
            exit_code=EXIT_REFUSED if published["outcome"] == "refused" else 0,
            candidate=[file.name for file in decided.files] if published["outcome"] == "refused" else (),
            summary={k: v for k, v in published.items() if k != "snapshot"} | {"refused_because": wrong},
            details=what,
            notes=notes,
            pages=page,
            tags=_tags(what) | published,
        )

    def _numbers(self, proposal: Proposal, sides: Sides, changes: Diff, urls: list[str]) -> Numbers:
        labels, again = proposal.run.labels, proposal.decided.rechecked
        drifted, rechecked = 0.0, 0
        if again:
            places = [storage.join(labels.url, file.name) for file in again]
            drifted, rechecked = compare_again(labels, places, say)
            for place in places:
                storage.remove(place)
        judged = on_gold(self.config.gold, sides)
        return Numbers(
            coverage=mean_coverage(sides.sums.new) or 0.0,
            quarantine_rate=len(proposal.known.bad) / max(1, proposal.images),
            churn=changes.churn,
            # Of all pixels among the new rows, or of those of a sample among the old ones: whichever is worse.
            churn_without_cause=max(changes.churn_without_cause, drifted),
            rechecked=rechecked,
            withdrawn=tuple(withdrawn(labels, urls)),
            coverage_before=mean_coverage(sides.sums.old),
            old=judged[0] if judged else None,
            new=judged[1] if judged else None,
        )

    def _decide(self, proposal: Proposal, base: int | None, wrong: list[str]) -> dict[str, Any]:
        """Publish, or keep as a candidate: outcome, snapshot that readers see now, candidate's name."""
        run, reason = proposal.run, self.config.publish_anyway
        for sentence in wrong:
            say(f"gate: {sentence}")
        if wrong and reason is None:
            files = tuple(file.name for file in proposal.decided.files)
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S+00:00}"
            Candidate(run.run_id, now, base, files, tuple(wrong), proposal.metadata).keep(run.output)
            say(f"gate: refused; kept as candidate {run.run_id}, snapshot {base} stays")
            return {"outcome": "refused", "snapshot": base, "candidate": run.run_id}
        metadata = dict(proposal.metadata)
        if wrong and reason is not None:
            metadata |= {ANYWAY: reason, "refused_because": json.dumps(wrong)}
            say(f"gate: published anyway: {reason}")
        try:
            after = self._tidy(run.labels, base)
            self.confirm()
            snapshot = run.labels.commit(proposal.decided.files, metadata, after=after)
        except CommitConflict as error:
            raise RunFailed(f"another run published labels meanwhile; run this one again ({error})") from error
        outcome = {"outcome": "published anyway", "reason": reason} if wrong else {"outcome": "published"}
        return {**outcome, "snapshot": snapshot}

    def _tidy(self, labels: LabelTable, base: int | None) -> int | None:
        """Rewrite files most of whose rows are superseded; returns the version that is the newest then. Only where the
        night publishes, so that others leave no version, and before it does, so that the newest one is the night's."""
        version = compact(labels, "", self.confirm, base) if self.config.keep.compact else None
        if version is None:
            return base
        say(f"labels: files most of whose rows were superseded are rewritten (snapshot {version}, the same labels)")
        return version


def _found(proposal: Proposal) -> dict[str, Any]:
    """Images by what happened to them."""
    causes = Counter(row["cause"] for row in proposal.todo.work)
    causes.update(row["cause"] for row in proposal.todo.removals)
    return {"found": dict(sorted(causes.items()))}


def _tags(what: dict[str, Any]) -> dict[str, object]:
    return {"job": what["job"], "as_of": what["as_of"]}
