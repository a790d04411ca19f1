"""The report of a labeling run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.report import layers
from pipelines.report.charts import Bar, class_bars, histogram
from pipelines.report.data import PROVENANCE, QuarantineRow, ReportClass, ReportData, ReportItem, Totals
from pipelines.report.render import Hatch, Layer, render, to_hex
from pipelines.report.select import Selection

LAYERS = (
    Layer("image", "i", "Image", ""),
    Layer("label", "l", "Label", "class"),
    Layer("confidence", "c", "Confidence", "confidence"),
    Layer("provenance", "p", "Provenance", "source"),
)
HATCH = Hatch("Hatch unkept", "hatch what the policy does not keep")

#: Tables that a page shows below its images: a title, and rows of cells, the first of them the columns' names.
Notes = Sequence[tuple[str, Sequence[Sequence[object]]]]
#: The page lists the first rows only; the quarantine table has them all.
MAX_QUARANTINE_ROWS = 1000


@dataclass(frozen=True)
class Card:
    """One image as the page embeds it: encoded pictures and the numbers beside them."""

    asset: str
    weak: str
    width: int
    height: int
    photo: bytes
    label: bytes
    confidence: bytes
    provenance: bytes
    unsure: bytes
    keep_threshold: float
    coverage: float
    mean_confidence: float
    areas: tuple[tuple[int, float], ...]
    predicted: tuple[float, float, float] | None
    accepted: bool
    violations: tuple[str, ...]

    def uri(self, layer: str) -> str:
        return layers.data_uri(getattr(self, layer))


class ReportBuilder:
    """Takes labeled images as they stream by and writes the page at the end.

    Memory is bounded by `images` (at most `select.MAX_IMAGES`), not by the run: pictures are encoded on arrival and
    dropped when a better candidate comes. `wants` says, from two columns, whether an image's pictures are needed.
    """

    def __init__(
        self,
        classes: Sequence[ReportClass],
        images: int = 60,
        background_id: int | None = 0,
        sources: Sequence[str] = PROVENANCE,
    ) -> None:
        unique = layers.distinct([entry.color for entry in classes])
        self.classes = [ReportClass(c.id, c.name, color) for c, color in zip(classes, unique, strict=True)]
        self.background_id = background_id
        self.sources = tuple(sources)
        self.totals = Totals()
        self._colors: Mapping[int, layers.Color] = {entry.id: entry.color for entry in self.classes}
        self._selection: Selection[Card] = Selection(images)

    def wants(self, asset: str, mean_confidence: float) -> bool:
        return self._selection.wants(asset, mean_confidence)

    def add(self, item: ReportItem) -> None:
        """Offer one image to the page. Counting it in `totals` is the caller's: images without pictures count too."""
        if self.wants(item.asset, item.mean_confidence):
            self._selection.add(item.asset, item.mean_confidence, self._card(item))

    def cards(self) -> list[tuple[Card, bool]]:
        """What the page will show, by name; the flag says that an image is among the least confident."""
        return sorted(self._selection.chosen(), key=lambda pair: pair[0].asset)

    def overlays(self, count: int) -> dict[str, bytes]:
        """PNG pictures of the first `count` cards with the label drawn over the photograph, by asset."""
        cards = [card for card, _ in self.cards()[:count]]
        return {card.asset: layers.overlay_png(card.photo, card.label) for card in cards}

    def render(
        self,
        title: str,
        summary: Mapping[str, object],
        config: str,
        quarantine: Iterable[QuarantineRow] = (),
        totals: Totals | None = None,
        notes: Notes = (),
        beside: Sequence[str] = (),
    ) -> str:
        """The page as HTML. quarantine: any stream; the first rows are listed, all are counted. beside: other pages in
        the same folder, which are linked."""
        listed, refused = _first(quarantine, MAX_QUARANTINE_ROWS)
        sums = totals or self.totals
        names = {entry.id: entry.name for entry in self.classes}
        cards = self.cards()
        return render(
            "page.html.j2",
            LAYERS,
            "label",
            HATCH,
            "Point at a pixel to see its class, confidence and source.",
            summary,
            self._lookup(names),
            title=title,
            config=config,
            cards=[(card, doubtful and sums.images > len(cards)) for card, doubtful in cards],
            names=names,
            colors={entry.id: to_hex(entry.color) for entry in self.classes},
            classes=self.classes,
            background_id=self.background_id,
            sources=[(name, to_hex(layers.source_color(n))) for n, name in enumerate(self.sources)],
            images=sums.images,
            totals=sums,
            bars=self._bars(sums),
            image_chart=histogram(sums.image_bins),
            pixel_chart=histogram(sums.pixel_bins),
            quarantine=listed,
            refused=refused,
            notes=notes,
            beside=beside,
        )

    def _card(self, item: ReportItem) -> Card:
        height, width = item.class_map.shape
        palette = [layers.source_color(n) for n in range(max(len(self.sources), int(item.provenance.max()) + 1))]
        areas = sorted(((int(c), float(a)) for c, a in item.areas.items() if a > 0), key=lambda pair: -pair[1])
        return Card(
            asset=item.asset,
            weak=weak_in_words(item.weak),
            width=width,
            height=height,
            photo=layers.photo_jpeg(item.guide),
            label=layers.class_png(item.class_map, self._colors, self.background_id),
            confidence=layers.grid_png(item.confidence, layers.confidence_palette()),
            provenance=layers.grid_png(item.provenance, palette),
            unsure=layers.unsure_png(item.confidence, item.keep_threshold),
            keep_threshold=item.keep_threshold,
            coverage=item.coverage,
            mean_confidence=item.mean_confidence,
            areas=tuple(areas),
            predicted=item.predicted,
            accepted=item.accepted,
            violations=item.violations,
        )

    def _bars(self, totals: Totals) -> list[Bar]:
        return class_bars(
            [(entry.id, entry.name, to_hex(entry.color)) for entry in self.classes if entry.id != self.background_id],
            totals,
        )

    def _lookup(self, names: Mapping[int, str]) -> dict[str, object]:
        """What the page's script needs to name the pixel under the pointer."""
        return {
            "classes": {to_hex(entry.color): entry.name for entry in self.classes},
            "sources": {to_hex(layers.source_color(n)): name for n, name in enumerate(self.sources)},
            "background": None if self.background_id is None else names.get(self.background_id, "background"),
        }


