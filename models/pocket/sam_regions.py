"""Class-agnostic regions to learn masks from: which pixels of which photograph form one thing.

BSDS500 (Arbelaez et al., PAMI 2011) has several annotators' partitions of a photograph, CCP (Yang et al., CVPR 2014)
garments on persons, CamVid (Brostow et al., PRL 2009) street scenes. Each becomes layers of numbered regions and a list
of things, each the union of a few regions, so that parts and wholes are both learned.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

MIN_SHARE = 0.003
"""Regions below this share of the photograph are not learned."""
MAX_LAYERS = 3
CAMVID_WEIGHTS = {
    "sky": 0.2, "building": 0.4, "pole": 0.3, "road": 0.3, "pavement": 0.2, "tree": 0.4, "sign": 0.8, "fence": 0.3,
    "car": 2.0, "pedestrian": 1.5, "bicyclist": 2.0,
}  # fmt: skip
"""How often things of a CamVid class are drawn, relative to an ordinary region; by class id 0..10."""


@dataclass(frozen=True)
class Thing:
    """One thing to segment: the union of the regions `ids` of a layer, drawn with a relative `weight`."""

    layer: int
    ids: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Source:
    """A photograph to learn from: its file, region layers uint8 [L, H, W] (0 = none), and its things."""

    photo: Path
    layers: NDArray[np.uint8]
    things: tuple[Thing, ...]
    dataset: str


def _sides_touched(mask: NDArray[np.bool_]) -> int:
    return int(mask[0].any()) + int(mask[-1].any()) + int(mask[:, 0].any()) + int(mask[:, -1].any())


def _enclosed(layer: NDArray[np.uint8], region: int, areas: NDArray[np.int64]) -> tuple[int, ...]:
    """The region and those that lie at least 80 % within its convex hull and are smaller: a body and its marks."""
    from skimage.morphology import convex_hull_image

    hull = convex_hull_image(layer == region)
    inside = np.bincount(layer[hull], minlength=len(areas))
    return tuple(
        int(i) for i in np.flatnonzero((inside >= 0.8 * areas) & (areas > 0) & (areas <= areas[region])) if i > 0
    )


def partition_things(layer: NDArray[np.uint8], index: int) -> list[Thing]:
    """Things of one annotator's partition: its regions, what a region encloses, what stands free of the frame.

    People often split an animal into head, body and collar; the unions give whole objects. Regions along the frame
    are mostly background and are drawn less often.
    """
    areas = np.bincount(layer.ravel(), minlength=int(layer.max()) + 1)
    floor = MIN_SHARE * layer.size
    things: list[Thing] = []
    free: list[int] = []
    seen: set[tuple[int, ...]] = set()
    for region in np.flatnonzero(areas >= floor):
        if region == 0:
            continue
        sides = _sides_touched(layer == region)
        weight = (1.0, 0.8, 0.4, 0.2, 0.1)[sides]
        groups: set[tuple[int, ...]] = {(int(region),)}
        if sides <= 1 and areas[region] < 0.5 * layer.size:
            groups.add(_enclosed(layer, int(region), areas))
        for ids in sorted(groups - seen):
            seen.add(ids)
            things.append(Thing(index, ids, weight * (1.5 if len(ids) > 1 else 1.0)))
        if sides == 0:
            free.append(int(region))
    blobs, count = ndimage.label(np.isin(layer, free))
    for blob in range(1, count + 1):
        together = tuple(sorted({int(i) for i in np.unique(layer[blobs == blob])}))
        if len(together) > 1 and together not in seen:
            things.append(Thing(index, together, 1.5))
    return things


def bsds_source(photo: Path, segments: Path) -> Source:
    """A BSDS500 photograph with its three coarsest partitions of at least three regions."""
    stack = np.load(segments)["segments"]
    counts = [len(np.unique(layer)) for layer in stack]
    order = sorted(range(len(stack)), key=lambda i: (counts[i] < 3, counts[i]))[:MAX_LAYERS]
    layers = stack[order].astype(np.uint8)
    things = [thing for index, layer in enumerate(layers) for thing in partition_things(layer, index)]
    return Source(photo, layers, tuple(things), "bsds500")


def _components(ids: NDArray[np.uint8], skip: int) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """Connected parts of each class, numbered from 1; parts that no thing is made of share the number 255."""
    out = np.zeros(ids.shape, np.uint8)
    parts: list[tuple[int, int]] = []
    for value in np.unique(ids):
        if value == skip:
            continue
        blobs, count = ndimage.label(ids == value)
        sizes = np.bincount(blobs.ravel(), minlength=count + 1)
        for blob in range(1, count + 1):
            number = len(parts) + 1
            if sizes[blob] < MIN_SHARE * ids.size or number >= 255:
                out[blobs == blob] = 255
                continue
            out[blobs == blob] = number
            parts.append((number, int(value)))
    return out, parts


def ccp_source(photo: Path, ids: NDArray[np.uint8]) -> Source:
    """A CCP photograph: the pieces of each garment, the garment whole, and the person (everything that is not null)."""
    layer, parts = _components(ids, skip=0)
    things = [Thing(0, (number,), 0.6) for number, _ in parts]
    for value in {value for _, value in parts}:
        numbers = tuple(number for number, v in parts if v == value)
        if len(numbers) > 1:
            things.append(Thing(0, numbers, 0.4))
    person = tuple(sorted({number for number, _ in parts} | ({255} if (layer == 255).any() else set())))
    things.append(Thing(0, person, 3.0))
    return Source(photo, layer[None], tuple(things), "ccp")


def camvid_source(photo: Path, ids: NDArray[np.uint8]) -> Source:
    """A CamVid frame: connected parts of each class, cars and people most often."""
    weights = list(CAMVID_WEIGHTS.values())
    layer, parts = _components(ids, skip=11)
    return Source(photo, layer[None], tuple(Thing(0, (n,), weights[value]) for n, value in parts), "camvid")


def _ids(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path), dtype=np.uint8)


def load_sources(data: Path, images_per_set: int = 0) -> list[Source]:
    """All training photographs: BSDS500 train, CCP, CamVid train, in a fixed order.

    Args:
        data: folder with `bsds500/`, `ccp/` and `camvid/`.
        images_per_set: only the first N of each; 0 for all.

    Raises:
        FileNotFoundError: a data set is missing or empty.
    """
    found: list[tuple[str, list[Path]]] = [
        ("bsds500", sorted((data / "bsds500/images/train").glob("*.jpg"))),
        ("ccp", sorted((data / "ccp/pixel-level").glob("*.png"))),
        ("camvid", sorted((data / "camvid/train").glob("*.jpg"))),
    ]
    sources: list[Source] = []
    for name, paths in found:
        if not paths:
            raise FileNotFoundError(f"no training images of {name} under {data}")
        step = max(1, len(paths) // images_per_set) if images_per_set else 1
        for path in paths[::step][: images_per_set or None]:
            if name == "bsds500":
                sources.append(bsds_source(path, data / "bsds500/segments/train" / f"{path.stem}.npz"))
            elif name == "ccp":
                sources.append(ccp_source(data / "ccp/photos" / f"{path.stem}.jpg", _ids(path)))
            else:
                sources.append(camvid_source(path, _ids(data / "camvid/trainannot" / f"{path.stem}.png")))
    return [source for source in sources if source.things]
