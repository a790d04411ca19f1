"""The small actor between workers, loaders and driver: where the stream starts, what happened, what was skipped."""

from typing import Any

Event = dict[str, Any]
SKIPPED_KEPT = 1000


class Monitor:
    """Holds the step that the current segment of the stream starts from, and events until the driver takes them."""

    def __init__(self) -> None:
        self._start = 0
        self._events: list[Event] = []
        self._skipped: dict[str, str] = {}
        self._new: list[tuple[str, str]] = []

    def begin(self, start: int) -> None:
        """Rank 0, before any worker asks for data: the next segment starts when so many steps are done."""
        self._start = start

    def start(self) -> int:
        return self._start

    def tell(self, event: Event) -> None:
        """Rank 0: something for the driver; `kind` says what."""
        self._events.append(event)

    def skip(self, asset: str, reason: str) -> None:
        """A loader: this image cannot be used."""
        if asset not in self._skipped and len(self._skipped) < SKIPPED_KEPT:
            self._skipped[asset] = reason
            self._new.append((asset, reason))

    def take(self) -> tuple[list[Event], list[tuple[str, str]]]:
        """The driver: events and skipped images since the last call."""
        events, skipped = self._events, self._new
        self._events, self._new = [], []
        return events, skipped
