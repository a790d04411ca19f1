"""A label as text that people and language models read: the rows of a class map, run by run.

    sky *12| tree *4
    sky *9| cat *5| tree *2

After Text4Seg++, "Advancing Image Segmentation via Generative Language Modeling" (2025), whose released code neither
escapes names nor minds a wrong length; both are errors or exact here. A map is written whole, or on a coarse grid.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.refine.grids import resize_nearest

IGNORE = 255
VOID = "\\void"
"""How a pixel without a class is written. No name can look like it: a backslash in one is doubled."""
_ESCAPES = {"\\": "\\\\", "*": "\\*", "|": "\\|", "\n": "\\n", "\r": "\\r"}
_BACK = {escaped[1]: plain for plain, escaped in _ESCAPES.items()}
_RUN = re.compile(r"((?:\\.|[^\\|*\n\r])*) \*([1-9][0-9]*)(\| |\n|\Z)")
Ids = npt.NDArray[np.integer]
Runs = npt.NDArray[np.int32]


def encode_text(ids: Ids, names: Mapping[int, str], grid: int | None = None, ignore: int = IGNORE) -> str:
    """Text of class ids [H, W], one line a row. grid: on so many rows and columns (nearest pixels); None: lossless.

    names: of every id in the map; `ignore` needs none. Raises ValueError for ids without a name, for two classes of one
    name (they could not be told apart again) and for a map without pixels.
    """
    if len(set(names.values())) < len(names):
        raise ValueError("two classes have the same name")
    sampled = ids if grid is None else resize_nearest(ids, (grid, grid))
    written = {class_id: escape(name) for class_id, name in names.items()} | {ignore: VOID}
    if unknown := sorted(set(np.unique(sampled).tolist()) - written.keys()):
        raise ValueError(f"the ids {unknown} have no name")
    lines = []
    for values, counts in _rows(sampled):
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        lines.append("| ".join(f"{written[value]} *{count}" for value, count in pairs))
    return "\n".join(lines)


def decode_text(
    text: str, names: Mapping[int, str], size: tuple[int, int], ignore: int = IGNORE
) -> npt.NDArray[np.int32]:
    """The class ids int32 [*size] that a text of `encode_text` says; size: rows and columns, of the grid if it had one.

    Raises ValueError for a text that is malformed, names a class that `names` does not have, or has rows of another
    number or length than size: what is missing is never guessed.
    """
    number = {escape(name): class_id for class_id, name in names.items()} | {VOID: ignore}
    rows: list[list[tuple[int, int]]] = [[]]
    at = 0
    while True:
        run = _RUN.match(text, at)
        if run is None:
            raise ValueError(f"no `name *count` at character {at}: {text[at : at + 40]!r}")
        name, count, end = run.groups()
        if name not in number:
            raise ValueError(f"there is no class {unescape(name)!r}")
        rows[-1].append((number[name], int(count)))
        at = run.end()
        if end == "":
            break
        if end == "\n":
            rows.append([])
    if len(rows) != size[0]:
        raise ValueError(f"{len(rows)} rows, not {size[0]}")
    return np.stack([_filled(row, size[1], index) for index, row in enumerate(rows)])


def encode_runs(ids: Ids) -> Runs:
    """The same in numbers, int32: for each row of [H, W] how many runs it has, then the id and length of each."""
    parts = [np.append(len(values), np.stack([values, counts], 1).ravel()) for values, counts in _rows(ids)]
    return np.concatenate(parts).astype(np.int32)


def decode_runs(runs: Runs, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """The class ids int32 [*size] of `encode_runs`. Raises ValueError for a wrong length."""
    at, rows = 0, list[list[tuple[int, int]]]()
    flat = np.asarray(runs, np.int64).tolist()
    while at < len(flat):
        stop = at + 1 + 2 * flat[at]
        if flat[at] < 1 or stop > len(flat):
            raise ValueError(f"row {len(rows)} has {flat[at]} runs, and {len(flat) - at - 1} numbers are left")
        rows.append(list(zip(flat[at + 1 : stop : 2], flat[at + 2 : stop : 2], strict=True)))
        at = stop
    if len(rows) != size[0]:
        raise ValueError(f"{len(rows)} rows, not {size[0]}")
    return np.stack([_filled(row, size[1], index) for index, row in enumerate(rows)])


def run_count(ids: Ids) -> int:
    """How many names the text of class ids [H, W] has, where one for each pixel would be H * W."""
    return int(ids.shape[0] + (ids[:, 1:] != ids[:, :-1]).sum())


def escape(name: str) -> str:
    """A class name without the characters that part names, counts, runs and rows."""
    return "".join(_ESCAPES.get(character, character) for character in name)


def unescape(written: str) -> str:
    return re.sub(r"\\(.)", lambda found: _BACK.get(found[1], found[0]), written)


def _rows(ids: Ids) -> list[tuple[Ids, npt.NDArray[np.intp]]]:
    """Ids and lengths of the runs of each row."""
    if ids.ndim != 2 or not ids.size:
        raise ValueError(f"a class map has rows and columns, not the shape {ids.shape}")
    found = []
    for row in ids:
        starts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        found.append((row[starts], np.diff(np.append(starts, len(row)))))
    return found


def _filled(runs: Sequence[tuple[int, int]], width: int, index: int) -> npt.NDArray[np.int32]:
    counts = [count for _, count in runs]
    if min(counts) < 1 or sum(counts) != width:
        raise ValueError(f"row {index} is {sum(counts)} pixels long, not {width}")
    return np.repeat(np.array([value for value, _ in runs], np.int32), counts)
