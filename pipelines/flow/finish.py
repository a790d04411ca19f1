"""How a labeling run ends: what it tells the person, its folder and MLflow."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipelines import storage
from pipelines.flow.observing import Observed
from pipelines.flow.progress import duration, say
from pipelines.flow.publish import Proposal, Published
from pipelines.flow.run import Run
from pipelines.flow.stop import RunFailed
from pipelines.tracking import Tracker

# So many stale corrections are told on the terminal; all of them are in summary.json.
TOLD_STALE = 20


@dataclass
class Outcome:
    """How a run ended. summary: what the last line of stdout says, None for a dry run."""

    exit_code: int
    summary: dict[str, Any] | None


def finish(proposal: Proposal, observed: Observed, published: Published, tracker: Tracker) -> Outcome:
    """Report, summary and exit code. Raises RunFailed where images were lost on the way."""
    run, known, todo, decided = proposal.run, proposal.known, proposal.todo, proposal.decided
    failures = observed.failures + decided.failures
    unlabeled = proposal.images - len(known.bad) - todo.reused - decided.labeled
    seconds = run.seconds.get("observe", 0.0) + run.seconds.get("decide", 0.0)
    handled = observed.observed if observed.observed else decided.labeled
    summary: dict[str, Any] = {
        "run_id": run.run_id,
        "images": proposal.images,
        "observed": observed.observed,
        "labeled": decided.labeled,
        "reused": todo.reused,
        "quarantined": len(known.bad),
        "vanished": sum(row["cause"] == "vanished" for row in todo.removals),
        "images_per_second": round(handled / seconds, 3) if handled else 0.0,
        "report": None,
        "snapshot": published.snapshot,
        **published.summary,
    }
    details = {
        **summary,
        "unlabeled": unlabeled,
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "observe_images_per_second": round(observed.images_per_second, 3),
        "decide_images_per_second": round(decided.images_per_second, 3),
        "evidence_bytes_per_image": round(observed.bytes / max(1, observed.observed)),
        "quarantine_reasons": dict(Counter(row["error"] for row in known.bad.values())),
        "head": run.head_digest,
        "quality_model": run.quality_digest,
        "corrected_by_people": todo.corrected,
        "stale_corrections": todo.stale,
        "failures": failures[:100],
        **published.details,
    }
    from pipelines.flow.present import present

    summary["report"] = details["report"] = present(proposal, published, details, tracker)
    storage.write_bytes(storage.join(run.folder, "summary.json"), json.dumps(details, indent=2).encode())
    _tell(run, details, observed, published)
    if failures:
        return Outcome(1, summary)
    if unlabeled and (observed.out_of_budget or run.config.from_evidence):
        # What was refused needs a person; what is left is done by the next run.
        return Outcome(published.exit_code or 3, summary)
    if unlabeled:
        raise RunFailed(f"{unlabeled} readable images have no label, and no error says why: please report this")
    return Outcome(published.exit_code, summary)


def _state(run: Run, published: Published) -> str:
    """What readers of the labels see."""
    now = "no snapshot" if published.snapshot is None else f"snapshot {published.snapshot}"
    return f"{now}, as before; candidate {run.run_id} was refused" if published.candidate else now


def _tell(run: Run, details: dict[str, Any], observed: Observed, published: Published) -> None:
    for asset, stage, reason in details["failures"]:
        say(f"failed in {stage}: {asset}\n{reason}")
    took = ", ".join(f"{name} {duration(value)}" for name, value in run.seconds.items())
    say(
        f"{details['images']:,} images: {details['labeled']:,} labeled"
        f"{' in a candidate that was refused' if published.candidate else ''}, {details['reused']:,} as they were, "
        f"{details['quarantined']:,} in quarantine, {details['unlabeled']:,} without a label; {details['vanished']:,} "
        f"vanished ({took})"
    )
    if breaking := details.get("rule_breaking_images"):
        commonest, count = next(iter(details["broken_rules"].items()))
        say(f"{breaking:,} labels break a rule of the classes, {count:,} of them this one: {commonest}")
    if "accepted_images" in details:
        say(
            f"predicted quality: {details['accepted_images']:,} labels are accepted, "
            f"{details['not_accepted_images']:,} are not"
        )
    for asset in details["stale_corrections"][:TOLD_STALE]:
        say(f"correction not used: {asset} has other bytes than the person saw; it is kept in {run.human.url}")
    if details["unlabeled"] and observed.out_of_budget:
        say("the budget is used up; run the same command again for the rest")
    elif details["unlabeled"] and run.config.from_evidence:
        say("the rest has no evidence yet; run the same command without --from-evidence")
    say(f"labels   {run.labels.url} ({_state(run, published)})")
    if details["report"]:
        say(f"report   {details['report']}")
    for name in published.pages:
        if name.endswith(".html"):
            say(f"{name.removesuffix('.html'):<8} {storage.join(run.folder, name)}")
    if run.config.corpus.startswith("sample:"):
        say(
            "your own photographs: python pipelines/label_corpus.py --corpus FOLDER_OR_URL "
            '--classes "cat, dog, person" --output out/mine   (--help says all that it can do)'
        )
