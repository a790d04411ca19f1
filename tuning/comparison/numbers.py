"""The numbers of all sides beside each other: by group, with the spread over seeds."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import stats

from tuning.comparison.pixels import Pixels
from tuning.comparison.settings import Group
from tuning.comparison.sides import Side

#: Numbers of an evaluation in the order of the table: key, name, and whether more (1) or less (-1) is better.
MEASURES = (
    ("images", "judged images", 0),
    ("miou", "mIoU", 1),
    ("miou_voc7", "mIoU of the voc7 classes", 1),
    ("boundary_f", "boundary F, 3 px", 1),
    ("accuracy", "right pixels", 1),
    ("calibration_error", "calibration error", -1),
    ("coverage", "kept pixels", 0),
    ("kept/miou", "mIoU of kept pixels", 1),
    ("kept/accuracy", "right among kept pixels", 1),
)
BETTER = {name: better for _, name, better in MEASURES} | {"validation mIoU": 1}
LEVEL = 0.05
#: What classes are compared by where no IoU is known.
SHARE = "mean share of an image"
SHARE_OF_OWN = f"{SHARE}, over each side's own images"


@dataclass(frozen=True)
class Spread:
    """Numbers of the runs of one group. sd: sample standard deviation, None for fewer than two."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """One number of every group; None where a group does not have it. better: 1 more, -1 less, 0 neither. tests: how
    many rows of its kind are looked at, each with its chance of a false verdict (Bonferroni)."""

    name: str
    better: int
    cells: tuple[Spread | None, ...]
    tests: int = 1

    def gain(self, group: int) -> float | None:
        """How much more a group has than the first one."""
        first, other = self.cells[0], self.cells[group]
        return None if group == 0 or first is None or other is None else other.mean - first.mean

    def clear(self, group: int) -> bool:
        """Whether that is more than seeds differ by, at 5 % over all `tests`. Of single runs nobody knows."""
        p = self._chance(group)
        return p is not None and p < LEVEL / self.tests

    def _chance(self, group: int) -> float | None:
        """p of the gain if both were the same: Welch's t-test where both groups have several runs (B. L. Welch,
        Biometrika, 1947), the t-test of one more run where one has. None where no run differs from its siblings."""
        first, other, gain = self.cells[0], self.cells[group], self.gain(group)
        if first is None or other is None or not gain:
            return None
        several = [cell for cell in (first, other) if cell.sd is not None]
        if not any(cell.sd for cell in several):
            return None
        if len(several) == 2:
            return float(stats.ttest_ind(first.values, other.values, equal_var=False).pvalue)
        (cell,) = several
        count = len(cell.values)
        return float(2 * stats.t.sf(abs(gain) / ((cell.sd or 0.0) * math.sqrt(1 + 1 / count)), count - 1))

    def direction(self, group: int) -> int:
        """1 where a group's number is the better one, -1 where it is the worse one, by however little."""
        gain = self.gain(group) or 0.0
        return self.better * (1 if gain > 0 else -1 if gain < 0 else 0)

    def verdict(self, group: int) -> str:
        """better, worse, or "" where that cannot be said."""
        return {1: "better", -1: "worse"}.get(self.direction(group), "") if self.clear(group) else ""


@dataclass(frozen=True)
class Table:
    """Rows that belong together. title: where they come from."""

    title: str
    rows: tuple[Row, ...]


def tables(sides: Sequence[Side], groups: Sequence[Group], pixels: Pixels | None) -> list[Table]:
    """All numbers: judged on gold (or, without, of stored evaluations that they share), and each side's own."""
    found = []
    title, judged = judged_numbers(sides, pixels)
    rows = [_row(name, [measures(one).get(name) for one in judged], groups) for _, name, _ in MEASURES]
    found.append(Table(title, tuple(row for row in rows if any(row.cells))))
    own = [{**(pixels.surveys[n].numbers() if pixels and n in pixels.surveys else {}), **side.numbers}
           for n, side in enumerate(sides)]  # fmt: skip
    names = list(dict.fromkeys(name for one in own for name in one))
    found.append(
        Table("What they say of themselves", tuple(_row(n, [one.get(n) for one in own], groups) for n in names))
    )
    return [table for table in found if table.rows]


