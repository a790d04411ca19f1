"""Pictures of one label, small enough to embed: JPEG for the photograph, paletted PNG for the layers over it."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Color = tuple[int, int, int]

JPEG_QUALITY = 82
#: Longest side of any embedded picture, px; evidence guides are 384.
MAX_SIDE_PX = 384

# Anchors of matplotlib's viridis (CC0): dark is unsure, bright is sure; readable with every colour vision.
_VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")

#: Colours of the provenance indices, after Okabe and Ito (2008), who chose them for every colour vision.
SOURCE_COLORS: tuple[Color, ...] = (
    (120, 120, 128), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0),
    (204, 121, 167), (230, 159, 0), (0, 114, 178), (148, 103, 189),
    (170, 220, 60), (255, 255, 255),
)  # fmt: skip


def confidence_palette() -> list[Color]:
    """256 RGB colours for confidence 0..255."""
    anchors = np.array([[int(hex_[i : i + 2], 16) for i in (0, 2, 4)] for hex_ in _VIRIDIS], float)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, c]).round().astype(int) for c in range(3)]
    return [(int(r), int(g), int(b)) for r, g, b in zip(*channels, strict=True)]


def source_color(index: int) -> Color:
    return SOURCE_COLORS[index % len(SOURCE_COLORS)]


def distinct(colors: Sequence[Color]) -> list[Color]:
    """The same colours, nudged where two are equal, so that a pixel's colour names its class."""
    seen: set[Color] = set()
    result = []
    for color in colors:
        step = 0
        while color in seen:
            step += 1
            color = (color[0], (color[1] + 7 * step) % 256, (color[2] + 13 * step) % 256)
        seen.add(color)
        result.append(color)
    return result


def photo_jpeg(guide: npt.NDArray[np.uint8]) -> bytes:
    """JPEG of a guide picture, uint8 [h, w, 3]."""
    image = Image.fromarray(np.ascontiguousarray(guide))
    if max(image.size) > MAX_SIDE_PX:
        image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def class_png(class_map: npt.NDArray[np.integer], colors: Mapping[int, Color], clear: int | None) -> bytes:
    """Paletted PNG of a class map [H, W]; class `clear` (the background) is transparent, unknown ids are grey."""
    ids, index = np.unique(shrink(class_map), return_inverse=True)
    palette = [colors.get(int(i), (128, 128, 128)) for i in ids]
    index = index.reshape(shrink(class_map).shape)
    if len(ids) > 256:  # more classes in one image than a palette has places
        rgba = np.array([(*color, 0 if i == clear else 255) for color, i in zip(palette, ids, strict=True)], np.uint8)
        return _png(Image.fromarray(rgba[index]))
    transparent = next((n for n, i in enumerate(ids) if i == clear), None)
    return paletted_png(index.astype(np.uint8), palette, transparent)


def grid_png(grid: npt.NDArray[np.uint8], palette: Sequence[Color]) -> bytes:
    """Paletted PNG of a confidence or provenance grid."""
    return paletted_png(shrink(grid).astype(np.uint8), palette, None)


def unsure_png(confidence: npt.NDArray[np.uint8], keep_threshold: float) -> bytes:
    """Opaque where the policy does not keep the pixel, transparent elsewhere."""
    unsure = shrink(confidence) < round(keep_threshold * 255)  # as `decide` counts coverage
    return paletted_png(unsure.astype(np.uint8), [(255, 255, 255), (0, 0, 0)], transparent=0)


def paletted_png(index: npt.NDArray[np.uint8], palette: Sequence[Color], transparent: int | None) -> bytes:
    image = Image.fromarray(index, mode=None).convert("L")
    image.putpalette([channel for color in palette for channel in color])
    options = {} if transparent is None else {"transparency": transparent}
    return _png(image, **options)


def overlay_png(photo: bytes, layer: bytes, opacity: float = 0.55) -> bytes:
    """The photograph with the class layer over it, as one PNG."""
    base = Image.open(io.BytesIO(photo)).convert("RGBA")
    top = Image.open(io.BytesIO(layer)).convert("RGBA").resize(base.size, Image.Resampling.NEAREST)
    top.putalpha(top.getchannel("A").point(lambda value: round(value * opacity)))
    return _png(Image.alpha_composite(base, top).convert("RGB"))


def data_uri(picture: bytes) -> str:
    kind = "jpeg" if picture[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def shrink(grid: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Nearest-neighbour reduction to at most MAX_SIDE_PX on the longer side; never enlarged."""
    height, width = grid.shape
    factor = max(height, width) / MAX_SIDE_PX
    if factor <= 1:
        return grid
    rows, cols = max(1, round(height / factor)), max(1, round(width / factor))
    at_rows = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    at_cols = ((np.arange(cols) + 0.5) * width / cols).astype(int)
    return grid[at_rows[:, None], at_cols[None, :]]


def _png(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()
