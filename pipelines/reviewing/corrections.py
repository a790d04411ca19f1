"""From what a person drew to what the person said: a partial map, and where it contradicts others."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.classes import ClassSet
from pipelines.exports.snapshot import Ids
from pipelines.reviewing.rank import Region
from pipelines.reviewing.review import Drawn, Mask


@dataclass(frozen=True)
class Said:
    """ids: int32 [H, W] of class ids, -1 where the person said nothing. changed: pixels that differ from the label.

    contested: pixels that two objects of different classes changed; the one drawn later has them. unknown: labels that
    are no class.
    """

    ids: Ids
    changed: int
    contested: int
    unknown: tuple[str, ...]


def said(drawn: Drawn, before: Ids, classes: ClassSet, accept: str, regions: Iterable[Region]) -> Said:
    """The partial map of a person's work on one image.

    before: int32 [H, W], the label that the person was shown. Where objects overlap, one that differs from the label
    wins over one that is as it was, then the later one. Where no object is, the person says background, if there is
    one; an object of no known class says nothing.
    accept: "changed" keeps the pixels that differ from the label, "regions" also all in `regions`, "all" everything.
    """
    layers, unknown = _known(drawn, classes)
    background = classes.background.id if classes.background else -1
    after = np.full(before.shape, background, np.int32)
    for name, mask in drawn.layers:
        if name in unknown:
            after[mask] = -1
    for class_id, mask in layers:
        after[mask] = class_id
    touched = np.zeros(before.shape, bool)
    contested = np.zeros(before.shape, bool)
    for class_id, mask in layers:
        new = mask & (before != class_id)
        contested |= new & touched & (after != class_id)
        after[new] = class_id
        touched |= new
    changed = (after != before) & (after >= 0)
    vouched = changed if accept != "all" else np.ones(before.shape, bool)
    if accept == "regions":
        vouched = vouched | _inside(regions, before.shape)
    return Said(np.where(vouched, after, -1), int(changed.sum()), int(contested.sum()), unknown)


def _known(drawn: Drawn, classes: ClassSet) -> tuple[list[tuple[int, Mask]], tuple[str, ...]]:
    layers, unknown = [], []
    for name, mask in drawn.layers:
        index = classes.index(name)
        if index is None or (index < 0 and classes.background is None):
            unknown.append(name)
        elif index >= 0:
            layers.append((classes.classes[index].id, mask))
        elif classes.background is not None:
            layers.append((classes.background.id, mask))
    return layers, tuple(dict.fromkeys(unknown))


def _inside(regions: Iterable[Region], size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(size, bool)
    for region in regions:
        inside[region.y : region.y + region.height, region.x : region.x + region.width] = True
    return inside


def overruled(new: Ids, earlier: Ids) -> int:
    """Pixels that were said before, and otherwise."""
    return int(((new >= 0) & (earlier >= 0) & (new != earlier)).sum())
