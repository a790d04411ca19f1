"""A comparison as text for the terminal."""

from collections.abc import Sequence

from tuning.comparison.numbers import Row, spread
from tuning.comparison.page import title
from tuning.comparison.result import Result

#: Longest text of one cell; what is longer is cut, and whole on the page.
CELL = 34


def describe(result: Result, rows: int) -> str:
    """Settings, numbers, classes and pixel flow, `rows` of each at most."""
    names = [group.name for group in result.groups]
    parts = [f"{title(result)}: {_count(len(result.settings), 'setting')} that can change a result differ"]
    told = [[one.name, *_values(result, one.values)] for one in result.settings]
    parts += _block(["setting", *names], told, rows)
    parts += [f"classes of {name}: {'; '.join(changes)}" for name, changes in result.class_changes]
    for table in result.tables:
        cells = [[row.name, *(_cell(row, n) for n in range(len(names)))] for row in table.rows]
        parts += ["", table.title, *_block(["", *names], cells, len(cells))[1:]]
    parts += result.interval_words()
    what, classes = result.per_class
    cells = [[row.name, *(_cell(row, n) for n in range(len(names)))] for row in classes]
    parts += _block([f"class: {what}", *names], cells, rows)
    if result.pixels is not None:
        for n in range(len(result.pixels.flows)):
            parts += _flow(result, n, rows)
    return "\n".join([*parts, *result.notes(3)])


def _values(result: Result, values: Sequence[str | None]) -> list[str]:
    return [", ".join(dict.fromkeys(values[n] or "-" for n in group.members)) for group in result.groups]


def _cell(row: Row, group: int) -> str:
    gain = row.gain(group)
    mark = {"better": " better", "worse": " worse"}.get(row.verdict(group), "")
    return spread(row.cells[group]) + (
        "" if not gain else f" ({gain:+.4f}{mark})" if abs(gain) < 10 else f" ({gain:+,.0f})"
    )


def _flow(result: Result, number: int, rows: int) -> list[str]:
    assert result.pixels is not None
    pixels, flow = result.pixels, result.pixels.flows[number]
    names = pixels.common.names
    before, after = (result.sides[n].name for n in (pixels.shown[0], pixels.shown[number + 1]))
    head = (
        f"\n{before} -> {after}: {100 * flow.changed_share:.2f} % of the pixels have another class, in "
        f"{flow.changed_images:,} of {flow.images:,} images"
    )
    cells = [
        [names[move.before], names[move.after], f"{100 * move.of_all:.3f} %", f"{100 * move.of_before:.1f} %"]
        for move in flow.moves()
    ]
    why = [[cause, f"{images:,}", f"{changed:,}"] for cause, images, changed in flow.reasons()]
    return [
        head,
        *_block(["cause", "changed images", "changed pixels"], why, rows),
        *_block(["from", "to", "of all pixels", "of the first class"], cells, rows),
    ]


def _block(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> list[str]:
    """A table with an empty line before it; nothing for no row."""
    if not rows:
        return []
    shown = [[_cut(text) for text in row] for row in [head, *rows[:most]]]
    widths = [max(len(row[n]) for row in shown) for n in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    more = [f"… {_count(len(rows) - most, 'more row')} on the page"] if len(rows) > most else []
    return ["", lines[0], "-" * len(lines[0]), *lines[1:], *more]


def _cut(text: str) -> str:
    return text if len(text) <= CELL else f"{text[: CELL // 2]}…{text[-(CELL // 2 - 1) :]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
