"""One run at a time on one output: a lock with a lease, on disk and on S3.

`OUTPUT/lock.json` says who holds it and until when. The holder renews it while it works; one that was killed stops
renewing, and its lease runs out. On the holder's own machine nobody waits for that: a process that is gone holds
nothing. Nothing is ever deleted, every change is a conditional write, so two that try at once cannot both succeed.
Clocks of different machines must agree to within a fraction of the lease.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines import conditional, storage
from pipelines.conditional import Conflict, Unsupported
from pipelines.config import LockConfig, UsageError
from pipelines.flow.progress import duration, say
from pipelines.flow.stop import RunFailed

NAME = "lock.json"
GUARD = NAME + conditional.GUARD
# Renewals in one lease: two may fail before it is lost.
RENEWALS = 3
POLL_S = 2.0


class Held(Exception):
    """Another run holds the lock; the message says which, and until when."""


class LockLost(RunFailed):
    """Another run took the lock over, because ours was not renewed in time."""


class OutputLock:
    """The lock of an output, as a context manager.

    lease_s: how long a killed holder keeps others out, s. wait_s: how long to wait for another holder, s; 0: not.
    Raises Held, and conditional.Unsupported for a storage that cannot lock.
    """

    def __init__(self, output: str, lease_s: float, wait_s: float = 0.0) -> None:
        self.url = storage.join(storage.absolute(output), NAME)
        self.lease_s, self.wait_s = lease_s, wait_s
        self.holder = uuid.uuid4().hex
        self.since = _now()
        self._tag = ""
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self._lost = ""
        self._thread = threading.Thread(target=self._renew_on, name="lock", daemon=True)

    def __enter__(self) -> "OutputLock":
        end = time.monotonic() + self.wait_s
        told = ""
        while (held := self._try()) is not None:
            left = end - time.monotonic()
            if left <= 0:
                raise Held(f"{self.url}: {held}")
            if held != told:
                say(f"waiting up to {duration(left)}: {held}")
                told = held
            time.sleep(min(POLL_S, self.lease_s / RENEWALS, left))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        # Whatever fails here, the lease runs out.
        with contextlib.suppress(Exception), self._mutex:
            if not self._lost:
                conditional.write(
                    self.url, _json({"holder": None, "freed_at": _now(), "was": self._record()}), self._tag
                )

    def confirm(self) -> None:
        """Renew now; raises LockLost where another run has the lock. To be called right before what must not be done
        by two."""
        self._renew()
        if self._lost:
            raise LockLost(self._lost)

    def _try(self) -> str | None:
        """Take the lock; None if it is ours now, else who holds it."""
        data, tag = conditional.read(self.url)
        held = _held_by(data)
        if held is not None:
            return held
        if data is not None and (stale := json.loads(data)).get("holder"):
            say(f"the lock of a run that is gone is taken over ({_name(stale)})")
        try:
            self._tag = conditional.write(self.url, _json(self._record()), tag)
            self._check_conditions()
        except Conflict:
            return _held_by(conditional.read(self.url)[0]) or "another run took it at the same moment"
        return None

    def _check_conditions(self) -> None:
        """A storage that ignores conditions would let everybody in."""
        if "://" not in self.url:
            return
        try:
            conditional.write(self.url, _json({**self._record(), "probe": True}), "")
        except Conflict:
            return
        raise Unsupported(f"{self.url}: this storage ignores conditional writes, so it cannot lock")

    def _record(self) -> dict[str, Any]:
        return {
            "holder": self.holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_ticks": _started(os.getpid()),
            "machine": _machine(),
            # Without its arguments: they may name what is being forgotten.
            "command": Path(sys.argv[0]).name,
            "since": self.since,
            "expires_at": time.time() + self.lease_s,
            "lease_s": self.lease_s,
        }

    def _renew(self) -> None:
        with self._mutex:
            if self._lost:
                return
            try:
                self._tag = conditional.write(self.url, _json(self._record()), self._tag)
            except Conflict:
                other = _held_by(conditional.read(self.url)[0]) or "another run, which has ended since"
                self._lost = f"the lock on {self.url} was taken over, so nothing is published: {other}"

    def _renew_on(self) -> None:
        while not self._ended.wait(self.lease_s / RENEWALS):
            # The store may not answer for a while; there is time for more tries.
            with contextlib.suppress(Exception):
                self._renew()


@contextlib.contextmanager
def only_run(output: str, settings: LockConfig, required: bool = True) -> Iterator[Callable[[], None]]:
    """Be the only run on an output. Gives a function to call right before what two must not do: it raises LockLost.

    required: whether a storage that cannot lock is a mistake, or is only told of. Raises Held, UsageError.
    """
    with contextlib.ExitStack() as stack:
        confirm: Callable[[], None] = lambda: None  # noqa: E731
        if settings.enabled:
            try:
                confirm = stack.enter_context(OutputLock(output, settings.lease, settings.wait)).confirm
            except Unsupported as error:
                if required:
                    advice = "--lock.enabled false does without, if nothing else ever runs on it"
                    raise UsageError(f"{error}; {advice}") from error
                say(f"{error}: make sure that nothing else runs on this output")
        yield confirm


def _held_by(data: bytes | None) -> str | None:
    """Who holds the lock that says `data`, in words; None if nobody does."""
    if data is None:
        return None
    try:
        record = json.loads(data)
    except ValueError:
        return None  # Torn by hand; nobody who holds it writes such a thing.
    if not record.get("holder") or record.get("expires_at", 0) <= time.time() or _is_gone(record):
        return None
    until = datetime.fromtimestamp(record["expires_at"], UTC)
    return f"{_name(record)} holds it, and renews it before {until:%H:%M:%S} UTC"


def _name(record: dict[str, Any]) -> str:
    return f"process {record['pid']} on {record['host']}, since {record['since']}: {record['command']}"


def _is_gone(record: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, and is no more."""
    if record.get("machine") != _machine():
        return False
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # It is another user's.
    started, told = _started(record["pid"]), record.get("started_ticks")
    # Where nothing tells, whoever has its number now counts as the holder.
    return started is not None and told is not None and started != told


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot, which no change of the clock moves; None where nothing tells
    (systems without /proc, processes that are hidden)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _machine() -> str:
    """Where a process id means the same process: one boot, one namespace of processes; "" where nothing tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return str(uuid.uuid4())


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2).encode()


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
