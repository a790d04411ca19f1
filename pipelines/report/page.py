"""The report: one HTML file that opens from disk, asks no server for anything, and runs no script but its own.

Names come from file names and class sets, so any of them may hold markup: jinja2 escapes all of them, and the page's
content security policy allows only the one inline script whose digest it states.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import layers
from pipelines.report.charts import Bar, class_bars, histogram
from pipelines.report.data import PROVENANCE, QuarantineRow, ReportClass, ReportData, ReportItem, Totals
from pipelines.report.select import Selection

_HERE = Path(__file__).parent

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
    ) -> str:
        """The page as HTML. quarantine: any stream; the first rows are listed, all are counted."""
        listed, refused = _first(quarantine, MAX_QUARANTINE_ROWS)
        sums = totals or self.totals
        names = {entry.id: entry.name for entry in self.classes}
        cards = self.cards()
        script = (_HERE / "page.js").read_text(encoding="utf-8")
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                title=title,
                summary=[(key.replace("_", " "), _readable(value)) for key, value in summary.items()],
                config=config,
                style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
                script=Markup(script),
                script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
                lookup=self._lookup(names),
                cards=[(card, doubtful and sums.images > len(cards)) for card, doubtful in cards],
                names=names,
                colors={entry.id: _hex(entry.color) for entry in self.classes},
                classes=self.classes,
                background_id=self.background_id,
                sources=[(name, _hex(layers.source_color(n))) for n, name in enumerate(self.sources)],
                ramp=[_hex(color) for color in layers.confidence_palette()[::15]],
                totals=sums,
                bars=self._bars(sums),
                image_chart=histogram(sums.image_bins),
                pixel_chart=histogram(sums.pixel_bins),
                quarantine=listed,
                refused=refused,
            )
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
        )

    def _bars(self, totals: Totals) -> list[Bar]:
        return class_bars(
            [(entry.id, entry.name, _hex(entry.color)) for entry in self.classes if entry.id != self.background_id],
            totals,
        )

    def _lookup(self, names: Mapping[int, str]) -> Markup:
        """What the page's script needs to name the pixel under the pointer, as JSON that cannot close its element."""
        table = {
            "label": {_hex(entry.color): entry.name for entry in self.classes},
            "provenance": {_hex(layers.source_color(n)): name for n, name in enumerate(self.sources)},
            "confidence": {_hex(color): level / 255 for level, color in enumerate(layers.confidence_palette())},
            "background": None if self.background_id is None else names.get(self.background_id, "background"),
        }
        text = json.dumps(table, ensure_ascii=True)
        return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def build_report(data: ReportData) -> str:
    """One self-contained HTML page (text). Items are read once, as a stream."""
    builder = ReportBuilder(data.classes, data.images, data.background_id, data.sources)
    for item in data.items:
        if data.totals is None:
            builder.totals.count(item.areas, None, item.coverage, item.mean_confidence, item.confidence)
        builder.add(item)
    return builder.render(data.title, data.summary, data.config, data.quarantine, data.totals)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = _percent
    return environment


def _percent(share: float) -> str:
    """0.1234 -> 12 %; small shares keep a digit, so that a class that is there never reads 0 %."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.5 or percent == 0 else f"{max(percent, 0.1):.1f} %"


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


def _readable(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_readable(inner)}" for name, inner in value.items()) or "none"
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _hex(color: layers.Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _first(rows: Iterable[QuarantineRow], most: int) -> tuple[list[QuarantineRow], int]:
    """The first `most` rows and the number of all."""
    listed: list[QuarantineRow] = []
    count = 0
    for row in rows:
        count += 1
        if count <= most:
            listed.append(row)
    return listed, count
