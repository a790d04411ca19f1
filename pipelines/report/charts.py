"""Geometry of the pages' charts; the templates draw them as inline SVG."""

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


#: The plotting area of a line chart in its viewBox, px: left, top, right, bottom; around it is room for ticks.
FRAME = (46.0, 22.0, 412.0, 212.0)
X_TICKS = 5
#: Distances between ticks of the y axis, of which the smallest is taken that needs no more than MOST_Y_TICKS.
Y_STEPS, MOST_Y_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2), 5


@dataclass(frozen=True)
class Line:
    """One curve in a line chart: its points as SVG wants them, and a marked point."""

    name: str
    color: str
    points: str
    mark: tuple[float, float] | None


@dataclass(frozen=True)
class LineChart:
    """x_ticks, y_ticks: (position in the viewBox, value)."""

    lines: list[Line]
    x_ticks: list[tuple[float, float]]
    y_ticks: list[tuple[float, float]]


Curve = tuple[str, str, Sequence[float], Sequence[float], tuple[float, float] | None]


def line_chart(curves: Sequence[Curve]) -> LineChart | None:
    """Curves of (name, colour, x, y, marked point or None), all in 0..1, over x 0..1; None where there is no point.

    The y axis ends at 1 and begins just below the lowest point, so that small differences are seen.
    """
    known = [
        [(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(x) and np.isfinite(y)] for _, _, xs, ys, _ in curves
    ]
    lowest = min((y for points in known for _, y in points), default=None)
    if lowest is None:
        return None
    step = next((one for one in Y_STEPS if (1 - lowest) / one <= MOST_Y_TICKS), Y_STEPS[-1])
    low = 1 - step * max(1, int(np.ceil((1 - lowest) / step - 1e-9)))
    left, top, right, bottom = FRAME

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * (right - left), bottom - (y - low) / (1 - low) * (bottom - top)

    lines = [
        Line(
            name,
            color,
            " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points),
            place(*mark) if mark else None,
        )
        for (name, color, _, _, mark), points in zip(curves, known, strict=True)
    ]
    return LineChart(
        lines,
        [(place(x, low)[0], float(x)) for x in np.linspace(0, 1, X_TICKS)],
        [(place(0, y)[1], float(y)) for y in np.linspace(low, 1, 1 + round((1 - low) / step))],
    )
