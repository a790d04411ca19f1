"""The page of a comparison: what the template draws, made from what was counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.report import layers
from pipelines.report.charts import Curve, LineChart, line_chart
from pipelines.report.render import Layer, readable, render, to_hex
from tuning.comparison.cards import COLORS, HATCH
from tuning.comparison.flow import Flow
from tuning.comparison.numbers import Row, Spread, Table, number, spread
from tuning.comparison.result import Result
from tuning.comparison.settings import Difference

#: Of the groups, by their number; they come again after the last.
GROUP_COLORS = tuple(layers.SOURCE_COLORS[n] for n in (7, 4, 2, 5, 6, 1, 8, 9))
MAX_CLASS_ROWS, MAX_MOVES, MAX_NAMES = 24, 12, 20
INVITATION = "Point at a pixel to see what each side says of it."


@dataclass(frozen=True)
class Cell:
    """One group's number in a table: text, what else to know of it, and how it compares with the first group's."""

    text: str
    title: str
    gain: str
    verdict: str


@dataclass(frozen=True)
class ClassBar:
    """One group's bar of a class, 0..100 of the longest. low, high: mean minus and plus the spread."""

    width: float
    low: float
    high: float
    color: str
    text: str


@dataclass(frozen=True)
class FlowView:
    """Pixel flow as the page shows it. matrix: a row a class: (index, cells of (share of the row, 0..1; pixels))."""

    before: str
    after: str
    changed: float
    images: int
    changed_images: int
    moves: list[Any]
    more: int
    causes: list[tuple[str, int, int]]
    columns: list[int]
    matrix: list[tuple[int, list[tuple[float, int]]]]


def group_color(number: int) -> str:
    return to_hex(GROUP_COLORS[number % len(GROUP_COLORS)])


def build_page(result: Result, config: str) -> str:
    """The whole comparison as one HTML text. config: the command's own settings."""
    pixels = result.pixels
    differing = pixels.differing if pixels else None
    shown = pixels.common.shown if pixels else []
    colors = differing.colors if differing else {entry.id: entry.color for entry in shown}
    layer_list = differing.layers() if differing else [Layer("image", "i", "Image", "")]
    cards = differing.cards() if differing else []
    present = {i for card in cards for i, _ in card.areas}
    background = pixels.common.background if pixels else None
    class_title, class_rows = result.per_class
    return render(
        "compare.html.j2",
        layer_list,
        layer_list[-1].name,
        HATCH,
        INVITATION,
        tiles(result),
        {
            "classes": {to_hex(colors[entry.id]): entry.name for entry in shown} | {"#808080": "not judged"},
            "background": None if background is None else pixels.common.names[background] if pixels else None,
            "differences": {to_hex(COLORS[n]): name for n, name in _kinds(result)},
        },
        folder=Path(__file__).parent,
        title=title(result),
        config=config,
        cards=[(card, False) for card in cards],
        images=_candidates(result),
        names={entry.id: entry.name for entry in shown},
        colors={entry.id: to_hex(colors[entry.id]) for entry in shown},
        classes=[entry for entry in shown if entry.id in present],
        background_id=background,
        groups=[(group, group_color(n), _facts(result, group.members)) for n, group in enumerate(result.groups)],
        settings=[_setting(result, one) for one in result.settings],
        elsewhere=[_setting(result, one) for one in result.elsewhere],
        class_changes=result.class_changes,
        tables=[_table(table) for table in result.tables],
        intervals=result.interval_words(),
        class_title=class_title,
        class_rows=_class_rows(class_rows[:MAX_CLASS_ROWS]),
        has_spread=any(len(group.members) > 1 for group in result.groups),
        class_more=max(0, len(class_rows) - MAX_CLASS_ROWS),
        curve=trade_off(result),
        curve_of_gold=bool(pixels and pixels.judges),
        has_labels=bool(pixels and pixels.surveys),
        flows=[_flow(result, n) for n in range(len(pixels.flows))] if pixels else [],
        differences=[(name, to_hex(COLORS[n])) for n, name in _kinds(result)],
        notes=result.notes(MAX_NAMES),
        sides=[result.sides[n].name for n in pixels.shown] if pixels else [],
    )


def _candidates(result: Result) -> int:
    """Images that the page could show: those that were compared, with gold those that were judged."""
    pixels = result.pixels
    if pixels is None or not pixels.flows:
        return 0
    return max((judge.score.images for judge in pixels.judges.values()), default=pixels.flows[0].images)


