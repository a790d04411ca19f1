"""What becomes of new labels: they are published at once, or a publisher of another kind decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import storage
from pipelines.flow.deciding import Decided, Plan
from pipelines.flow.observing import Known
from pipelines.flow.past import CLASS_SET
from pipelines.flow.progress import say
from pipelines.flow.run import Run
from pipelines.flow.stop import RunFailed
from pipelines.learned import COMMIT
from pipelines.tables.snapshots import ANYWAY, taken_back, withdrawn


@dataclass(frozen=True)
class Proposal:
    """What a run would publish. images: how many the corpus has."""

    run: Run
    images: int
    known: Known
    todo: Plan
    decided: Decided

    @property
    def metadata(self) -> dict[str, str]:
        """What the commit says of itself."""
        learned = {COMMIT: self.run.head_digest} if self.run.head_digest else {}
        return {"run_id": self.run.run_id, CLASS_SET: self.run.classes.digest, **learned}


@dataclass
class Published:
    """What became of it.

    snapshot: the version that readers see now, None while nothing is published. exit_code: of a run that did all it was
    asked for. candidate: data files that were not published. summary, details: numbers for the last line of stdout, and
    for summary.json and MLflow. notes: paragraphs for the report, each a title and rows of cells, the first of them
    their heads. pages: files for the run's folder and MLflow, by name. report: whether there is anything to show.
    """

    snapshot: int | None
    exit_code: int = 0
    candidate: Sequence[str] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[tuple[str, Sequence[Sequence[object]]]] = ()
    pages: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, object] = field(default_factory=dict)
    report: bool = True


class Publisher:
    """Publishes at once.

    What a rollback took back is published again only for a reason (`publish_anyway`).

    confirm: called right before the commit; raises if this run may not publish any more. recheck: labels that are as
    they should be, and are to be decided once more.
    """

    recheck = 0

    def __init__(self, confirm: Callable[[], None] = lambda: None) -> None:
        self.confirm = confirm

    def __call__(self, proposal: Proposal) -> Published:
        labels, files = proposal.run.labels, proposal.decided.files
        if not files:
            self.confirm()
            return Published(labels.version())
        metadata = proposal.metadata | _reason(proposal)
        self.confirm()
        # It need not follow the snapshot that it was decided from: of two labels of an image the newer counts, whoever
        # commits first, so a commit in between (where nothing can lock) loses nothing. A gate has to say `after`.
        return Published(labels.commit(files, metadata))


def _reason(proposal: Proposal) -> dict[str, str]:
    """For which reason labels are published that a rollback took back, if there are any. Raises RunFailed without."""
    labels, reason = proposal.run.labels, proposal.run.config.publish_anyway
    back = withdrawn(labels, [storage.join(labels.url, file.name) for file in proposal.decided.files])
    if not back:
        return {}
    if reason is None:
        raise RunFailed(
            f"{taken_back(back)} and would be published again. Nothing is published; what was decided is kept. Change "
            'a setting that made them, or say --publish-anyway "reason"; relabel_nightly.py shows what they would '
            "change before it publishes"
        )
    say(f"{taken_back(back)}; published anyway: {reason}")
    return {ANYWAY: reason}
