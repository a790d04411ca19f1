"""Does a finished label make sense? Rules about which classes go together, and what breaks them.

After LogicSeg, "Parsing Visual Semantics with Neural Logic Learning and Reasoning" (ICCV 2023): composition (a child is
its parent too), decomposition (a parent is one of its children), exclusion (no two siblings), here as checks of labels
and as an inference step on scores. Which classes are seen together is learned from tags or gold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
NO_PARENT = -1


@dataclass(frozen=True)
class Violation:
    """name: of the broken rule. classes: names of the classes, the one to doubt first. area: share of the image, 0..1,
    of that class. message: what is wrong, for a person."""

    name: str
    classes: tuple[str, ...]
    area: float
    message: str


@dataclass(frozen=True)
class CheckConfig:
    """When something is worth telling."""

    min_area: float = 0.001
    """Share of the image below which a class is not looked at."""
    min_expected: float = 5.0
    """Images in which two classes would have met by chance, before their never meeting means anything."""
    max_lift: float = 0.1
    """Two classes exclude each other if they met at most this often, against chance."""


@dataclass(frozen=True)
class Rules:
    """names: C. ids: int32 [C]. parent: int32 [C], row of each class's parent, -1: none. exclusive: pairs of rows that
    cannot both be in an image. lift: float32 [C, C], how often two classes met against chance (learned), NaN: unknown.
    """

    names: tuple[str, ...]
    ids: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    exclusive: frozenset[tuple[int, int]] = frozenset()
    lift: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        ids: Sequence[int],
        parents: Mapping[str, str | None],
        exclusive: Sequence[tuple[str, str]] = (),
        seen: npt.NDArray[np.bool_] | None = None,
        config: CheckConfig | None = None,
    ) -> "Rules":
        """parents: a class's name to its parent's. exclusive: pairs of names that no image has both of.

        seen: bool [N, C], which classes are in each of N images, by tags or gold; what meets too rarely is learned from
        it. Raises ValueError for names that are not classes.
        """
        row = {name: index for index, name in enumerate(names)}
        used = {
            *parents,
            *(p for p in parents.values() if p is not None),
            *(name for pair in exclusive for name in pair),
        }
        if strange := sorted(used - row.keys()):
            raise ValueError(f"the rules name {strange}, which are no classes")
        above = np.full(len(names), NO_PARENT, np.int32)
        for child, parent in parents.items():
            above[row[child]] = NO_PARENT if parent is None else row[parent]
        pairs = frozenset((min(row[a], row[b]), max(row[a], row[b])) for a, b in exclusive)
        lift = None if seen is None else learn_lift(seen, config or CheckConfig())
        return cls(tuple(names), np.asarray(ids, np.int32), above, pairs, lift)

    def is_above(self, parent: int, child: int) -> bool:
        """Whether one class is an ancestor of the other."""
        return parent in self.above(child)

    def above(self, child: int) -> list[int]:
        """Rows of a class's ancestors, its parent first."""
        found = []
        while (child := int(self.parent[child])) != NO_PARENT:
            found.append(child)
        return found

    def children(self, parent: int) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self.parent == parent)


def learn_lift(seen: npt.NDArray[np.bool_], config: CheckConfig) -> npt.NDArray[np.float32]:
    """How often two classes are in one image against chance, float32 [C, C]; NaN where chance expects too few."""
    counts = seen.astype(np.float64)
    expected = np.outer(counts.sum(0), counts.sum(0)) / max(len(seen), 1)
    lift = (counts.T @ counts) / np.maximum(expected, 1e-9)
    lift[(expected < config.min_expected) | np.eye(len(expected), dtype=bool)] = np.nan
    return lift.astype(np.float32)


def check(
    class_map: npt.NDArray[np.integer],
    rules: Rules,
    present: npt.NDArray[np.bool_] | None = None,
    absent: npt.NDArray[np.bool_] | None = None,
    config: CheckConfig | None = None,
) -> list[Violation]:
    """What a label breaks; nothing for one that makes sense.

    class_map: ids [H, W]. present, absent: bool [C], the tags.

    hierarchy: a class lies beside its own ancestor, one of which must be meant. exclusion: two classes that cannot be
    in one image. co-occurrence: two that hardly ever are, and not both of them tagged. absent: a class, or an ancestor
    of it, that the tags rule out. missing: a class that the tags promise, and neither it nor a descendant is there.
    """
    areas = np.array([(class_map == i).mean() for i in rules.ids]) if class_map.size else np.zeros(len(rules.ids))
    return check_areas(areas, rules, present, absent, config)


