"""Single weak labels: what makes each form valid."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.classes import ClassSet
from pipelines.weak_maps import BadMapError, check_map

EDGE_TOLERANCE_PX = 1.0  # boxes and scribbles may touch the frame; rounding takes them over it by less than a pixel
DEFAULT_WIDTH_PX = 3.0
MAX_SIDE_PX = 1_000_000  # of any image, where its own size is not known yet
MIN_SIDE_PX = 0.1  # of a box: float32 still tells its edges apart


class BadItemError(ValueError):
    """A weak label that cannot be used; the message is the reason that people read."""


class UnknownClassError(BadItemError):
    """A weak label of a class that the class set does not have."""


class FormerClassError(UnknownClassError):
    """A weak label of a class that was split or retired, as the class set records: it says nothing any more."""


@dataclass
class Check:
    """What items are checked against. size: (height, width) or None. remarks: reasons that leave the item in use.
    unsaid: ids of classes of which an image's tags say that one of them is there."""

    class_set: ClassSet
    size: tuple[int, int] | None
    remarks: list[tuple[bool, str]] = field(default_factory=list)
    unsaid: set[int] = field(default_factory=set)

    def take_remarks(self, ignore_unknown_classes: bool) -> list[str]:
        remarks, self.remarks = self.remarks, []
        return [text for unknown_class, text in remarks if not (unknown_class and ignore_unknown_classes)]

    def class_name(self, value: object, background: bool = True) -> str:
        """The canonical name. Raises UnknownClassError, BadItemError."""
        row = self.class_set.index(value)
        if row is None and self.class_set.lineage.silent(value):
            raise FormerClassError(f"the class {short(value)} was split")
        if row is None:
            close = self.class_set.nearest(value)
            raise UnknownClassError(f"unknown class {short(value)}" + (f"; did you mean {close!r}?" if close else ""))
        if row >= 0:
            return self.class_set.classes[row].name
        if not background and self.retired(value):
            raise FormerClassError(f"the class {short(value)} was retired")
        if not background:
            raise BadItemError("background takes no tag or box")
        return "background"

    def retired(self, value: object) -> bool:
        own = self.class_set.background
        return own is not None and self.class_set.lineage.retired(value, own.id)


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _mapping(item: object, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise BadItemError(f"expected a mapping with {', '.join(keys)}, not {short(item)}")
    for key in keys:
        if key not in item:
            raise BadItemError(f"{key!r} is missing")
    return item


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadItemError(f"{name} is not a number: {short(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadItemError(f"{name} is not a finite number")
    return number


def _flag(item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key, True)
    if not isinstance(value, bool):
        raise BadItemError(f"{key!r} is true or false, not {short(value)}")
    return value


def _tag(item: object, check: Check) -> dict[str, Any]:
    entry = _mapping({"class": item} if isinstance(item, str | int) else item, ("class",))
    present = _flag(entry, "present")
    try:
        name = check.class_name(entry["class"], background=False)
    except FormerClassError:
        # One of its parts is there, and nobody knows which: none of them is absent for want of a tag.
        check.unsaid |= check.class_set.lineage.split_into(entry["class"]) if present else set()
        raise
    if not present and check.class_set.lineage.is_narrower(entry["class"]):
        raise FormerClassError(f"without a {short(entry['class'])}, there may be a {name!r}")
    return {"class": name, "present": present}


def _inside(x: float, y: float, check: Check, what: str, tolerance: float = 0.0) -> tuple[float, float]:
    """The position inside the frame. A point (no tolerance) lies in a pixel, so left of the frame's right edge, in
    float32 too. Raises BadItemError outside the frame, or where no image can be."""
    height, width = check.size or (MAX_SIDE_PX, MAX_SIDE_PX)
    held = [-tolerance <= value <= side + tolerance for value, side in ((x, width), (y, height))]
    if not all(held) or (not tolerance and (x == width or y == height)):
        shape = f" of {width} x {height} pixels" if check.size else ""
        raise BadItemError(f"{what} ({x:g}, {y:g}) is outside the image{shape}")
    right, low = (
        float(side if tolerance else np.nextafter(np.float32(side), np.float32(0))) for side in (width, height)
    )
    return min(max(x, 0.0), right), min(max(y, 0.0), low)


def _point(item: object, check: Check) -> dict[str, Any]:
    entry = _mapping(item, ("x", "y"))
    positive = _flag(entry, "positive")
    if not positive and check.class_set.background is None:
        raise BadItemError("a negative point marks background, which the class set does not have")
    if positive and "class" not in entry:
        raise BadItemError("'class' is missing")
    name = check.class_name(entry["class"]) if "class" in entry else "background"
    x, y = _inside(_number(entry["x"], "x"), _number(entry["y"], "y"), check, "the point")
    return {"x": x, "y": y, "class": name, "positive": positive}


def _scribble(item: object, check: Check) -> dict[str, Any]:
    entry = _mapping(item, ("xy", "class"))
    name = check.class_name(entry["class"])
    width = _number(entry.get("width_px", DEFAULT_WIDTH_PX), "width_px")
    if width <= 0:
        raise BadItemError(f"width_px is not positive: {width:g}")
    line = entry["xy"]
    if not isinstance(line, list | tuple) or any(not isinstance(p, list | tuple) or len(p) != 2 for p in line):
        raise BadItemError("xy is not a list of [x, y]")
    if len(line) < 2:
        raise BadItemError(f"a scribble needs two points or more, this has {len(line)}")
    xy = [_inside(_number(x, "x"), _number(y, "y"), check, "the scribble's point", EDGE_TOLERANCE_PX) for x, y in line]
    return {"xy": [list(point) for point in xy], "width_px": width, "class": name}


def _box(item: object, check: Check) -> dict[str, Any]:
    entry = _mapping(item, ("box", "class"))
    name = check.class_name(entry["class"], background=False)
    box = entry["box"]
    if not isinstance(box, list | tuple) or len(box) != 4:
        raise BadItemError(f"box is not [x0, y0, x1, y1]: {short(box)}")
    x0, y0, x1, y1 = (_number(value, key) for value, key in zip(box, ("x0", "y0", "x1", "y1"), strict=True))
    if x1 <= x0 or y1 <= y0:
        raise BadItemError(f"the box has no area: [{x0:g}, {y0:g}, {x1:g}, {y1:g}] is not [x0, y0, x1, y1]")
    x0, y0 = _inside(x0, y0, check, "the box's corner", EDGE_TOLERANCE_PX)
    x1, y1 = _inside(x1, y1, check, "the box's corner", EDGE_TOLERANCE_PX)
    if x1 - x0 < MIN_SIDE_PX or y1 - y0 < MIN_SIDE_PX:
        raise BadItemError("the box has no area inside the image")
    return {"box": [x0, y0, x1, y1], "class": name}


def _map(item: object, check: Check) -> dict[str, Any]:
    entry = dict(_mapping(item, ("kind", "uri")))
    if entry["kind"] not in ("partial", "noisy"):
        raise BadItemError(f"the kind of a map is partial or noisy, not {short(entry['kind'])}")
    if not isinstance(entry["uri"], str) or not entry["uri"]:
        raise BadItemError(f"uri is not an address: {short(entry['uri'])}")
    ids = entry.get("ids")
    if ids is not None:
        ids = _map_ids(ids, check)
        if not ids:
            raise UnknownClassError("no value of the map means a class of the class set")
    kept = {"kind": entry["kind"], "uri": entry["uri"], "ids": ids}
    kept |= {key: entry[key] for key in ("size_bytes", "mtag") if isinstance(entry.get(key), int | str)}
    if check.size is not None:
        try:
            check.remarks += [(False, remark) for remark in check_map(kept, check.class_set, check.size)]
        except BadMapError as error:
            raise BadItemError(str(error)) from error
    return kept


def _map_ids(ids: object, check: Check) -> dict[str, str]:
    """The values that mean a class; the others are remarked on and then say nothing."""
    if not isinstance(ids, Mapping):
        raise BadItemError(f"ids is not a mapping of values to classes: {short(ids)}")
    kept = {}
    for value, name in ids.items():
        if not str(value).isdecimal() or int(value) > 65535:
            raise BadItemError(f"ids has the key {short(value)}, which is no pixel value in 0..65535")
        try:
            kept[str(int(value))] = check.class_name(name)
        except FormerClassError:
            continue
        except UnknownClassError as error:
            check.remarks.append((True, f"value {value} of the map: {error}"))
    return dict(sorted(kept.items(), key=lambda pair: int(pair[0])))


PARSERS: dict[str, Callable[[Any, Check], dict[str, Any]]] = {
    "tags": _tag,
    "points": _point,
    "scribbles": _scribble,
    "boxes": _box,
    "maps": _map,
}
