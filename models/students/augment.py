"""Random views of a picture and its maps: one geometry for all of them, light changes of colour for the picture.

NumPy and Pillow only: it runs in the processes that prepare data, which hold no torch.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

IGNORE = -1
"""Target of pixels that say nothing."""
FILL_RGB = (124, 116, 104)
"""What lies outside of the picture: the mean colour of ImageNet, so that a normalised picture is near zero there."""

Picture = npt.NDArray[np.uint8]
Target = npt.NDArray[np.int16]
Weight = npt.NDArray[np.uint8]
Values = TypeVar("Values", bound=np.integer)


def _option(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    metadata: dict[str, Any] = {"help": text}
    if low is not None:
        metadata["range"] = (low, high)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class AugmentConfig:
    """random views of the training images"""

    enabled: bool = _option(True, "random scale, crop, flip and colour; false: the middle of every picture")
    min_scale: float = _option(0.6, "smallest random scale", 0.1, 4.0)
    max_scale: float = _option(1.7, "largest random scale", 0.1, 4.0)
    flip: float = _option(0.5, "share of pictures that are mirrored", 0.0, 1.0)
    brightness: float = _option(0.25, "brightness is multiplied by 1 plus or minus up to this", 0.0, 1.0)
    contrast: float = _option(0.25, "the same for the distance to the mean brightness", 0.0, 1.0)
    saturation: float = _option(0.25, "the same for the distance to grey", 0.0, 1.0)

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise ValueError(f"augment.min_scale {self.min_scale} is above augment.max_scale {self.max_scale}")


@dataclass(frozen=True)
class View:
    """A square of the picture: left and top corner in picture pixels (may lie outside), scale, mirrored or not.

    Pixel j of the view shows the picture at left + (j + 0.5) / scale.
    """

    left: float
    top: float
    scale: float
    flip: bool


def draw_view(height: int, width: int, size: int, config: AugmentConfig, random: np.random.Generator) -> View:
    """A random square of `size` pixels of a scaled picture; the scale is drawn evenly on a logarithmic axis.

    Along each axis the view lies inside the picture, or holds all of it.
    """
    if not config.enabled:
        return View((width - size) / 2, (height - size) / 2, 1.0, False)
    scale = float(np.exp(random.uniform(np.log(config.min_scale), np.log(config.max_scale))))
    side = size / scale
    left = float(random.uniform(min(0.0, width - side), max(0.0, width - side)))
    top = float(random.uniform(min(0.0, height - side), max(0.0, height - side)))
    return View(left, top, scale, bool(random.random() < config.flip))


def view_picture(picture: Picture, view: View, size: int) -> Picture:
    """The view of a picture uint8 [h, w, 3] as uint8 [size, size, 3]; antialiased, FILL_RGB outside."""
    height, width = picture.shape[:2]
    x0, x1 = _inside(view.left, view.scale, width, size)
    y0, y1 = _inside(view.top, view.scale, height, size)
    out = np.empty((size, size, 3), np.uint8)
    out[:] = FILL_RGB
    if x0 < x1 and y0 < y1:
        left, top = view.left + x0 / view.scale, view.top + y0 / view.scale
        right, bottom = view.left + x1 / view.scale, view.top + y1 / view.scale
        # Rounding may take the box over the edge by less than a pixel, which Pillow refuses.
        box = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        part = Image.fromarray(picture).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box)
        out[y0:y1, x0:x1] = np.asarray(part)
    return np.ascontiguousarray(out[:, ::-1]) if view.flip else out


def view_map(values: npt.NDArray[Values], view: View, size: int, outside: int) -> npt.NDArray[Values]:
    """The same view of a map [h, w] as [size, size] of its dtype: nearest pixel, `outside` beyond the map."""
    rows = np.floor(view.top + (np.arange(size) + 0.5) / view.scale).astype(np.int64)
    columns = np.floor(view.left + (np.arange(size) + 0.5) / view.scale).astype(np.int64)
    height, width = values.shape
    y_in, x_in = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    out = np.full((size, size), outside, values.dtype)
    out[np.ix_(y_in, x_in)] = values[np.ix_(rows[y_in], columns[x_in])]
    return np.ascontiguousarray(out[:, ::-1]) if view.flip else out


def jitter(picture: Picture, config: AugmentConfig, random: np.random.Generator) -> Picture:
    """Random brightness, contrast and saturation of uint8 [h, w, 3], each a factor drawn around 1."""
    if not config.enabled or not (config.brightness or config.contrast or config.saturation):
        return picture
    brightness, contrast, saturation = (
        1.0 + float(random.uniform(-amount, amount))
        for amount in (config.brightness, config.contrast, config.saturation)
    )
    values = picture.astype(np.float32)
    # One pass: out = a * value + b * grey + c, from the three factors applied one after another.
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = float(grey.mean())
    values *= brightness * contrast * saturation
    values += (brightness * contrast * (1 - saturation) * grey + brightness * mean * (1 - contrast))[..., None]
    return np.clip(values, 0, 255).astype(np.uint8)


def augment(
    picture: Picture, target: Target, weight: Weight, size: int, config: AugmentConfig, random: np.random.Generator
) -> tuple[Picture, Target, Weight]:
    """One random view: uint8 [size, size, 3], int16 [size, size] (IGNORE outside), uint8 [size, size] (0 outside).

    picture: uint8 [h, w, 3]; target, weight: [h, w] of the same size. The same `random` gives the same view.
    """
    if picture.shape[:2] != target.shape or target.shape != weight.shape:
        raise ValueError(f"picture {picture.shape[:2]}, target {target.shape} and weight {weight.shape} differ in size")
    view = draw_view(target.shape[0], target.shape[1], size, config, random)
    seen = jitter(view_picture(picture, view, size), config, random)
    return seen, view_map(target, view, size, IGNORE), view_map(weight, view, size, 0)


def _inside(start: float, scale: float, length: int, size: int) -> tuple[int, int]:
    """The pixels of the view along one axis whose centres lie inside the picture: first, and one past the last."""
    first = int(np.ceil(-start * scale - 0.5))
    end = int(np.ceil((length - start) * scale - 0.5))
    return min(max(first, 0), size), min(max(end, 0), size)
