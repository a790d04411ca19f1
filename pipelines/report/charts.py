"""Geometry of the page's two charts; the template draws them as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.report.data import Totals

#: More bars than this are no picture any more; the rest are counted in a line below.
MAX_BARS = 30


@dataclass(frozen=True)
class Bar:
    """One class of the area chart. share, kept: mean share over all images, 0..1; width, kept_width: 0..100."""

    id: int
    name: str
    color: str
    share: float
    kept: float
    images: int
    width: float
    kept_width: float


def class_bars(classes: Sequence[tuple[int, str, str]], totals: Totals) -> list[Bar]:
    """Bars of (id, name, colour) entries, largest class first, at most MAX_BARS, those that never occur left out."""
    images = max(totals.images, 1)
    shares = {class_id: totals.area.get(class_id, 0.0) / images for class_id, _, _ in classes}
    top = max([*shares.values(), 1e-9])
    bars = [
        Bar(
            id=class_id,
            name=name,
            color=color,
            share=shares[class_id],
            kept=totals.kept.get(class_id, 0.0) / images,
            images=totals.images_with.get(class_id, 0),
            width=100 * shares[class_id] / top,
            kept_width=100 * min(totals.kept.get(class_id, 0.0) / images, shares[class_id]) / top,
        )
        for class_id, name, color in classes
        if shares[class_id] > 0
    ]
    return sorted(bars, key=lambda bar: (-bar.share, bar.name))[:MAX_BARS]


@dataclass(frozen=True)
class Column:
    """One bin: confidence from `low` to `high` (0..1), `count` in it, `height` 0..100 of the tallest."""

    low: float
    high: float
    count: int
    height: float


def histogram(bins: npt.NDArray[np.int64]) -> list[Column]:
    """Columns of equal bins over 0..1; empty where nothing was counted."""
    tallest = int(bins.max(initial=0))
    if tallest == 0:
        return []
    edges = np.linspace(0, 1, len(bins) + 1)
    return [
        Column(float(low), float(high), int(count), 100 * int(count) / tallest)
        for low, high, count in zip(edges[:-1], edges[1:], bins, strict=True)
    ]
