"""A night: lock, train if it is time, label what changed, judge, publish or keep, let go of what is old."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pipelines import storage
from pipelines.flow.job import Outcome, label_corpus
from pipelines.flow.progress import say
from pipelines.lock import only_run
from pipelines.nightly import candidates, student
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.publisher import NightlyPublisher
from pipelines.tables import snapshots
from pipelines.tables.labels import LabelTable


def relabel_nightly(config: NightlyConfig) -> Outcome:
    """Run one night.

    Raises:
        Held: another run has the lock. UsageError, RunFailed, Interrupted: see there.
    """
    if config.dry_run:
        return _dry_run(config)
    with only_run(config.output, config.lock) as confirm:
        if student.due(config):
            student.train(config)
        labeling = config.labeling(labelers=student.labelers(config))
        outcome = label_corpus(labeling, NightlyPublisher(config, confirm))
        _let_go(config, confirm)
        return outcome


def _dry_run(config: NightlyConfig) -> Outcome:
    if student.due(config):
        say("student: a new one would be trained first, and its evidence made for all images")
    return label_corpus(config.labeling(labelers=student.labelers(config)), NightlyPublisher(config))


def _let_go(config: NightlyConfig, confirm: Callable[[], None]) -> None:
    """Delete what is too old."""
    output = storage.absolute(config.output)
    labels = LabelTable(storage.join(output, "labels"))
    if config.keep.snapshots is not None:
        # A day that is still to come makes nothing older than it is.
        before = oldest_kept(min(config.moment, datetime.now(UTC)), config.keep.snapshots)
        confirm()
        dropped = candidates.drop_older(output, before)
        held = {file for candidate in candidates.candidates(output) for file in candidate.files}
        versions, freed = snapshots.vacuum(labels, before, held)
        if freed:
            told = f"snapshots up to {max(versions)} cannot be read any more" if versions else "no snapshot is lost"
            say(f"labels: {freed / 2**20:,.1f} MiB of old files deleted; {told}")
        if dropped:
            say(f"candidates too old to keep: {', '.join(dropped)}")


def oldest_kept(moment: datetime, age_s: float) -> datetime:
    """What was replaced before this is deleted."""
    return moment - timedelta(seconds=age_s)