def build_report(data: ReportData) -> str:
    """One self-contained HTML page (text). Items are read once, as a stream."""
    builder = ReportBuilder(data.classes, data.images, data.background_id, data.sources)
    for item in data.items:
        if data.totals is None:
            builder.totals.count(item.areas, None, item.coverage, item.mean_confidence, item.confidence)
        builder.add(item)
    return builder.render(data.title, data.summary, data.config, data.quarantine, data.totals)


def weak_in_words(weak: str) -> str:
    """Canonical weak labels (JSON) as a line to read; any other text as it is."""
    try:
        forms = json.loads(weak) if weak.startswith("{") else None
    except ValueError:
        forms = None
    if not isinstance(forms, Mapping):
        return weak
    words = []
    for form, entries in forms.items():
        if form == "tags":
            present = [str(tag["class"]) for tag in entries if tag.get("present", True)]
            words.append("tags: " + (", ".join(present) or "none of the classes"))
        elif isinstance(entries, list) and entries:
            words.append(
                f"{len(entries)} {form if len(entries) > 1 else 'box' if form == 'boxes' else form.removesuffix('s')}"
            )
    return "; ".join(words)


def _first(rows: Iterable[QuarantineRow], most: int) -> tuple[list[QuarantineRow], int]:
    """The first `most` rows and the number of all."""
    listed: list[QuarantineRow] = []
    count = 0
    for row in rows:
        count += 1
        if count <= most:
            listed.append(row)
    return listed, count
