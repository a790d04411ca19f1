"""The photograph that belongs to a label: the bytes that were labeled, as every reader shows them."""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from pipelines.corpus.read import read_bytes
from pipelines.stages.decode import BadImage, decode

JPEG_QUALITY = 95
# Read by everything that reads images; MPO is what many phones write: a JPEG with a second one behind it.
COMMON = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}


class Skipped(Exception):
    """This image cannot be exported; the message is the reason."""


@dataclass(frozen=True)
class Photograph:
    """data: of a file that needs no turning; suffix: jpg or png."""

    data: bytes
    suffix: str


def photograph(uri: str, digest: str, size: tuple[int, int], max_pixels: int, only_jpeg: bool = False) -> Photograph:
    """The image at an address, if its bytes are those that were labeled. size: (height, width) of its label.

    JPEG and PNG files stay as they are. Others, and those whose EXIF says that they lie on a side (some readers turn
    them, some do not, and the label covers the upright picture), are written anew: without loss as PNG, or as JPEG
    where the format knows no other (only_jpeg). Raises Skipped.
    """
    try:
        data = read_bytes(uri)
    except OSError as error:
        raise Skipped(f"it cannot be read any more ({error})") from error
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise Skipped("its bytes changed since it was labeled; label the corpus again")
    if (suffix := _suffix(data)) and (suffix == "jpg" or not only_jpeg):
        return Photograph(data, suffix)
    try:
        picture = decode(data, max(size), max_pixels)
    except BadImage as error:
        raise Skipped(str(error)) from error
    if picture.pixels.shape[:2] != size:
        raise Skipped(f"it has {picture.pixels.shape[:2]} pixels, its label {size}")
    buffer = io.BytesIO()
    if only_jpeg:
        Image.fromarray(picture.pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        Image.fromarray(picture.pixels).save(buffer, "PNG", compress_level=3)
    return Photograph(buffer.getvalue(), "jpg" if only_jpeg else "png")


def _suffix(data: bytes) -> str | None:
    """Of a file that can be passed on as it is."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = image.getexif().get(0x0112, 1) in (0, 1)
            plain = image.mode in ("RGB", "L", "RGBA", "P", "CMYK") and getattr(image, "n_frames", 1) == 1
            plain |= image.format == "MPO"
            return COMMON.get(image.format or "") if upright and plain else None
    except Exception:
        return None  # `decode` will say what is wrong
