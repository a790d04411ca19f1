"""What pages share: one HTML file that opens from disk, asks no server for anything, and runs no script but its own.

Names come from file names and class sets, so any of them may hold markup: jinja2 escapes all of them, and the page's
content security policy allows only the one inline script whose digest it states.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import layers

_HERE = Path(__file__).parent


class Layer(NamedTuple):
    """A picture that can be laid over the photographs. key: that shows it. title: of its button.

    kind: what its colours mean, an entry of WORDS in page.js; "" for the photograph itself.
    """

    name: str
    key: str
    title: str
    kind: str


class Hatch(NamedTuple):
    """What the hatched pixels are. title: of the button."""

    title: str
    help: str


def render(
    template: str,
    layer_list: Sequence[Layer],
    first: str,
    hatch: Hatch,
    invitation: str,
    summary: Mapping[str, object],
    lookup: Mapping[str, object],
    folder: Path = _HERE,
    **values: object,
) -> str:
    """A page as HTML. first: the layer shown at first. lookup: what the colours mean, for the script. folder: where
    the template is; its page.css, if it has one, comes after the one of all pages."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    sheets = [place / "page.css" for place in dict.fromkeys((_HERE, folder))]
    pointed = [{"name": layer.name, "kind": layer.kind, "title": layer.title} for layer in layer_list if layer.kind]
    return (
        _environment(folder)
        .get_template(template)
        .render(
            style=Markup("\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets if sheet.exists())),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            layers=layer_list,
            first=first,
            hatch=hatch,
            invitation=invitation,
            summary=[(key.replace("_", " "), readable(value)) for key, value in summary.items()],
            ramp=[to_hex(color) for color in layers.confidence_palette()[::15]],
            lookup=_json({**lookup, "layers": pointed, "invitation": invitation, "confidence": _confidences()}),
            **values,
        )
    )


def _confidences() -> dict[str, float]:
    return {to_hex(color): level / 255 for level, color in enumerate(layers.confidence_palette())}


def _json(table: Mapping[str, object]) -> Markup:
    """JSON that cannot close the element it stands in."""
    text = json.dumps(table, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "readable": readable}
    return environment


def percent(share: float) -> str:
    """0.1234 -> 12 %; small shares keep a digit, so that a class that is there never reads 0 %."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.5 or value == 0 else f"{max(value, 0.1):.1f} %"


def readable(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {readable(inner)}" for name, inner in value.items()) or "none"
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def to_hex(color: layers.Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
