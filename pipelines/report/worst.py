"""The page of the images on which a model is furthest from the gold masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.report import layers
from pipelines.report.data import ReportClass
from pipelines.report.render import Hatch, Layer, render, to_hex
from pipelines.report.select import MAX_IMAGES, Smallest

LAYERS = (
    Layer("image", "i", "Image", ""),
    Layer("gold", "g", "Gold", "gold"),
    Layer("label", "l", "Prediction", "class"),
    Layer("confidence", "c", "Confidence", "confidence"),
    Layer("difference", "d", "Differences", "difference"),
)
HATCH = Hatch("Hatch unjudged", "hatch what nobody judged")

#: Kinds of mistakes and their colours (Okabe and Ito, 2008), in the order of their number in a difference map.
RIGHT = 0
Differences = tuple[tuple[str, layers.Color], ...]
DIFFERENCES: Differences = (
    ("right", (0, 0, 0)),
    ("missed object", (86, 180, 233)),
    ("object where background is", (213, 94, 0)),
    ("another class", (240, 228, 66)),
)
OTHER_COLOR, UNJUDGED_COLOR = (255, 0, 255), (128, 128, 128)


@dataclass(frozen=True)
class JudgedItem:
    """One image with its gold mask and what a model made of it.

    photo: uint8 [H, W, 3], RGB. gold, found: integer [H, W], common class indices; of `gold`, negative is not judged.
    confidence: float [H, W], 0..1. iou: mean over the classes in the gold, 0..1. class_iou: of each class in the gold.
    """

    asset: str
    photo: npt.NDArray[np.uint8]
    gold: npt.NDArray[np.integer]
    found: npt.NDArray[np.integer]
    confidence: npt.NDArray[np.floating]
    iou: float
    class_iou: Mapping[int, float]


@dataclass(frozen=True)
class WorstCard:
    """A judged image as the page embeds it. class_iou: worst first. areas: index and share of the gold's classes."""

    asset: str
    width: int
    height: int
    photo: bytes
    gold: bytes
    label: bytes
    confidence: bytes
    difference: bytes
    unsure: bytes
    iou: float
    accuracy: float
    mean_confidence: float
    class_iou: tuple[tuple[int, float], ...]
    areas: tuple[tuple[int, float], ...]

    def uri(self, layer: str) -> str:
        return layers.data_uri(getattr(self, layer))


class WorstPage:
    """Takes judged images as they stream by, keeps the worst ones, encoded, and writes the page.

    classes: names and colours by common index, 0..n-1; n means a class that the gold does not know.
    background: index of the background, if there is one.
    """

    template = "worst.html.j2"
    layer_list = LAYERS
    hatch = HATCH
    invitation = "Point at a pixel to see what it is and what the model says."
    differences: Differences = DIFFERENCES
    stranger = "a class that the gold does not know"

    def __init__(self, classes: Sequence[tuple[str, layers.Color]], background: int | None, images: int) -> None:
        entries = [*classes, (self.stranger, OTHER_COLOR)]
        unique = layers.distinct([UNJUDGED_COLOR, *(color for _, color in entries)])[1:]
        self.classes = [ReportClass(i, name, unique[i]) for i, (name, _) in enumerate(entries)]
        self.background = background
        self._colors = {entry.id: entry.color for entry in self.classes}
        self._worst: Smallest[WorstCard] = Smallest(min(images, MAX_IMAGES))

    def add(self, item: JudgedItem) -> None:
        """Offer one image. Pictures are encoded only where it is among the worst so far."""
        if self._worst.accepts((item.iou, 0.0)):
            self._worst.add((item.iou, 0.0), item.asset, self._card(item))

    def cards(self) -> list[WorstCard]:
        """What the page will show, lowest IoU first."""
        return [card for _, card in self._worst.sorted()]

    def overlays(self, count: int) -> dict[str, bytes]:
        """PNG pictures of the first cards with the differences drawn over the photograph, by asset."""
        return {card.asset: layers.overlay_png(card.photo, card.difference) for card in self.cards()[:count]}

    def render(
        self,
        title: str,
        summary: Mapping[str, object],
        per_class: Mapping[str, tuple[float | None, ...]],
        images: int,
        config: str,
        **more: Any,
    ) -> str:
        """The page as HTML. per_class: IoU and boundary F over all images, by name. images: how many were judged.

        more: what another template asks for.
        """
        names = {entry.id: entry.name for entry in self.classes}
        used = {int(i) for card in self.cards() for i, _ in card.areas}
        return render(
            self.template,
            self.layer_list,
            "difference",
            self.hatch,
            self.invitation,
            summary,
            self._lookup(names),
            title=title,
            config=config,
            cards=[(card, False) for card in self.cards()],
            names=names,
            colors={entry.id: to_hex(entry.color) for entry in self.classes},
            classes=[entry for entry in self.classes if entry.id in used],
            background_id=self.background,
            images=images,
            per_class=sorted(
                ((name, *values) for name, values in per_class.items() if values[0] is not None),
                key=lambda row: row[1] or 0.0,
            ),
            differences=[
                (name, to_hex(color)) for name, color in self.differences[3 if self.background is None else 1 :]
            ],
            **more,
        )

    def _card(self, item: JudgedItem) -> WorstCard:
        height, width = item.gold.shape
        judged = item.gold >= 0
        difference = difference_map(item.gold, item.found, self.background)
        indices, counts = np.unique(item.gold[judged], return_counts=True)
        areas = ((int(i), float(n / item.gold.size)) for i, n in zip(indices, counts, strict=True))
        confidence = (np.clip(item.confidence, 0, 1) * 255).round().astype(np.uint8)
        return WorstCard(
            asset=item.asset,
            width=width,
            height=height,
            photo=layers.photo_jpeg(item.photo),
            gold=layers.class_png(item.gold, self._colors, self.background),
            label=layers.class_png(item.found, self._colors, self.background),
            confidence=layers.grid_png(confidence, layers.confidence_palette()),
            difference=layers.paletted_png(
                layers.shrink(difference).astype(np.uint8), [c for _, c in DIFFERENCES], RIGHT
            ),
            unsure=layers.unsure_png(judged.astype(np.uint8) * 255, 1.0),
            iou=item.iou,
            accuracy=float((difference == RIGHT)[judged].mean()) if judged.any() else 0.0,
            mean_confidence=float(item.confidence.mean()),
            class_iou=tuple(sorted(((int(i), v) for i, v in item.class_iou.items()), key=lambda pair: pair[1])),
            areas=tuple(sorted(areas, key=lambda pair: -pair[1])),
        )

    def _lookup(self, names: Mapping[int, str]) -> dict[str, object]:
        return {
            "classes": {to_hex(e.color): e.name for e in self.classes} | {to_hex(UNJUDGED_COLOR): "not judged"},
            "background": None if self.background is None else names[self.background],
            "differences": {to_hex(color): name for name, color in self.differences[1:]},
        }


def difference_map(
    gold: npt.NDArray[np.integer], found: npt.NDArray[np.integer], background: int | None
) -> npt.NDArray[np.uint8]:
    """Kinds of mistakes, uint8 [H, W], numbers in DIFFERENCES; what nobody judged is no mistake."""
    kinds = np.full(gold.shape, RIGHT, np.uint8)
    wrong = (gold >= 0) & (gold != found)
    kinds[wrong] = 3
    if background is not None:
        kinds[wrong & (found == background)] = 1
        kinds[wrong & (gold == background)] = 2
    return kinds
