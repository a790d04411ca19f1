"""Progress of a step: a bar on a terminal, else a line every few seconds, on stderr."""

import sys
import time

from tqdm import tqdm

from pipelines.metrics_export import EXPORT_SECONDS, StepMetrics


class Progress:
    """Counts images (or what `unit` says) done, and says the rate, the time left and how many went to quarantine, here
    and to Prometheus.

    total: images, None if unknown. workers: how many bring results at once.
    """

    def __init__(
        self, step: str, total: int | None, every_seconds: float, workers: int = 1, unit: str = "image"
    ) -> None:
        self.step, self.total, self.every_seconds, self.workers = step, total, every_seconds, workers
        self.unit = unit
        self.results = 0
        self.done = self.quarantined = self.failed = self.actors = 0
        self.busy_seconds = 0.0
        self.started = self.last = self.exported = time.monotonic()
        self.metrics = StepMetrics(step)
        # The rate counts from when every worker had time for a first result: before, they start and load models.
        self.first: tuple[float, int] | None = None
        self.bar = tqdm(total=total, desc=step, unit=unit, disable=not sys.stderr.isatty())

    def at_work(self, actors: int) -> None:
        """So many actors begin: whoever watches sees what is to do before the first of it is done."""
        self.actors = actors
        self._export(0.0, actors)

    def add(self, images: int, quarantined: int = 0, failed: int = 0, busy_seconds: float = 0.0) -> None:
        """images: all that came to an end, quarantined and failed ones too. busy_seconds: of the actors, on them."""
        self.done += images
        self.quarantined += quarantined
        self.failed += failed
        self.busy_seconds += busy_seconds
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
        if now - self.exported >= EXPORT_SECONDS:
            self.exported = now
            self._export(self.rate, self.actors)

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

    def _export(self, rate: float, actors: int) -> None:
        good = self.done - self.quarantined - self.failed
        outcomes = {"done": good, "quarantined": self.quarantined, "failed": self.failed}
        gauges = {"maskstream_images_per_second": rate, "maskstream_actors": float(actors)}
        if self.total is not None:
            gauges["maskstream_images_left"] = float(self.total - self.done)
        self.metrics.tell(outcomes, self.busy_seconds, gauges)

    def close(self) -> None:
        self.bar.close()
        self._export(0.0, 0)


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
