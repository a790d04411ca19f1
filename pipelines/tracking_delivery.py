"""Operations on their way to MLflow: in order, in a thread of its own, tried again where MLflow was away."""

import threading
import time
from collections.abc import Callable

from pipelines.tracking_names import first_line
from pipelines.tracking_store import About, Operation, RunWriter, is_refusal

#: How long a store that was away is left alone before the next try, s.
RETRY_S = 60.0
#: Refused operations that a person is told of, one by one.
REFUSALS_TOLD = 3


class Delivery:
    """All operations of one run. `operations` keeps the delivered ones too: a store that lost a run can have it again.

    failure: why MLflow has not got everything; None where it has, or is about to. lost(reason): called when it is away.
    """

    def __init__(
        self,
        about: About,
        tracking_uri: str,
        artifacts: str | None,
        say: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        self.about = about
        self.operations: list[Operation] = []
        self.failure: str | None = None
        self._uri, self._artifacts, self._say, self._lost = tracking_uri, artifacts, say, lost
        self._run: RunWriter | None = None
        self._delivered = self._refused = 0
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, operation: Operation) -> None:
        with self._changed:
            self.operations.append(operation)
            self._changed.notify_all()

    def drain(self, patience: float) -> None:
        """Wait until all is delivered, the store is away, or the patience is over."""
        with self._changed:
            there = self._changed.wait_for(lambda: self.failure is not None or self._all_delivered(), patience)
        if not there:
            self._give_up(f"no answer within {patience:.0f} s")

    def end(self, status: str, patience: float) -> None:
        """Nothing more comes: deliver what is left, with one more try where the store was away, and close the run."""
        with self._changed:
            self.about.status, self.about.ended_ms = status, round(time.time() * 1000)
            self._ended = True
            self._changed.notify_all()
        self._thread.join(patience)
        if self._thread.is_alive():
            self._give_up(f"no answer within {patience:.0f} s")

    def _all_delivered(self) -> bool:
        return self._run is not None and self._delivered == len(self.operations)

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(self._has_work, RETRY_S if self.failure else None)
                last = self._ended
            try:
                self._deliver()
                if last and self._all_delivered() and self._run is not None:
                    self._run.close()
                    self._closed = True
            except Exception as error:  # whatever MLflow raises: a run does not end for it
                self._give_up(first_line(error))
            else:
                self._recover()
            if last and self.failure:
                return

    def _has_work(self) -> bool:
        return self._ended or (self.failure is None and not self._all_delivered())

    def _deliver(self) -> None:
        if self._run is None:
            self._run = RunWriter(self.about, self._uri, self._artifacts)
        while self._delivered < len(self.operations):
            operation = self.operations[self._delivered]
            try:
                self._run.apply(operation)
            except Exception as error:
                if not is_refusal(error):
                    raise
                self._refused += 1
                if self._refused <= REFUSALS_TOLD:
                    self._say(f"MLflow does not take {operation.kind} of this run ({first_line(error)})")
            with self._changed:
                self._delivered += 1
                self._changed.notify_all()

    def _give_up(self, reason: str) -> None:
        with self._changed:
            first, self.failure = self.failure is None, reason
            self._changed.notify_all()
        if first:
            self._lost(reason)

    def _recover(self) -> None:
        with self._changed:
            back, self.failure = self.failure is not None, None
        if back:
            self._say("MLflow has answered again, and has all that was logged meanwhile")
