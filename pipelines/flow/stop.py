"""How a run ends before its end: a signal, or something that cannot go on."""

import signal
from types import FrameType


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. What was written stays, and the same command goes on from there."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class RunFailed(Exception):
    """The run cannot go on; the message says why and what to do."""


def stop_on_signals() -> None:
    """Turn SIGINT and SIGTERM into `Interrupted`, raised wherever the main thread is."""

    def handler(number: int, frame: FrameType | None) -> None:
        # A second signal while we clean up ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
