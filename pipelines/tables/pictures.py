"""Maps as the tables hold them: lossless grey PNGs."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def png(array: npt.NDArray[Any]) -> bytes:
    """A lossless grey PNG of a uint8 or uint16 map [H, W]."""
    image = Image.fromarray(np.ascontiguousarray(array))
    buffer = io.BytesIO()
    # Level 3 is twice as fast as the default of 6 and costs a tenth in size on class maps.
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def read_png(data: bytes) -> npt.NDArray[Any]:
    """The map of `png`: uint8 or uint16 [H, W]."""
    array = np.asarray(Image.open(io.BytesIO(data)))
    return array if array.dtype == np.uint8 else array.astype(np.uint16)
