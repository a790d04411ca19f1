"""Memory and CPU time of every process that a benchmark starts, and that those start: shared by the benchmarks here."""

import ctypes
import threading
from collections import defaultdict
from types import TracebackType

import psutil

PR_SET_CHILD_SUBREAPER = 36
MB = 2**20


class ProcessTree:
    """Samples the descendants of this process from a thread, while the `with` block lasts.

    Memory is PSS (/proc/*/smaps_rollup): a page that several processes share, such as Ray's object store, counts once
    in the sum. Orphans come to this process instead of to init, so that none leaves the tree.

    peak_mb: highest sum over all processes at one time. peaks_mb: highest of each process, by pid. at_peak: sum by
    process name at the time of `peak_mb`. names: all that were seen. cpu_seconds: user and system time of all, up to
    one period short for each process that ended.
    """

    def __init__(self, every_seconds: float = 1.0, memory: bool = True) -> None:
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError("the kernel refuses PR_SET_CHILD_SUBREAPER: orphans would be missed")
        self.every_seconds, self.memory = every_seconds, memory
        self.peak_mb = 0.0
        self.peaks_mb: dict[int, float] = defaultdict(float)
        self.at_peak: dict[str, float] = {}
        self.names: set[str] = set()
        self._cpu: dict[tuple[int, float], float] = {}
        self._me = psutil.Process()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())

    @property
    def processes(self) -> int:
        """How many different processes were seen."""
        return len(self._cpu)

    def __enter__(self) -> "ProcessTree":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is not None:
            for process in self._me.children():
                process.terminate()
        # What the run left behind must be gone before the next one is measured.
        psutil.wait_procs(self._me.children(recursive=True), timeout=20)

    def _watch(self) -> None:
        while not self._over.wait(self.every_seconds):
            self._sample()

    def _sample(self) -> None:
        now: dict[str, float] = defaultdict(float)
        for process in self._me.children(recursive=True):
            try:
                times, name = process.cpu_times(), process.name()
                pss = process.memory_full_info().pss / MB if self.memory else 0.0
            except psutil.Error:
                continue  # it ended meanwhile
            self.names.add(name)
            self._cpu[process.pid, process.create_time()] = times.user + times.system
            self.peaks_mb[process.pid] = max(self.peaks_mb[process.pid], pss)
            now[name] += pss
        if sum(now.values()) > self.peak_mb:
            self.peak_mb = sum(now.values())
            self.at_peak = dict(sorted(now.items(), key=lambda item: -item[1]))
