"""A whole comparison as plain values: for the page, the terminal and the JSON file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tuning.comparison.config import CompareConfig
from tuning.comparison.judge import interval
from tuning.comparison.numbers import Row, Table, per_class, tables
from tuning.comparison.pixels import Pixels, count
from tuning.comparison.settings import Difference, Group, class_changes, differences, groups
from tuning.comparison.sides import Side

TOP_MOVES = 50


@dataclass(frozen=True)
class Result:
    """settings: that differ and can change a result; elsewhere: the others that differ. class_changes: what happened to
    the classes from the first side, by name of the other. per_class: see `numbers.per_class`. intervals: 95 % interval
    of the gain in mIoU over the first group, by number of the group."""

    sides: Sequence[Side]
    groups: Sequence[Group]
    settings: Sequence[Difference]
    elsewhere: Sequence[Difference]
    class_changes: Sequence[tuple[str, Sequence[str]]]
    pixels: Pixels | None
    tables: Sequence[Table]
    per_class: tuple[str, list[Row]]
    intervals: dict[int, tuple[float, float]]
    remarks: Sequence[str]

    @property
    def uneven(self) -> bool:
        """Whether the label sides are of different images."""
        return self.pixels is not None and any(self.pixels.alone.values())

    def notes(self, most: int) -> list[str]:
        """What a person should know of what was left out."""
        pixels, told = self.pixels, list(self.remarks)
        if pixels is None:
            return told
        for n, assets in pixels.alone.items():
            if assets:
                told.append(f"{len(assets):,} images only in {self.sides[n].name}: {_some(assets, most)}")
        if self.uneven:
            counts = ", ".join(f"{self.sides[n].name} {one.totals.images:,}" for n, one in pixels.surveys.items())
            told.append(
                f"shares, coverage and what sides say of themselves are each over all of a side's own images ({counts})"
                ", pixel flow is over those that all have"
            )
        if pixels.resized:
            told.append(f"{len(pixels.resized):,} images have another size now: {_some(pixels.resized, most)}")
        return told

    def interval_words(self) -> list[str]:
        return [
            f"{self.groups[n].name}: gain in mIoU between {low:+.4f} and {high:+.4f} "
            "(95 %, over images drawn again, the same for both)"
            + (": no more than chance could give" if low <= 0 <= high else "")
            for n, (low, high) in self.intervals.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """All numbers, JSON-able."""
        pixels = self.pixels
        return {
            "sides": [{"name": one.name, "reference": one.reference, "kind": one.kind, "facts": dict(one.facts)}
                      for one in self.sides],
            "groups": [asdict(group) for group in self.groups],
            "settings": {one.name: list(one.values) for one in self.settings},
            "elsewhere": {one.name: list(one.values) for one in self.elsewhere},
            "class_changes": dict(self.class_changes),
            "tables": {table.title: {row.name: _cells(row) for row in table.rows} for table in self.tables},
            "per_class": {"what": self.per_class[0], "classes": {row.name: _cells(row) for row in self.per_class[1]}},
            "gain_interval_95": {self.groups[n].name: list(ends) for n, ends in self.intervals.items()},
            "flows": [self._flow(n) for n in range(len(pixels.flows))] if pixels else [],
            "notes": self.notes(5),
        }  # fmt: skip

    def _flow(self, number: int) -> dict[str, Any]:
        assert self.pixels is not None
        pixels, flow = self.pixels, self.pixels.flows[number]
        names = pixels.common.names
        return {
            "before": self.sides[pixels.shown[0]].name,
            "after": self.sides[pixels.shown[number + 1]].name,
            "images": flow.images,
            "changed_images": flow.changed_images,
            "pixels": flow.pixels,
            "changed_pixels": flow.changed,
            "causes": [
                {"cause": why, "images": images, "changed_pixels": changed} for why, images, changed in flow.reasons()
            ],
            "moves": [
                {"before": names[move.before], "after": names[move.after], "pixels": move.pixels}
                for move in flow.moves()[:TOP_MOVES]
            ],
        }


def _cells(row: Row) -> list[Any]:
    return [
        None if cell is None else {"mean": cell.mean, "sd": cell.sd, "values": list(cell.values)} for cell in row.cells
    ]


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + ("…" if len(names) > most else "")


def make(config: CompareConfig, sides: Sequence[Side]) -> Result:
    """Do the whole comparison. Raises UsageError, and ValueError for sizes that do not fit."""
    together = groups(sides)
    settings, elsewhere = differences(sides)
    first_of = [group.members[0] for group in together]
    pixels, remarks = count(config, sides, first_of if len(together) > 1 else together[0].members)
    first = sides[0].snapshot
    changes = [] if first is None else [
        (side.name, told) for side in sides[1:]
        if side.snapshot is not None and (told := class_changes(first.classes, side.snapshot.classes))
    ]  # fmt: skip
    return Result(
        sides,
        together,
        settings,
        elsewhere,
        changes,
        pixels,
        tables(sides, together, pixels),
        per_class(sides, together, pixels),
        _intervals(together, pixels),
        remarks,
    )


def _intervals(together: Sequence[Group], pixels: Pixels | None) -> dict[int, tuple[float, float]]:
    """Of groups of one run: seeds say more than images where there are several."""
    if pixels is None or len(together[0].members) > 1 or together[0].members[0] not in pixels.judges:
        return {}
    found = {}
    for n, group in enumerate(together[1:], 1):
        if len(group.members) == 1 and group.members[0] in pixels.judges:
            ends = interval(pixels.judges[together[0].members[0]], pixels.judges[group.members[0]])
            if ends is not None:
                found[n] = ends
    return found
