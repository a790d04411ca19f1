"""From what a person drew to what the person said: a partial map, and where it contradicts others."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.classes import ClassSet
from pipelines.exports.snapshot import Ids
from pipelines.reviewing.rank import Region
from pipelines.reviewing.review import UNREADABLE, Drawn


@dataclass(frozen=True)
class Said:
    """ids: int32 [H, W] of class ids, -1 where the person said nothing. changed: pixels that differ from the label.

    contested: pixels that two objects of different classes changed; the one drawn later has them. problems: what could
    not be used, and why.
    """

    ids: Ids
    changed: int
    contested: int
    problems: tuple[str, ...]


def said(drawn: Drawn, before: Ids, classes: ClassSet, accept: str, regions: Iterable[Region]) -> Said:
    """The partial map of a person's work on one image.

    before: int32 [H, W], the label that the person was shown. Where objects overlap, one that differs from the label
    wins over one that is as it was, then the later one. Where no object is, the person says background, if there is
    one, and if every object could be read: else one of those may be there. An object of no known class says nothing.
    accept: "changed" keeps the pixels that differ from the label, "regions" also all in `regions`, "all" everything.
    """
    objects, over = (np.full(before.shape, -1, np.int32) for _ in range(2))  # the later object; the later that differs
    nothing, contested = (np.zeros(before.shape, bool) for _ in range(2))
    problems, complete = [], True
    # One mask at a time: together, those of a large photograph take gigabytes.
    for shape in drawn.shapes:
        try:
            label, mask = shape.read()
        except UNREADABLE as error:
            problems.append(f"{shape.what} cannot be read: {error!r}")
            complete = False
            continue
        class_id = _class_id(label, classes)
        if class_id is None:
            problems.append(f"{label!r} is no class of the labels")
            nothing |= mask
            continue
        objects[mask] = class_id
        new = mask & (before != class_id)
        contested |= new & (over >= 0) & (over != class_id)
        over[new] = class_id
    after = np.where(over >= 0, over, objects)
    if complete and classes.background is not None:
        after[(after < 0) & ~nothing] = classes.background.id
    changed = (after != before) & (after >= 0)
    vouched = changed if accept != "all" else np.ones(before.shape, bool)
    if accept == "regions":
        vouched = vouched | _inside(regions, before.shape)
    told = tuple(dict.fromkeys(problems))
    return Said(np.where(vouched, after, -1), int(changed.sum()), int(contested.sum()), told)


def _class_id(label: str, classes: ClassSet) -> int | None:
    index = classes.index(label)
    if index is not None and index >= 0:
        return classes.classes[index].id
    return classes.background.id if index is not None and classes.background is not None else None


def _inside(regions: Iterable[Region], size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(size, bool)
    for region in regions:
        inside[region.y : region.y + region.height, region.x : region.x + region.width] = True
    return inside


def overruled(new: Ids, earlier: Ids) -> int:
    """Pixels that were said before, and otherwise."""
    return int(((new >= 0) & (earlier >= 0) & (new != earlier)).sum())
