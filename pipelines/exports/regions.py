"""A class map as objects: connected parts, run lengths, outlines."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.decide.instances import instances

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
EIGHT = np.ones((3, 3), bool)
INSIDE = 0.2  # a shift within a pixel, from its centre


@dataclass(frozen=True)
class Points:
    """Points that name objects. xy: float32 [N, 2], pixels of the map; class_ids: int32 [N]."""

    xy: npt.NDArray[np.float32]
    class_ids: Ids

    def of(self, class_id: int) -> npt.NDArray[np.float32]:
        return self.xy[self.class_ids == class_id]


@dataclass(frozen=True)
class Region:
    """Pixels of one class. mask: bool [h, w] of the part that begins at (top, left), with at least one pixel."""

    class_id: int
    top: int
    left: int
    mask: Mask

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def specks(ids: Ids, leave_out: Iterable[int], min_area_px: int) -> tuple[Mask, int]:
    """(bool [H, W]: the connected parts of a class with fewer pixels, how many they are); ids below 0 and those of
    `leave_out` are no parts."""
    found, count = np.zeros(ids.shape, bool), 0
    if min_area_px <= 1:
        return found, count
    for class_id in _present(ids, leave_out):
        parts, _ = ndimage.label(ids == class_id, EIGHT)
        small = np.bincount(parts.reshape(-1)) < min_area_px
        small[0] = False  # what is not of the class
        found |= small[parts]
        count += int(small.sum())
    return found, count


def regions(ids: Ids, leave_out: Iterable[int], whole: bool, points: Points | None = None) -> list[Region]:
    """The objects of a class map, int32 [H, W]; ids below 0 and those of `leave_out` are none.

    whole: all of a class is one object; else each part that is connected, corners included. points: a part that holds
    several points of its class is divided among them, each pixel to the point with the shortest way within the part.
    Largest first in a class.
    """
    found = []
    for class_id in _present(ids, leave_out):
        mask = ids == class_id
        own = []
        parts = mask.astype(np.int32) if whole else _divided(mask, points.of(class_id) if points else None)
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            if box is not None:
                own.append(Region(class_id, box[0].start, box[1].start, parts[box] == number))
        found += sorted(own, key=lambda part: -part.area)
    return found


def _divided(mask: Mask, points: npt.NDArray[np.float32] | None) -> Ids:
    """Connected parts, numbered from 1; those that hold several points are divided among them."""
    parts, count = ndimage.label(mask, EIGHT)
    if points is None or len(points) < 2:
        return parts
    height, width = mask.shape
    x = np.clip(points[:, 0].astype(np.intp), 0, width - 1)
    y = np.clip(points[:, 1].astype(np.intp), 0, height - 1)
    held = parts[y, x]
    # One part at a time, and no more of the image than it takes: ways through a large one need much memory.
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        own = points[held == number] - (box[1].start, box[0].start)
        if len(own) > 1:
            here = parts[box] == number
            named = instances(here.astype(np.int32), own.astype(np.float32), np.ones(len(own), np.int32))
            later = here & (named > 1)
            parts[box][later] = count + named[later] - 1
            count += int(named.max()) - 1
    return parts


def _present(ids: Ids, leave_out: Iterable[int]) -> list[int]:
    return [class_id for class_id in sorted(set(np.unique(ids).tolist()) - set(leave_out)) if class_id >= 0]


def merge_smallest(found: list[Region], most: int, size: tuple[int, int]) -> list[Region]:
    """At most `most` regions (or one a class, if there are more classes): the smallest ones of a class become one."""
    if len(found) <= most:
        return found
    by_area = sorted(range(len(found)), key=lambda index: -found[index].area)
    alone = set(by_area[: max(0, most - len({part.class_id for part in found}))])
    result = [part for index, part in enumerate(found) if index in alone]
    rest: dict[int, list[Region]] = {}
    for index, part in enumerate(found):
        if index not in alone:
            rest.setdefault(part.class_id, []).append(part)
    return result + [_union(parts, size) for parts in rest.values()]


def _union(parts: list[Region], size: tuple[int, int]) -> Region:
    whole = np.zeros(size, bool)
    for part in parts:
        put(whole, part)
    top, left = (int(np.flatnonzero(whole.any(axis)).min()) for axis in (1, 0))
    return Region(parts[0].class_id, top, left, whole[top:, left:])


def put(whole: Mask, part: Region) -> None:
    """Draw a region on bool [H, W], in place."""
    height, width = part.mask.shape
    whole[part.top : part.top + height, part.left : part.left + width] |= part.mask


def run_lengths(part: Region, size: tuple[int, int]) -> tuple[dict[str, Any], list[float], int]:
    """(COCO's compressed RLE with text counts, box [x, y, width, height], area in pixels) of a region."""
    from pycocotools import mask as coco

    whole = np.zeros(size, np.uint8, order="F")
    height, width = part.mask.shape
    whole[part.top : part.top + height, part.left : part.left + width] = part.mask
    rle = coco.encode(whole)
    box = [float(value) for value in coco.toBbox(rle)]
    area = int(coco.area(rle))
    return {"size": [int(value) for value in rle["size"]], "counts": rle["counts"].decode("ascii")}, box, area


def outline(part: Region) -> npt.NDArray[np.float64]:
    """One polygon around a connected region and its holes, float64 [N, 2] of x y in pixels, N at least 3.

    Its corners lie in the outermost pixels, within INSIDE of their centres (the centre of the first pixel is 0.5), so
    that cv2.fillPoly of the corners rounded down, which is how YOLO-seg's trainers draw, gives the region back exactly.
    A cut one pixel row high leads to each hole.
    """
    import cv2

    filled = np.ascontiguousarray(part.mask, dtype=np.uint8)
    found, tree = cv2.findContours(filled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [ring.reshape(-1, 2) for ring in found]
    outer = next(ring for ring, (*_, parent) in zip(rings, tree[0], strict=True) if parent < 0)
    holes = [ring for ring, (*_, parent) in zip(rings, tree[0], strict=True) if parent >= 0]
    polygon = outer
    # From left to right, so that the one a cut runs into has been joined before.
    for hole in sorted(holes, key=lambda ring: int(ring[:, 0].min())):
        polygon = _join(polygon, hole, part.mask)
    corners = _without_middles(polygon).astype(np.float64) + 0.5
    if not holes and cv2.contourArea(outer) == 0:
        corners = _widen(corners)
    return corners + np.array([part.left, part.top])


def _join(polygon: npt.NDArray[np.intp], hole: npt.NDArray[np.intp], mask: Mask) -> npt.NDArray[np.intp]:
    """The polygon with a hole, reached by going left from the hole's leftmost pixel to the next edge."""
    start = int(hole[:, 0].argmin())
    x, y = hole[start]
    empty = np.flatnonzero(~mask[y, :x])
    edge = int(empty[-1]) + 1 if len(empty) else 0
    at = int(np.flatnonzero((polygon == (edge, y)).all(1))[0])
    ring = np.concatenate([hole[start:], hole[: start + 1]])
    return np.concatenate([polygon[: at + 1], ring, polygon[at:]])


def _without_middles(polygon: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The polygon without points in the middle of a straight run."""
    before, after = polygon - np.roll(polygon, 1, 0), np.roll(polygon, -1, 0) - polygon
    turns = (before != after).any(1)
    return polygon[turns] if turns.any() else polygon[:1]


def _widen(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A line one pixel wide, there and back, as a polygon with an area: out on one side of the centres, in on the
    other."""
    if len(corners) == 1:
        return corners + INSIDE * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    slope = np.prod(corners.max(0) - corners.min(0)) and np.prod(corners[1] - corners[0])
    side = INSIDE * np.array([-1, 1 if slope > 0 else -1])
    return np.concatenate([corners + side, corners[::-1] - side])
