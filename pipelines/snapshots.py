"""Published labels over time: which snapshots and candidates there are, how two differ, and the way back.

    python pipelines/snapshots.py --output out/photos
    python pipelines/snapshots.py --output out/photos --diff 3:5
    python pipelines/snapshots.py --output out/photos --rollback 3 --reason "the new prompts mistake foxes for dogs"
    python pipelines/snapshots.py --output out/photos --publish 20261122-030000-1f2e3d --reason "looked at by hand"

Without an action it lists. A rollback and a publication are one atomic commit each: readers see the labels before it or
those after it. After a rollback, nightly runs do not publish the labels again that it took back, until the settings
change or --publish-anyway says so. The last line on stdout is one JSON object. Exit codes: 0 done; 1 failed; 2 bad
usage; 5 a nightly run is at work on this output.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pipelines.config import LockConfig, Section, UsageError, parse

EXIT_FAILED, EXIT_USAGE, EXIT_HELD = 1, 2, 5


class SnapshotsConfig(Section):
    """Everything that `snapshots.py` can be told."""

    output: str = Field(description="the output folder or URL of label_corpus.py or relabel_nightly.py")
    rollback: int | None = Field(default=None, ge=1, description="publish the labels of this older snapshot again")
    publish: str | None = Field(default=None, description="publish the candidate of this name")
    diff: str | None = Field(default=None, description="OLD:NEW, two snapshots to compare, such as 3:5")
    reason: str | None = Field(default=None, description="why, for --rollback and --publish; it is recorded")
    lock: LockConfig = LockConfig()


def run(config: SnapshotsConfig) -> dict[str, Any]:
    """Do what is asked for. Raises UsageError, Held."""
    actions = [name for name in ("rollback", "publish", "diff") if getattr(config, name) is not None]
    if len(actions) > 1:
        raise UsageError(f"--{actions[0]} and --{actions[1]}: one at a time")
    if actions and actions[0] != "diff" and not (config.reason or "").strip():
        raise UsageError(f"--reason is missing: say why, for those who read the list of snapshots after --{actions[0]}")
    if config.diff is not None:
        return compare(config.output, config.diff)
    return change(config) if actions else listing(config.output)


def change(config: SnapshotsConfig) -> dict[str, Any]:
    """Roll back, or publish a candidate, with the lock of the output held."""
    from pipelines import storage
    from pipelines.lock import only_run
    from pipelines.nightly import candidates
    from pipelines.tables.labels import LabelTable
    from pipelines.tables.snapshots import roll_back

    output = storage.absolute(config.output)
    labels, reason = LabelTable(storage.join(output, "labels")), str(config.reason)
    with only_run(output, config.lock) as confirm:
        if config.publish is not None:
            return {"snapshot": candidates.publish(output, config.publish, reason), "published": config.publish}
        assert config.rollback is not None
        name = f"rollback-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        return {"snapshot": roll_back(labels, config.rollback, name, reason, confirm), "labels_of": config.rollback}


def listing(output: str) -> dict[str, Any]:
    """Print snapshots and candidates, the newest first."""
    from pipelines import storage
    from pipelines.nightly import candidates
    from pipelines.tables.labels import LabelTable
    from pipelines.tables.snapshots import readable, snapshots

    output = storage.absolute(output)
    labels = LabelTable(storage.join(output, "labels"))
    known = snapshots(labels)
    for number, one in enumerate(known):
        words = ["published"] if not number else [] if readable(labels, one.version) else ["vacuumed"]
        words += [f"back to {one.back_to}"] if one.back_to is not None else []
        words += [f"the same labels as {one.same_as}"] if one.same_as is not None else []
        words += [one.reason] if one.reason else []
        print(f"{one.version:>6}  {one.at:%Y-%m-%d %H:%M} UTC  {one.run_id:<28}{', '.join(words)}", file=sys.stderr)
    kept = candidates.candidates(output)
    for candidate in reversed(kept):
        print(f"candidate {candidate.name}, after {candidate.base}: {'; '.join(candidate.reasons)}", file=sys.stderr)
    published = known[0].version if known else None
    return {"published": published, "snapshots": len(known), "candidates": [one.name for one in kept]}


def compare(output: str, which: str) -> dict[str, Any]:
    """Print how two snapshots differ."""
    from pipelines.nightly.diff import diff
    from pipelines.nightly.present import diff_notes, numbers_of
    from pipelines.nightly.sides import Side, Sides

    old, colon, new = which.partition(":")
    if not colon or not old.isdigit() or not new.isdigit():
        raise UsageError(f"--diff {which}: expected OLD:NEW, two snapshots, such as 3:5")
    changes = diff(Sides(Side.open(f"{output}@{old}"), Side.open(f"{output}@{new}")))
    for title, rows in diff_notes(changes):
        print(f"\n{title}", file=sys.stderr)
        for cells in rows[:30]:
            print("  ".join("" if cell is None else f"{cell!s:<16}" for cell in cells).rstrip(), file=sys.stderr)
    return numbers_of(changes)


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(SnapshotsConfig, argv, prog="snapshots.py", description=__doc__ or "")
    from pipelines.lock import Held

    try:
        result = run(config)
    except UsageError as error:
        print(f"snapshots.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Held as error:
        print(f"snapshots.py: a run is at work: {error}", file=sys.stderr)
        return EXIT_HELD
    except OSError as error:
        print(f"snapshots.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
