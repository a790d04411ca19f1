"""The difference between two snapshots: pixels, classes, images ranked by change, and the cause of each change."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.progress import Progress
from pipelines.nightly.causes import COLUMNS, NEW_IMAGE, NO_CAUSE, cause
from pipelines.nightly.flow import Classes, Flow, begin
from pipelines.nightly.sides import Sides
from pipelines.stages.decide import read_png
from pipelines.tables.labels import LabelTable

MOVES = 5  # of an image, the largest ones, are in the table
ROWS_AT_ONCE = 4096

MOVE = pa.struct([("old", pa.string()), ("new", pa.string()), ("pixels", pa.int64())])
IMAGES = pa.schema(
    [
        ("asset", pa.string()),
        ("cause", pa.string()),  # new image, new evidence, new decision, human, no cause, vanished, unreadable
        ("inputs", pa.list_(pa.string())),  # what of that which the label is decided from is another
        ("pixels", pa.int64()),
        ("changed_pixels", pa.int64()),  # of another class than before; null for images that one side does not have
        ("changed_share", pa.float32()),
        ("moves", pa.list_(MOVE)),
        ("old_run_id", pa.string()),
        ("new_run_id", pa.string()),
    ]
)


@dataclass
class CauseSum:
    """images: whose row is another one. changed: of them, those with a pixel of another class. pixels, changed_pixels:
    of images that both sides have."""

    images: int = 0
    changed: int = 0
    pixels: int = 0
    changed_pixels: int = 0


@dataclass
class Diff:
    """What changed from one snapshot to another.

    flow: without shares of single images; those are in `images` (schema IMAGES), the most changed first, then those
    that one side does not have. causes: by cause.
    """

    sides: Sides
    flow: Flow
    images: pa.Table
    causes: dict[str, CauseSum] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        """Pixels of images that both sides have."""
        return int(self.flow.counts[:-1, :-1].sum())

    @property
    def churn(self) -> float:
        """Share of those pixels that are of another class, 0..1."""
        both = self.flow.counts[:-1, :-1]
        return 1.0 - float(np.trace(both)) / self.pixels if self.pixels else 0.0

    @property
    def churn_without_cause(self) -> float:
        """Share of those pixels that are of another class although the label was decided from the same."""
        return self.causes.get(NO_CAUSE, CauseSum()).changed_pixels / max(1, self.pixels)

    def classes(self) -> list[tuple[str, float | None, int, int]]:
        """(name, IoU of old against new, pixels gained, pixels lost), the lowest IoU first."""
        values = zip(self.flow.names, self.flow.iou(), self.flow.gained(), self.flow.lost(), strict=True)
        found = [(n, None if np.isnan(iou) else float(iou), int(g), int(lost)) for n, iou, g, lost in values]
        return sorted(found, key=lambda row: (row[1] is None, row[1], row[0]))

    def moves(self, most: int = 20) -> list[tuple[str, str, int]]:
        """(old class, new class, pixels), the largest first."""
        return _largest(self.flow.counts[:-1, :-1], self.flow.names, most)


def diff(sides: Sides, progress_seconds: float = 5.0) -> Diff:
    """Compare two states of labels. Class maps are read in pairs, a few at a time, and only of rows that differ; of an
    image, memory holds its name and a line of the table."""
    classes = Classes(sides)
    result = Diff(sides, begin(sides, classes), IMAGES.empty_table())
    progress = Progress("diff", sides.changed, progress_seconds)
    parts, lines = [], [*_gone(result), *_fresh(result)]
    for old, new in sides.pairs([*COLUMNS, *Classes.COLUMNS, "run_id"]):
        lines.append(_line(result, classes, old, new))
        progress.add(1)
        if len(lines) >= ROWS_AT_ONCE:
            parts.append(pa.Table.from_pylist(lines, schema=IMAGES))
            lines = []
    progress.close()
    table = pa.concat_tables([*parts, pa.Table.from_pylist(lines, schema=IMAGES)])
    keys = [("changed_pixels", "descending"), ("asset", "ascending")]  # nulls come last
    result.images = table.take(pc.sort_indices(table, sort_keys=keys))
    return result


def _line(result: Diff, classes: Classes, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    why, inputs = cause(old, new)
    before, after = classes.pair(old, new)
    share, moved = result.flow.add(before, after)
    changed = round(share * after.size)
    total = result.causes.setdefault(why, CauseSum())
    total.images += 1
    total.changed += changed > 0
    if before.shape == after.shape:
        total.pixels += after.size
        total.changed_pixels += changed
    moves = [dict(zip(("old", "new", "pixels"), move, strict=True)) for move in _largest(moved, classes.names, MOVES)]
    return {
        "asset": new["asset"],
        "cause": why,
        "inputs": inputs,
        "pixels": after.size,
        "changed_pixels": changed,
        "changed_share": share,
        "moves": moves,
        "old_run_id": old["run_id"],
        "new_run_id": new["run_id"],
    }


def _fresh(result: Diff) -> Iterator[dict[str, Any]]:
    """Lines of the images that only the new side has."""
    for batch in result.sides.fresh.read(["asset", "run_id", "height", "width"], ROWS_AT_ONCE):
        for row in batch.to_pylist():
            result.causes.setdefault(NEW_IMAGE, CauseSum()).images += 1
            size = row["height"] * row["width"]
            yield {"asset": row["asset"], "cause": NEW_IMAGE, "pixels": size, "new_run_id": row["run_id"]}


def _gone(result: Diff) -> Iterator[dict[str, Any]]:
    """Lines of the images that only the old side has."""
    sides = result.sides
    said = {row["asset"]: row["cause"] for row in sides.new.removals(set(sides.gone.keys["asset"].to_pylist()))}
    for batch in sides.gone.read(["asset", "run_id", "height", "width"], ROWS_AT_ONCE):
        for row in batch.to_pylist():
            why = said.get(row["asset"], "vanished")
            result.causes.setdefault(why, CauseSum()).images += 1
            size = row["height"] * row["width"]
            yield {"asset": row["asset"], "cause": why, "pixels": size, "old_run_id": row["run_id"]}


def _largest(counts: npt.NDArray[np.int64], names: Sequence[str], most: int) -> list[tuple[str, str, int]]:
    """The largest counts off the diagonal."""
    moved = counts.copy()
    np.fill_diagonal(moved, 0)
    order = np.argsort(-moved, axis=None, kind="stable")[:most]
    pairs = (np.unravel_index(place, moved.shape) for place in order)
    return [(names[a], names[b], int(moved[a, b])) for a, b in pairs if moved[a, b]]


def compare_again(table: LabelTable, files: Sequence[str], say: Callable[[str], None]) -> tuple[float, int]:
    """Labels that were decided once more (data files that are not committed) against the published ones.

    Returns the share of their pixels that are of another class, 0..1, and how many images were compared. Whatever it
    is above 0 has no cause: neither the evidence nor the decision changed.
    """
    from pipelines.tables.newest import NewestRows

    again = NewestRows.of(table.schema, files)
    wanted = again.keys["asset"].to_pylist()
    pixels = changed = 0
    before = {r["asset"]: r for b in table.newest(["asset", "class_map"], assets=wanted) for r in b.to_pylist()}
    for batch in again.read(["asset", "class_map"], 16):
        for row in batch.to_pylist():
            old, new = read_png(before[row["asset"]]["class_map"]), read_png(row["class_map"])
            differs = int((old != new).sum()) if old.shape == new.shape else new.size
            pixels, changed = pixels + new.size, changed + differs
            if differs:
                say(f"{row['asset']}: {differs:,} pixels are of another class now, though nothing changed")
    return changed / max(1, pixels), len(again)
