"""Views of an image: the whole of it, and overlapping tiles of a large one; and their evidence put together again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.clip.observer import ClipSeen
from models.evidence import MaskBank
from models.observe_config import ObserveConfig
from models.sam.bank import mask_iou, suppress

MAX_GRID = 128  # Longer side of the stitched feature grid, patches.
MAX_MASK_PX = 384  # Longer side of the masks of a tiled image, whatever it is cut into.
MAX_BANK = 4  # A tiled image keeps at most this many times `max_masks`, chosen from twice as many.
JOIN_IOU = 0.7  # Two masks of neighbouring tiles are one object if they agree this well where the tiles overlap.


@dataclass(frozen=True)
class Frame:
    """Where a view lies in the full-size image: pixels, x1 and y1 exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int


def frames(height: int, width: int, config: ObserveConfig) -> list[Frame]:
    """The whole image first; then, if it is larger than `tile_above_px`, tiles row by row."""
    whole = Frame(0, 0, width, height)
    if not config.tile_above_px or max(height, width) <= config.tile_above_px:
        return [whole]
    rows, columns = (_cuts(side, config.tile_px, config.tile_overlap) for side in (height, width))
    return [whole] + [Frame(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]


def _cuts(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Evenly spread intervals of `tile` that cover 0..length and overlap by at least the given share."""
    if length <= tile:
        return [(0, length)]
    count = int(np.ceil((length - tile) / (tile * (1 - overlap)))) + 1
    starts = np.linspace(0, length - tile, count).round().astype(int)
    return [(int(start), int(start) + tile) for start in starts]


def stitch_features(seen: Sequence[ClipSeen], places: Sequence[Frame]) -> npt.NDArray[np.float32]:
    """One feature grid float32 [h, w, D] of the tiles (not of the whole view), averaged in overlaps."""
    if len(seen) == 1:
        return seen[0].features
    whole = places[0]
    tile_rows, tile_columns, dimension = seen[1].features.shape
    fine = (
        tile_rows * whole.y1 / (places[1].y1 - places[1].y0),
        tile_columns * whole.x1 / (places[1].x1 - places[1].x0),
    )
    shrink = min(1.0, MAX_GRID / max(fine))
    grid = (max(1, round(fine[0] * shrink)), max(1, round(fine[1] * shrink)))
    total = np.zeros((*grid, dimension), np.float32)
    weight = np.zeros((*grid, 1), np.float32)
    for one, place in zip(seen[1:], places[1:], strict=True):
        rows, down = _overlap(place.y0, place.y1, whole.y1, grid[0], one.features.shape[0])
        columns, across = _overlap(place.x0, place.x1, whole.x1, grid[1], one.features.shape[1])
        total[rows, columns] += np.einsum("ab,bcd,ec->aed", down, one.features, across, optimize=True)
        weight[rows, columns] += 1
    return np.asarray(total / np.maximum(weight, 1), np.float32)


def _overlap(start: int, stop: int, length: int, cells: int, source: int) -> tuple[slice, npt.NDArray[np.float32]]:
    """The target cells that an interval of the image touches, and weights [target cells, source] that fill them."""
    low, high = start / length * cells, stop / length * cells
    first, last = int(np.floor(low + 1e-6)), int(np.ceil(high - 1e-6))
    centres = (np.arange(first, last) + 0.5 - low) / (high - low) * source - 0.5
    ratio = max(1.0, source / (high - low))
    weights = np.clip(1 - np.abs(np.arange(source) - np.clip(centres, 0, source - 1)[:, None]) / ratio, 0, None)
    return slice(first, last), (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def stitch_banks(banks: Sequence[MaskBank], places: Sequence[Frame], config: ObserveConfig) -> MaskBank:
    """One bank over the whole frame: pieces of an object in neighbouring tiles joined, duplicates suppressed."""
    if len(banks) == 1:
        return banks[0]
    whole = places[0]
    limit = MAX_BANK * config.sam.max_masks
    quality = np.concatenate([bank.iou * bank.stability for bank in banks])
    view = np.repeat(np.arange(len(banks)), [len(bank.iou) for bank in banks])
    number = np.concatenate([np.arange(len(bank.iou)) for bank in banks])
    best = np.sort(np.argsort(-quality, kind="stable")[: 2 * limit])
    size = _canvas(banks, places)
    probs = np.zeros((len(best), *size), np.uint8)
    for row, chosen in enumerate(best):
        _paste(probs[row], banks[view[chosen]].probs[number[chosen]], places[view[chosen]], whole)
    iou = np.concatenate([bank.iou for bank in banks])[best]
    stability = np.concatenate([bank.stability for bank in banks])[best]
    source = np.concatenate([bank.source for bank in banks])[best]
    groups = _same_object(probs > 127, view[best], places, size)
    joined = MaskBank(
        np.stack([probs[group].max(axis=0) for group in groups]) if groups else probs,
        np.array([iou[group].min() for group in groups], np.float32),
        np.array([stability[group].min() for group in groups], np.float32),
        np.array([source[group[0]] for group in groups], np.uint8),
    )
    return _without_duplicates(joined, config.sam.duplicate_iou, limit)


def _without_duplicates(bank: MaskBank, threshold: float, limit: int) -> MaskBank:
    order = np.argsort(-bank.iou * bank.stability, kind="stable")
    overlap = mask_iou(torch.from_numpy(bank.probs[order] > 127)).numpy()
    kept = order[suppress(overlap, threshold, limit)]
    return MaskBank(bank.probs[kept], bank.iou[kept], bank.stability[kept], bank.source[kept])


def _canvas(banks: Sequence[MaskBank], places: Sequence[Frame]) -> tuple[int, int]:
    """Mask size over the whole frame: as fine as the first tile's masks, the longer side at most MAX_MASK_PX."""
    whole, tile, mask = places[0], places[1], banks[1].probs.shape
    fine = mask[1] * whole.y1 / (tile.y1 - tile.y0), mask[2] * whole.x1 / (tile.x1 - tile.x0)
    shrink = min(1.0, MAX_MASK_PX / max(fine))
    return max(1, round(fine[0] * shrink)), max(1, round(fine[1] * shrink))


def _paste(canvas: npt.NDArray[np.uint8], probs: npt.NDArray[np.uint8], place: Frame, whole: Frame) -> None:
    rows, down = _overlap(place.y0, place.y1, whole.y1, canvas.shape[0], probs.shape[0])
    columns, across = _overlap(place.x0, place.x1, whole.x1, canvas.shape[1], probs.shape[1])
    canvas[rows, columns] = np.rint(down @ probs.astype(np.float32) @ across.T).astype(np.uint8)


def _same_object(
    binary: npt.NDArray[np.bool_], view: npt.NDArray[np.int64], places: Sequence[Frame], size: tuple[int, int]
) -> list[list[int]]:
    """Groups of rows that are pieces of one object: masks of two tiles that are each other's best match where the
    tiles overlap, and agree there by more than JOIN_IOU. Masks of the whole view stay alone."""
    parent = list(range(len(binary)))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    tiles = range(1, len(places))
    for a, b in ((a, b) for a in tiles for b in tiles if a < b):
        shared = _shared_cells(places[a], places[b], places[0], size)
        rows_a, rows_b = np.flatnonzero(view == a), np.flatnonzero(view == b)
        if shared is None or not len(rows_a) or not len(rows_b):
            continue
        inside_a, inside_b = (binary[rows][:, *shared].reshape(len(rows), -1) for rows in (rows_a, rows_b))
        overlap = _iou_between(inside_a, inside_b)
        partner = overlap.argmax(axis=1)
        for i, j in enumerate(partner):
            if overlap[i, j] > JOIN_IOU and overlap[:, j].argmax() == i:
                parent[root(int(rows_b[j]))] = root(int(rows_a[i]))
    groups: dict[int, list[int]] = {}
    for row in range(len(binary)):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


def _shared_cells(a: Frame, b: Frame, whole: Frame, size: tuple[int, int]) -> tuple[slice, slice] | None:
    """Cells of the canvas that lie in both frames, or None."""
    y0, y1 = (np.rint(y / whole.y1 * size[0]) for y in (max(a.y0, b.y0), min(a.y1, b.y1)))
    x0, x1 = (np.rint(x / whole.x1 * size[1]) for x in (max(a.x0, b.x0), min(a.x1, b.x1)))
    return (slice(int(y0), int(y1)), slice(int(x0), int(x1))) if y1 > y0 and x1 > x0 else None


def _iou_between(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """IoU [A, B] of bool rows [A, cells] and [B, cells]; two empty rows do not agree."""
    intersection = a.astype(np.float32) @ b.astype(np.float32).T
    union = a.sum(1)[:, None] + b.sum(1)[None] - intersection
    return intersection / np.maximum(union, 1)
