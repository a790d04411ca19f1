"""Partial and noisy label maps: images or .npy arrays of small whole numbers, one a pixel."""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.classes import ClassSet
from pipelines.corpus.read import read_bytes

SILENT = (255, 65535)  # what annotation tools write where nothing is said
UNKNOWN = -1
MAX_PIXELS = 1 << 28
Ids = npt.NDArray[np.int32]


class BadMapError(ValueError):
    """A map that cannot be used; the message is the reason that people read."""


@lru_cache(maxsize=8)
def read_map(uri: str, mtag: str = "") -> Ids:
    """int32 [H, W] of the values in the file, read-only. Raises BadMapError. mtag: so that a changed file is reread."""
    try:
        data = read_bytes(uri)
    except (OSError, ValueError, ImportError) as error:
        raise BadMapError(f"the map {_shown(uri)} cannot be read: {error}") from error
    values = _decode(data, uri)
    values.flags.writeable = False
    return values


def _decode(data: bytes, uri: str) -> Ids:
    from PIL import Image

    try:
        if data.startswith(b"\x93NUMPY"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadMapError(f"the map {_shown(uri)} has too many pixels")
                array = np.array(image)
    except BadMapError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise BadMapError(f"the map {_shown(uri)} is not a readable PNG or NPY: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "uib":
        raise BadMapError(f"the map {_shown(uri)} is not one whole number a pixel: {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array, np.int32)


def _shown(uri: str) -> str:
    return uri if len(uri) <= 100 else uri[:60] + "..."


def class_ids(entry: Mapping[str, Any], class_set: ClassSet, size: tuple[int, int]) -> tuple[Ids, list[int]]:
    """(int32 [H, W] of class ids, -1 where the map says nothing; values that mean no class). Raises BadMapError."""
    values = read_map(entry["uri"], str(entry.get("mtag", "")))
    if values.shape != size:
        (height, width), (h, w) = size, values.shape
        raise BadMapError(f"the map is {w} x {h} pixels, the image {width} x {height}")
    meaning = _meaning(entry.get("ids"), class_set)
    found = np.unique(values)
    strangers = [int(v) for v in found if v not in meaning and v not in SILENT and v != UNKNOWN]
    ids = np.array([meaning.get(int(v), UNKNOWN) for v in found], np.int32)
    return ids[np.searchsorted(found, values)], strangers


def _meaning(ids: Mapping[str, str] | None, class_set: ClassSet) -> dict[int, int]:
    """Pixel value -> class id."""
    if ids is None:
        table = {entry.id: entry.id for entry in class_set.classes}
        table |= {class_set.background.id: class_set.background.id} if class_set.background else {}
        # People drew with the ids of their time; ids never change their meaning.
        return dict(class_set.lineage.ids) | table
    meaning = {}
    for value, name in ids.items():
        row = class_set.index(name)
        if row is not None and row >= 0:
            meaning[int(value)] = class_set.classes[row].id
        elif row == -1 and class_set.background is not None:
            meaning[int(value)] = class_set.background.id
    return meaning


def check_map(entry: Mapping[str, Any], class_set: ClassSet, size: tuple[int, int]) -> list[str]:
    """Remarks on a map that can be used. Raises BadMapError for one that cannot."""
    _, strangers = class_ids(entry, class_set, size)
    if entry.get("ids") is None and strangers:
        return [f"the map's values {strangers[:8]} are ids of no class and say nothing"]
    return []