def check_areas(
    areas: npt.NDArray[np.floating],
    rules: Rules,
    present: npt.NDArray[np.bool_] | None = None,
    absent: npt.NDArray[np.bool_] | None = None,
    config: CheckConfig | None = None,
) -> list[Violation]:
    """The same for a label of which only the share of the image that each class has is at hand, float [C], 0..1. Some
    20 microseconds."""
    config = config or CheckConfig()
    there = np.flatnonzero(areas >= config.min_area).tolist()
    found = []

    def tell(name: str, rows: Sequence[int], message: str) -> None:
        doubted = tuple(rules.names[row] for row in rows)
        found.append(Violation(name, doubted, float(areas[rows[0]]), message.format(*doubted)))

    for index, first in enumerate(there):
        for second in there[index + 1 :]:
            small, large = sorted((first, second), key=lambda row: areas[row])
            if rules.is_above(first, second) or rules.is_above(second, first):
                upper, lower = (first, second) if rules.is_above(first, second) else (second, first)
                tell("hierarchy", (upper, lower), "some pixels are {0}, others its kind {1}: one of the two is meant")
            elif (first, second) in rules.exclusive:
                tell("exclusion", (small, large), "{0} and {1} cannot be in one image")
            elif present is not None and present[first] and present[second]:
                continue  # Rare, and the tags say so.
            elif rules.lift is not None and rules.lift[first, second] <= config.max_lift:
                tell("co-occurrence", (small, large), "{0} is hardly ever in one image with {1}")
    # Who tags the kind alone does not mean that its parent is absent.
    tagged = np.flatnonzero(present).tolist() if present is not None else []
    meant = {parent for row in tagged for parent in rules.above(row)}
    for row in there if absent is not None else ():
        for other in (row, *rules.above(row)):
            if absent is not None and absent[other] and other not in meant:
                told = (row,) if other == row else (row, other)
                tell("absent", told, "{0} is there, but the tags say that there is no {" + str(len(told) - 1) + "}")
    for row in tagged:
        if row not in there and not any(rules.is_above(row, other) for other in there):
            tell("missing", (row,), "the tags say that there is a {0}, and the label has none")
    return found


def logic_scores(scores: Scores, rules: Rules) -> dict[str, float]:
    """How much scores float32 [C, ...], 0..1, break the rules on average, 0..1 each; 0 for what is coherent.

    composition: p_child - p_child * p_parent; decomposition: p_parent - p_parent * max(p_children); exclusion: what two
    siblings have together above 1 (released code multiplies them, which no soft scores escape).
    """
    flat = scores.reshape(len(scores), -1)
    child = np.flatnonzero(rules.parent != NO_PARENT)
    parents = np.unique(rules.parent[child])
    own = flat[child] * (1 - flat[rules.parent[child]])
    below = [flat[p] * (1 - flat[rules.children(p)].max(0)) for p in parents]
    both = [np.maximum(flat[a] + flat[b] - 1, 0) for a, b in _rivals(rules)]
    return {
        name: float(np.mean(part)) if len(part) else 0.0
        for name, part in (("composition", own), ("decomposition", below), ("exclusion", both))
    }


def infer(scores: Scores, rules: Rules) -> Scores:
    """Scores float32 [C, ...], 0..1, made coherent: a class is at least as likely as its likeliest descendant, the
    likeliest of siblings limits the others to what it leaves, and what that takes is gone for their descendants too.
    Coherent scores come back as they are, so that the step is idempotent.
    """
    out = scores.copy()
    falling = sorted(range(len(out)), key=lambda row: -_depth(rules, row))
    for row in falling:
        if rules.parent[row] != NO_PARENT:
            out[rules.parent[row]] = np.maximum(out[rules.parent[row]], out[row])
    for parent in reversed(falling):
        rows = rules.children(parent)
        if len(rows):
            below = np.minimum(out[rows], out[parent])
            best = below.argmax(0)[None]
            strongest = np.take_along_axis(below, best, 0)
            limited = np.minimum(below, 1 - strongest)
            np.put_along_axis(limited, best, strongest, 0)
            out[rows] = limited
    return out


def _rivals(rules: Rules) -> list[tuple[int, int]]:
    """Siblings that share a parent: one pixel can be only one of them."""
    pairs = []
    for parent in np.unique(rules.parent[rules.parent != NO_PARENT]):
        rows = rules.children(int(parent)).tolist()
        pairs += [(a, b) for index, a in enumerate(rows) for b in rows[index + 1 :]]
    return pairs


def _depth(rules: Rules, row: int) -> int:
    depth = 0
    while rules.parent[row] != NO_PARENT:
        row, depth = int(rules.parent[row]), depth + 1
    return depth
