"""A run's own numbers as metrics of Ray, which is where Prometheus finds them while the run goes on.

Only the driver counts, from what its workers report anyway, and at most once a second. So no actor pays for it, and
none takes its last count along when it ends. Ray puts `ray_` before each name and `_total` behind a counter's.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

EXPORT_SECONDS = 1.0

# Name, without Ray's prefix, to (kind, tags, what it says).
METRICS = {
    "maskstream_images": ("Counter", ("step", "outcome"), "Images that went through a step: done, quarantined, failed"),
    "maskstream_images_left": ("Gauge", ("step",), "Images that a step has still to do"),
    "maskstream_images_per_second": ("Gauge", ("step",), "Rate of a step since all of its actors are at work"),
    "maskstream_actors": ("Gauge", ("step",), "Actors that a step runs on"),
    "maskstream_actor_busy_seconds": ("Counter", ("step",), "Time that the actors of a step spent on blocks of images"),
    "maskstream_corpus_images": (
        "Gauge",
        ("state",),
        "Images of the corpus: wanted, and of those evidence_reused, labels_reused, quarantined as the run began",
    ),
}

_made: dict[str, Any] = {}


def running() -> bool:
    """Whether this process is connected to Ray, so that metrics have somewhere to go."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def tell_corpus(counts: Mapping[str, int]) -> None:
    """Set `maskstream_corpus_images` for each state; does nothing without Ray."""
    if running():
        for state, images in counts.items():
            _metric("maskstream_corpus_images").set(images, tags={"state": state})


class StepMetrics:
    """The metrics of one step, told as totals; what Prometheus counts are the differences."""

    def __init__(self, step: str) -> None:
        self.step = step
        self._told: defaultdict[str, float] = defaultdict(float)

    def tell(self, outcomes: Mapping[str, int], busy_seconds: float, gauges: Mapping[str, float]) -> None:
        """Export what is new since the last call; does nothing without Ray, and loses nothing by that.

        outcomes: images so far by outcome. busy_seconds: of all actors so far. gauges: left, per_second and actors.
        """
        if not running():
            return
        for outcome, images in outcomes.items():
            self._count("maskstream_images", outcome, images, {"step": self.step, "outcome": outcome})
        self._count("maskstream_actor_busy_seconds", "busy", busy_seconds, {"step": self.step})
        for name, value in gauges.items():
            _metric(name).set(value, tags={"step": self.step})

    def _count(self, name: str, key: str, total: float, tags: dict[str, str]) -> None:
        new = total - self._told[key]
        if new > 0:
            _metric(name).inc(new, tags=tags)
            self._told[key] += new


def _metric(name: str) -> Any:
    """Ray's object for a metric, made when it is first used: Ray knows where to only once it is connected."""
    if name not in _made:
        from ray.util import metrics

        kind, tags, description = METRICS[name]
        _made[name] = getattr(metrics, kind)(name, description, tag_keys=tags)
    return _made[name]
