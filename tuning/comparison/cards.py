"""The images that differ most: chosen as they stream by, encoded, and shown one answer over the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.gold import IGNORED, Matching
from pipelines.evaluation.score import image_iou
from pipelines.report import layers
from pipelines.report.render import Hatch, Layer
from pipelines.report.select import Smallest
from pipelines.stages.decide import png, read_png
from tuning.comparison.classes import Common, Indices
from tuning.comparison.sources import Map, Picture

HATCH = Hatch("Hatch agreement", "hatch what they agree on")
UNJUDGED_COLOR = (128, 128, 128)
#: Colours of the kinds of differences, after Okabe and Ito (2008), in the order of their number in a difference map.
COLORS: tuple[layers.Color, ...] = ((0, 0, 0), (86, 180, 233), (213, 94, 0), (240, 228, 66), (160, 160, 168))
#: Moves from class to class that are named under an image.
MOVES = 3


@dataclass(frozen=True)
class Judged:
    """One image against gold: indices [H, W] that gold and labels have in common, of the gold and of each side."""

    gold: Indices
    found: Sequence[Indices]
    classes: int


@dataclass(frozen=True)
class Card:
    """One image as the page embeds it. pictures: by the name of the layer. share: of its pixels that differ.
    moves: (class before, class after, share of the image). ious: of each side, None without gold."""

    asset: str
    width: int
    height: int
    pictures: Mapping[str, bytes]
    share: float
    mean_confidence: float
    areas: tuple[tuple[int, float], ...]
    moves: tuple[tuple[int, int, float], ...]
    ious: tuple[float, ...] | None

    def uri(self, layer: str) -> str:
        return layers.data_uri(self.pictures[layer])


@dataclass(frozen=True)
class _Kept:
    """What a card is made of, packed: of the many that are among the first for a while, few are shown in the end.

    found: PNG of each side's map. gold: PNG of the indices plus one, None without. photo: JPEG, or where to get it.
    """

    found: tuple[bytes, ...]
    gold: bytes | None
    mean_confidence: float
    photo: bytes | Callable[[], Picture]


class Differing:
    """Takes the images that some side sees otherwise, keeps those that differ most. sides: their names."""

    def __init__(self, common: Common, sides: Sequence[str], matching: Matching | None, images: int) -> None:
        self.common, self.sides, self.matching = common, list(sides), matching
        unique = layers.distinct([UNJUDGED_COLOR, *(one.color for one in common.shown)])[1:]
        self.colors = dict(enumerate(unique))
        self.kinds = self._kinds()
        self._most: Smallest[_Kept] = Smallest(images)

    def layers(self) -> list[Layer]:
        """What can be laid over the photographs, the differences last."""
        found = [Layer("image", "i", "Image", "")]
        found += [Layer(f"side-{n}", str(n + 1) if n < 9 else "", name, "side") for n, name in enumerate(self.sides)]
        found += [Layer("gold", "g", "Gold", "gold")] if self.matching is not None else []
        return [*found, Layer("difference", "d", "Differences", "difference")]

    def _kinds(self) -> list[str]:
        """What the numbers of a difference map mean, from 1."""
        if len(self.sides) > 2:
            return ["two answers", "three answers or more"]
        first, second = self.sides
        if self.matching is not None:
            return [f"only {first} is right", f"only {second} is right", "both are wrong", "not judged"]
        if self.common.background is None:
            return ["another class"]
        return [f"only {first} sees an object", f"only {second} sees an object", "another class"]

    def add(
        self, asset: str, answers: Sequence[Map], judged: Judged | None, photo: Picture | Callable[[], Picture]
    ) -> None:
        """Offer one image; its maps are of one shape. With gold, only images that have a mask are shown."""
        if self.matching is not None and judged is None:
            return
        share = float((self.difference([one.found for one in answers], judged) > 0).mean())
        if share == 0 or not self._most.accepts((-share, 0.0)):
            return
        kept = _Kept(
            tuple(_pack(one.found) for one in answers),
            None if judged is None else _pack(judged.gold + 1),
            float(np.mean([one.mean_confidence for one in answers])),
            photo if callable(photo) else layers.photo_jpeg(photo),
        )
        self._most.add((-share, 0.0), asset, kept)

    def difference(self, found: Sequence[Indices], judged: Judged | None) -> npt.NDArray[np.uint8]:
        """Kinds of differences, uint8 [H, W]; 0 where all agree."""
        differ = np.zeros(found[0].shape, bool)
        for one in found[1:]:
            differ |= one != found[0]
        kinds = np.zeros(differ.shape, np.uint8)
        if len(found) > 2:
            ordered = np.sort(np.stack(found), 0)
            answers = 1 + (ordered[1:] != ordered[:-1]).sum(0)
            kinds[answers == 2], kinds[answers > 2] = 1, 2
        elif judged is not None:
            right = [one == judged.gold for one in judged.found]
            kinds[differ] = 3
            kinds[differ & right[0]], kinds[differ & right[1]] = 1, 2
            kinds[differ & (judged.gold == IGNORED)] = 4
        elif self.common.background is None:
            kinds[differ] = 1
        else:
            kinds[differ] = 3
            kinds[differ & (found[1] == self.common.background)] = 1
            kinds[differ & (found[0] == self.common.background)] = 2
        return kinds

    def _card(self, asset: str, kept: _Kept) -> Card:
        found = [read_png(png_).astype(np.int32) for png_ in kept.found]
        judged = None
        if kept.gold is not None and self.matching is not None:
            judged = judge_all(self.matching, read_png(kept.gold).astype(np.int32) - 1, found)
        kinds = self.difference(found, judged)
        height, width = kinds.shape
        clear = self.common.background
        photo = layers.photo_jpeg(kept.photo()) if callable(kept.photo) else kept.photo
        pictures = {"photo": photo}
        pictures |= {f"side-{n}": layers.class_png(one, self.colors, clear) for n, one in enumerate(found)}
        pictures["difference"] = layers.paletted_png(layers.shrink(kinds).astype(np.uint8), COLORS, 0)
        pictures["unsure"] = layers.unsure_png((kinds > 0).astype(np.uint8) * 255, 1.0)
        ious = None
        if judged is not None:
            pictures["gold"] = layers.class_png(self._in_common(judged.gold), self.colors, clear)
            ious = tuple(image_iou(judged.gold, one, judged.classes)[0] for one in judged.found)
        present = {int(i) for one in found for i in np.unique(one)}
        areas = {i: max(float((one == i).mean()) for one in found) for i in present}
        return Card(
            asset,
            width,
            height,
            pictures,
            float((kinds > 0).mean()),
            kept.mean_confidence,
            tuple(sorted(areas.items(), key=lambda pair: -pair[1])),
            _moves(found[0], found[-1], len(self.common.names)),
            ious,
        )

    def _in_common(self, gold: Indices) -> Indices:
        """Gold indices as common ones; negative where a pixel is not judged, which is drawn grey."""
        assert self.matching is not None
        indices = self.matching.label(np.arange(len(self.common.names)))
        table = np.array([int(np.argmax(indices == n)) for n in range(len(self.matching.names))], np.int32)
        return np.where(gold == IGNORED, -1, table[np.maximum(gold, 0)]).astype(np.int32)

    def cards(self) -> list[Card]:
        """What the page will show, what differs most first, with photographs."""
        return [self._card(asset, kept) for asset, kept in self._most.sorted()]


def judge_all(matching: Matching, gold: Indices, found: Sequence[Indices]) -> Judged:
    """gold: indices that gold and labels have in common; found: common class indices of each side, [H, W] each."""
    return Judged(gold, [matching.label(one) for one in found], len(matching.names))


def _pack(indices: Indices) -> bytes:
    return png(indices.astype(np.uint8 if indices.max(initial=0) < 256 else np.uint16))


def _moves(before: Indices, after: Indices, classes: int) -> tuple[tuple[int, int, float], ...]:
    differ = before != after
    flat = before[differ].astype(np.int64) * classes + after[differ]
    pairs, counts = np.unique(flat, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOVES]
    return tuple((int(pairs[n]) // classes, int(pairs[n]) % classes, float(counts[n] / before.size)) for n in order)