def title(result: Result) -> str:
    names = [group.name for group in result.groups]
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def tiles(result: Result) -> dict[str, object]:
    """The few numbers at the top."""
    found: dict[str, object] = {"settings that differ": len(result.settings)}
    pixels = result.pixels
    if pixels and pixels.flows:
        found["images compared"] = pixels.flows[0].images
        found["images that changed"] = max(flow.changed_images for flow in pixels.flows)
        found["pixels that changed"] = f"{100 * max(flow.changed_share for flow in pixels.flows):.2f} %"
    for row in (row for table in result.tables for row in table.rows):
        if row.name == "mIoU":
            found |= {
                f"mIoU, {group.name}": spread(cell)
                for group, cell in zip(result.groups, row.cells, strict=True)
                if cell
            }
    return found


def _kinds(result: Result) -> list[tuple[int, str]]:
    differing = result.pixels.differing if result.pixels else None
    return list(enumerate(differing.kinds, 1)) if differing else []


def _facts(result: Result, members: Sequence[int]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (result.sides[n].name, [(name, readable(value) if name not in ("snapshot",) else str(value))
                                for name, value in result.sides[n].facts.items()])
        for n in members
    ]  # fmt: skip


def _setting(result: Result, one: Difference) -> tuple[str, list[str]]:
    """(name, what each group was told)."""
    told = []
    for group in result.groups:
        values = dict.fromkeys(one.values[n] for n in group.members)
        told.append(", ".join("–" if value is None else value for value in values))
    return one.name, told


def _table(table: Table) -> tuple[str, list[tuple[str, list[Cell]]]]:
    return table.title, [(row.name, [_cell(row, n) for n in range(len(row.cells))]) for row in table.rows]


def _cell(row: Row, group: int) -> Cell:
    cell, gain = row.cells[group], row.gain(group)
    runs = "" if cell is None or cell.sd is None else "runs: " + ", ".join(map(number, cell.values))
    arrow = {1: "▲", -1: "▼"}.get(row.direction(group), "")
    told = "" if gain is None or gain == 0 else arrow + _signed(gain)
    return Cell(spread(cell), runs, told, row.verdict(group))


def _signed(value: float) -> str:
    return "0" if value == 0 else ("+" if value > 0 else "−") + number(abs(value))


def _class_rows(rows: Sequence[Row]) -> list[tuple[str, list[ClassBar | None], str]]:
    top = max((_reach(cell) for row in rows for cell in row.cells if cell is not None), default=1.0) or 1.0
    found = []
    for row in rows:
        bars = [None if cell is None else _bar(cell, n, top) for n, cell in enumerate(row.cells)]
        gain = row.gain(len(row.cells) - 1) if len(row.cells) > 1 else None
        found.append((row.name, bars, "" if gain is None else _signed(gain)))
    return found


def _reach(cell: Spread) -> float:
    return cell.mean + (cell.sd or 0.0)


def _bar(cell: Spread, group: int, top: float) -> ClassBar:
    sd = cell.sd or 0.0
    low, high = max(0.0, cell.mean - sd), cell.mean + sd
    return ClassBar(100 * cell.mean / top, 100 * low / top, 100 * high / top, group_color(group), spread(cell))


def trade_off(result: Result) -> LineChart | None:
    """Precision over coverage where there is gold, else coverage over the confidence threshold."""
    pixels = result.pixels
    curves: list[Curve] = []
    for number_, group in enumerate(result.groups):
        for n in group.members:
            name, color = result.sides[n].name, group_color(number_)
            if pixels and n in pixels.judges:
                judge = pixels.judges[n]
                policy = judge.policy()
                curves.append((name, color, judge.trade.coverage().tolist(), judge.trade.precision().tolist(), policy))
            elif pixels and not pixels.judges and n in pixels.surveys:
                levels = [level / 255 for level in range(256)]
                curves.append((name, color, levels, pixels.surveys[n].coverage().tolist(), None))
    return line_chart(curves)


def _flow(result: Result, number_: int) -> FlowView:
    assert result.pixels is not None
    flow: Flow = result.pixels.flows[number_]
    moves, chosen = flow.moves(), flow.busiest()
    sums = flow.counts.sum(1)
    matrix = [
        (i, [(int(flow.counts[i, j]) / max(int(sums[i]), 1), int(flow.counts[i, j])) for j in chosen]) for i in chosen
    ]
    names: Mapping[int, str] = {n: result.sides[n].name for n in result.pixels.shown}
    first, other = result.pixels.shown[0], result.pixels.shown[number_ + 1]
    return FlowView(
        names[first],
        names[other],
        flow.changed_share,
        flow.images,
        flow.changed_images,
        moves[:MAX_MOVES],
        max(0, len(moves) - MAX_MOVES),
        flow.reasons(),
        chosen,
        matrix,
    )
