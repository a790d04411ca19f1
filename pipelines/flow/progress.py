"""Progress of a step: a bar on a terminal, else a line every few seconds, on stderr."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Counts images (or what `unit` says) done, and says the rate, the time left and how many went to quarantine.

    total: images, None if unknown. workers: how many bring results at once.
    """

    def __init__(
        self, step: str, total: int | None, every_seconds: float, workers: int = 1, unit: str = "image"
    ) -> None:
        self.step, self.total, self.every_seconds, self.workers = step, total, every_seconds, workers
        self.unit = unit
        self.results = 0
        self.done = self.quarantined = 0
        self.started = self.last = time.monotonic()
        # The rate counts from when every worker had time for a first result: before, they start and load models.
        self.first: tuple[float, int] | None = None
        self.bar = tqdm(total=total, desc=step, unit=unit, disable=not sys.stderr.isatty())

    def add(self, images: int, quarantined: int = 0) -> None:
        self.done += images
        self.quarantined += quarantined
        now = time.monotonic()
        self.results += 1
        if self.results == self.workers:
            self.first = (now, self.done)
        self.bar.update(images)
        if self.bar.disable and (now - self.last >= self.every_seconds or self.done == self.total):
            self.last = now
            self.line()
        elif not self.bar.disable and self.quarantined:
            self.bar.set_postfix(quarantined=self.quarantined)

    @property
    def rate(self) -> float:
        """Images a second since all workers are at work; over all the time before."""
        now = time.monotonic()
        if self.first and self.done > self.first[1] and now > self.first[0]:
            return (self.done - self.first[1]) / (now - self.first[0])
        return self.done / max(1e-9, now - self.started)

    def line(self) -> None:
        rate = self.rate
        more = f", {self.quarantined} quarantined" if self.quarantined else ""
        if self.total is None:
            say(f"{self.step}: {self.done:,} {self.unit}s, {rate:.1f} {self.unit}s/s{more}")
            return
        eta = duration((self.total - self.done) / rate) if rate > 0 else "unknown"
        say(f"{self.step}: {self.done:,}/{self.total:,} {self.unit}s, {rate:.1f} {self.unit}s/s, ETA {eta}{more}")

    def close(self) -> None:
        self.bar.close()


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def say(text: str) -> None:
    """A line for the person who watches; stdout is kept for results."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
