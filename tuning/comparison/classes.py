"""The classes of all sides under common indices, so that the maps of several class sets can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipelines.classes import BackgroundEntry, ClassEntry, ClassSet
from pipelines.report.data import ReportClass

Indices = npt.NDArray[np.int32]
BACKGROUND = "background"


@dataclass(frozen=True)
class Common:
    """classes: all there are; a class's id is its common index, background's is 0, and indices have no gaps."""

    classes: ClassSet

    @property
    def background(self) -> int | None:
        return None if self.classes.background is None else 0

    @cached_property
    def shown(self) -> list[ReportClass]:
        """By common index, and last, what no class set knows."""
        found = [ReportClass(entry.id, entry.name, entry.color) for entry in self.classes.classes]
        if self.classes.background is not None:
            found.insert(0, ReportClass(0, BACKGROUND, self.classes.background.color))
        return [*found, ReportClass(len(found), "no class of the set", (255, 0, 255))]

    @cached_property
    def names(self) -> list[str]:
        return [entry.name for entry in self.shown]

    def table(self, classes: ClassSet) -> Indices:
        """int32 [highest id + 2]: the common index of each id of a set; the last entry is for all other ids."""
        ids = [entry.id for entry in classes.classes] + ([classes.background.id] if classes.background else [])
        table = np.full(max(ids) + 2, len(self.shown) - 1, np.int32)
        for entry in classes.classes:
            index = self.classes.index(entry.name)
            assert index is not None, "the set is one of those that were united"
            table[entry.id] = self.classes.classes[index].id
        if classes.background:
            table[classes.background.id] = 0
        return table


def translate(table: Indices, class_map: npt.NDArray[np.integer]) -> Indices:
    """Class ids [H, W] as common indices."""
    found: Indices = table[np.minimum(class_map, len(table) - 1)]
    return found


def unite(sets: Sequence[ClassSet]) -> Common:
    """All classes of these sets; those of one name, or of a name that is another's synonym, are one."""
    background = next((one.background for one in sets if one.background is not None), None)
    first = 0 if background is None else 1
    entries: list[ClassEntry] = []
    for one in sets:
        known = ClassSet(tuple(entries), background)
        claimed: set[int] = set()
        for entry in one.classes:
            places = (known.index(name) for name in (entry.name, *entry.synonyms))
            place = next((i for i in places if i is not None and i >= 0 and i not in claimed), None)
            if place is None:
                entries.append(replace(entry, id=first + len(entries), prompts=(entry.name,), parent=None))
                continue
            claimed.add(place)
            names = {*entries[place].synonyms, *entry.synonyms, entry.name} - {entries[place].name}
            entries[place] = replace(entries[place], synonyms=tuple(sorted(names)))
    told = None if background is None else BackgroundEntry(0, (), background.color)
    return Common(ClassSet(tuple(entries), told))
