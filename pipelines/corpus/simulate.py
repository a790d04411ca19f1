"""Weak labels made from a full mask, as an annotator might have given them: for measurements, and for layouts that
hold masks only. The same mask, asset and seed give the same labels, whichever forms are asked for together."""

import base64
import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Mask = npt.NDArray[np.int32]
Region = npt.NDArray[np.bool_]
Names = Mapping[int, str]

MIN_AREA = 0.001  # share of the image; an annotator does not click on specks
MIN_PIXELS = 16
SILENT = 255
COARSE_PX = 96  # where a click goes is chosen on a grid of about this many steps: distances are most of the cost


def simulate(mask: Mask, names: Names, asset: str, forms: Collection[str], seed: int = 0) -> dict[str, Any]:
    """Weak labels (pipelines/weak.py) of these forms.

    mask: int32 [H, W] of class ids, -1 where it says nothing. names: class id -> name, "background" for background.
    forms: any of tags, points, scribbles, boxes, partial, noisy.
    """
    weak: dict[str, Any] = {}
    for form, make in MAKERS.items():
        if form in forms:
            key = hashlib.sha256(f"{seed}\n{form}\n{asset}".encode()).digest()
            made = make(mask, names, np.random.default_rng(int.from_bytes(key[:8], "big")))
            field = "maps" if form in ("partial", "noisy") else form
            weak[field] = weak.get(field, []) + made
    return weak


def _tags(mask: Mask, names: Names, rng: np.random.Generator) -> list[dict[str, Any]]:
    shown = {names[i] for i in np.flatnonzero(np.bincount(mask[mask >= 0])).tolist() if i in names}
    return [{"class": n, "present": n in shown} for _, n in sorted(names.items()) if n != "background"]


def _components(mask: Mask, names: Names) -> Iterator[tuple[str, tuple[slice, slice], Region]]:
    """(class, window, region in the window) of every connected component that is not a speck; if a class has only
    specks, its largest."""
    least = max(MIN_PIXELS, MIN_AREA * mask.size)
    for value, around in enumerate(ndimage.find_objects(mask + 1)):
        if around is None or value not in names:
            continue
        labels, _ = ndimage.label(mask[around] == value)
        areas = np.bincount(labels.ravel())[1:]
        windows = ndimage.find_objects(labels)
        for index in np.flatnonzero(areas >= min(least, areas.max())):
            region = labels[windows[index]] == index + 1
            rows, cols = (
                slice(o.start + w.start, o.start + w.stop) for o, w in zip(around, windows[index], strict=True)
            )
            yield names[value], (rows, cols), region


def _depth(region: Region) -> npt.NDArray[np.float64]:
    """Distance of every pixel of the region to its outside, where the window's border is outside too."""
    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(region, 1))
    return depth[1:-1, 1:-1]


def _inner(region: Region, share: float) -> npt.NDArray[np.floating[Any]]:
    """float [N, 2], x y, pixel centres at least `share` of the greatest depth away from the outside."""
    step = 1 + max(region.shape) // COARSE_PX
    depth = _depth(region[::step, ::step])
    y, x = np.nonzero(depth >= share * depth.max()) if depth.any() else np.nonzero(region)
    return np.stack([x, y], 1) * (step if depth.any() else 1) + 0.5


def _points(mask: Mask, names: Names, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One click in every component, well inside; one in the largest of background."""
    points: list[tuple[int, dict[str, Any]]] = []
    background: list[tuple[int, dict[str, Any]]] = []
    for name, (rows, cols), region in _components(mask, names):
        inner = _inner(region, 0.6)
        x, y = inner[rng.integers(len(inner))]
        point = {"x": float(x + cols.start), "y": float(y + rows.start), "class": name, "positive": True}
        (background if name == "background" else points).append((int(region.sum()), point))
    return [point for _, point in points + sorted(background, key=lambda item: -item[0])[:1]]


def _scribbles(mask: Mask, names: Names, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A polyline through every component that never leaves it."""
    scribbles = []
    for name, (rows, cols), region in _components(mask, names):
        inner = _inner(region, 0.3)
        line = [inner[rng.integers(len(inner))]]
        for candidate in inner[rng.integers(len(inner), size=24)]:
            if len(line) < 5 and _crosses_only(region, line[-1], candidate):
                line.append(candidate)
        if len(line) >= 2:
            xy = [[float(x + cols.start), float(y + rows.start)] for x, y in line]
            scribbles.append({"xy": xy, "width_px": 3.0, "class": name})
    return scribbles


def _crosses_only(region: Region, a: npt.NDArray[np.floating[Any]], b: npt.NDArray[np.floating[Any]]) -> bool:
    steps = int(np.abs(b - a).max() * 2) + 2
    if steps < 6:
        return False
    x, y = (np.linspace(a, b, steps) - 0.5).round().astype(int).T
    return bool(region[y, x].all())


def _boxes(mask: Mask, names: Names, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {"box": [float(cols.start), float(rows.start), float(cols.stop), float(rows.stop)], "class": name}
        for name, (rows, cols), _ in _components(mask, names)
        if name != "background"
    ]


def _partial(mask: Mask, names: Names, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The inner parts of about 70 % of the components, as coarse annotation leaves them."""
    kept = np.full(mask.shape, -1, np.int32)
    ids = {name: value for value, name in names.items()}
    for number, (name, window, region) in enumerate(_components(mask, names)):
        if number == 0 or rng.random() < 0.7:
            depth = _depth(region)
            kept[window][depth > 0.3 * depth.max()] = ids[name]
    return [map_entry("partial", kept, names)]


def _noisy(mask: Mask, names: Names, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The map warped by a few per cent of its size, with a tenth of the components lost to background."""
    height, width = mask.shape
    noisy = mask.copy()
    background = next((value for value, name in names.items() if name == "background"), -1)
    for name, window, region in _components(mask, names):
        if name != "background" and rng.random() < 0.1:
            noisy[window][region] = background
    y, x = np.mgrid[:height, :width]
    shift = [
        ndimage.zoom(
            rng.normal(0, 0.02 * max(mask.shape), (5, 5)),
            (height / 5, width / 5),
            order=1,
            grid_mode=True,
            mode="nearest",
        )
        for _ in range(2)
    ]
    rows = np.clip(y + shift[0].round().astype(int), 0, height - 1)
    cols = np.clip(x + shift[1].round().astype(int), 0, width - 1)
    return [map_entry("noisy", noisy[rows, cols], names)]


def map_entry(kind: str, values: Mask, names: Names) -> dict[str, Any]:
    """An item of `maps` that carries its pixels along, as a data: address. values: int32 [H, W], -1 says nothing."""
    deep = max(names) >= SILENT
    stored = np.where(values < 0, 65535 if deep else SILENT, values).astype(np.uint16 if deep else np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"kind": kind, "uri": uri, "ids": {str(value): name for value, name in sorted(names.items())}}


MAKERS: dict[str, Callable[[Mask, Names, np.random.Generator], list[dict[str, Any]]]] = {
    "tags": _tags,
    "points": _points,
    "scribbles": _scribbles,
    "boxes": _boxes,
    "partial": _partial,
    "noisy": _noisy,
}