def judged_numbers(sides: Sequence[Side], pixels: Pixels | None) -> tuple[str, list[Mapping[str, Any]]]:
    """(where they come from, the evaluation of each side; {} for a side without)."""
    if pixels is not None and pixels.judges:
        images = {n: judge.score.images for n, judge in pixels.judges.items()}
        results = [{"images": images[n], **pixels.judges[n].result()} if n in images else {} for n in range(len(sides))]
        gold = pixels.gold.address if pixels.gold else ""
        return f"Judged now on {gold}", list(results)
    counted = Counter(key for side in sides for key in {_gold(one) for one in side.evaluations})
    if not counted:
        return "", [{} for _ in sides]
    most = max(counted.values())
    key = [key for key, number in counted.items() if number == most][-1]
    chosen = [[one for one in side.evaluations if _gold(one) == key] for side in sides]
    split = f", {key[1]}" if key[1] else ""
    return f"Stored evaluations on {key[0]}{split}", [found[-1] if found else {} for found in chosen]


def _gold(evaluation: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """What an evaluation was made on: only numbers about the same masks stand beside each other."""
    return str(evaluation.get("gold")), evaluation.get("split"), evaluation.get("gold_digest")


def measures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation by their names in the table."""
    found = {}
    for key, name, _ in MEASURES:
        value: Any = evaluation
        for part in key.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            found[name] = float(value)
    return found


def per_class(sides: Sequence[Side], groups: Sequence[Group], pixels: Pixels | None) -> tuple[str, list[Row]]:
    """(what it is, a row a class): IoU, or where none is known, the mean share of an image that labels give it. What
    differs most comes first."""
    _, judged = judged_numbers(sides, pixels)
    found = [dict(one.get("per_class_iou") or {}) for one in judged]
    if not any(found):
        found = [dict(side.per_class) for side in sides]
    title = "IoU"
    if not any(found) and pixels is not None and pixels.surveys:
        title = SHARE_OF_OWN if any(pixels.alone.values()) else SHARE
        names = pixels.common.names
        found = [
            {names[i]: pixels.surveys[n].area().get(i, 0.0) for i in range(len(names))} if n in pixels.surveys else {}
            for n in range(len(sides))
        ]
    classes = list(dict.fromkeys(name for one in found for name in one))
    rows = [_row(name, [one.get(name) for one in found], groups, 1 if title == "IoU" else 0) for name in classes]
    rows = [row for row in rows if any(cell is not None and cell.mean for cell in row.cells)]
    rows = [replace(row, tests=len(rows)) for row in rows]
    return title, sorted(rows, key=lambda row: -_range(row))


def _range(row: Row) -> float:
    means = [cell.mean for cell in row.cells if cell is not None]
    return max(means) - min(means)


def _row(name: str, values: Sequence[float | None], groups: Sequence[Group], better: int | None = None) -> Row:
    cells = []
    for group in groups:
        told = [value for n in group.members if (value := values[n]) is not None and math.isfinite(value)]
        cells.append(Spread(tuple(told)) if told else None)
    return Row(name, BETTER.get(name, 0) if better is None else better, tuple(cells))


def number(value: float) -> str:
    """Whole numbers without digits behind the point, shares with four, larger ones with fewer."""
    if value == int(value) and (abs(value) >= 2 or value == 0):
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) < 1.0005 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.1f}"


def spread(cell: Spread | None) -> str:
    """0.5123 ± 0.0040, or the number alone, or a dash."""
    if cell is None:
        return "–"
    return number(cell.mean) if not cell.sd else f"{number(cell.mean)} ± {number(cell.sd)}"
