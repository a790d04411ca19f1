"""Bytes of an image file to an upright RGB picture, or a reason why not."""

import io
import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# The limit on pixels is ours, and configurable: with Pillow's own, a bomb is an error of another kind.
Image.MAX_IMAGE_PIXELS = None

# What turns a stored picture upright, by its EXIF orientation. Not ImageOps.exif_transpose: it writes the whole EXIF
# block anew, and fails on tags that have nothing to do with the picture.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """The image cannot be used. `error` is a short name of the kind, the message a sentence for a person."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


@dataclass(frozen=True)
class Picture:
    """pixels: uint8 [h, w, 3], upright RGB. height, width: of the upright image at full size."""

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int


def decode(data: bytes, picture_px: int, max_pixels: int, full_size_above_px: int = 0) -> Picture:
    """Decode the first frame, turned upright by its EXIF orientation, with its longer side at most `picture_px`.

    16-bit, CMYK, palette, grey and float images are converted, transparency is laid on white. An image whose longer
    side exceeds `full_size_above_px` (if not 0) keeps its full size, because it will be tiled.

    Raises:
        BadImage: empty_file, not_an_image, zero_size, too_many_pixels, truncated, undecodable.
    """
    if not data:
        raise BadImage("empty_file", "the file is empty (0 bytes)")
    try:
        return _to_picture(_open(data, max_pixels), picture_px, full_size_above_px)
    except BadImage:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError) as error:
        text = str(error) or type(error).__name__
        if "truncated" in text.lower() or "end of file" in text.lower() or isinstance(error, EOFError):
            raise BadImage("truncated", f"the file ends before the image does ({text})") from error
        raise BadImage("undecodable", f"the image data is damaged ({text})") from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        if 0 in _declared_size(data):
            raise BadImage("zero_size", "the image has no pixels: its header says a side is 0") from error
        head = data[:8].hex(" ")
        raise BadImage("not_an_image", f"no known image format (the file begins with {head})") from error
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage("zero_size", f"the image has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"{width} x {height} is {width * height:,} pixels, above images.max_pixels = {max_pixels:,}",
        )
    return image


def _declared_size(data: bytes) -> tuple[int, ...]:
    """(width, height) that a PNG or GIF header states; () for anything else. Pillow does not open empty ones."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return struct.unpack("<HH", data[6:10])
    return ()


def _to_picture(image: Image.Image, picture_px: int, full_size_above_px: int) -> Picture:
    width, height = image.size
    tiled = 0 < full_size_above_px < max(width, height)
    if not tiled and image.format == "JPEG":
        # The decoder itself halves, while it stays at or above the size asked for.
        scale = min(1.0, picture_px / max(width, height))
        image.draft("RGB" if image.mode != "CMYK" else "CMYK", (math.ceil(width * scale), math.ceil(height * scale)))
    image.load()
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if not tiled:
        rgb.thumbnail((picture_px, picture_px), Image.Resampling.BICUBIC)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Picture(np.ascontiguousarray(np.asarray(rgb)), height, width)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where the tag is missing or the block is damaged, which cameras get wrong often."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_to_8_bit(np.asarray(image).astype(np.float64))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Scale by the bit depth that the values use: 12-bit data in a 16-bit file is as bright as it was meant."""
    top = float(values.max(initial=0))
    if top <= 1.0 and not float(top).is_integer():
        full = 1.0
    else:
        full = max(255.0, 2.0 ** math.ceil(math.log2(top + 1)) - 1) if top > 0 else 255.0
    return np.clip(np.nan_to_num(values) * (255.0 / full), 0, 255).astype(np.uint8)
