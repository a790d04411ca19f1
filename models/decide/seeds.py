"""Pixels that somebody named: drawn as hard seeds, and spread to what looks and lies like them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.sparse import csr_matrix

from models.decide.config import DecideConfig
from models.decide.types import PROVENANCE, ClassArrays, WeakArrays
from models.refine.grids import resize_maps, resize_nearest

Maps = npt.NDArray[np.float32]
NOTHING, BACKGROUND = -2, -1
"""Values of a seed map beside the class rows 0..C-1."""


@dataclass(frozen=True)
class Seeds:
    """rows: int32 [h, w], class row, BACKGROUND or NOTHING. source: uint8 [h, w], index into PROVENANCE, if seeded."""

    rows: npt.NDArray[np.int32]
    source: npt.NDArray[np.uint8]


def has_seeds(weak: WeakArrays, people: bool = True) -> bool:
    """people: whether corrections count."""
    corrected = people and weak.human is not None
    return bool(len(weak.points) or weak.scribbles or weak.partial is not None or corrected)


def ids_to_rows(ids: npt.NDArray[np.int32], classes: ClassArrays) -> npt.NDArray[np.int32]:
    """Class ids to class rows; the background's id to BACKGROUND, -1 and ids of no class to NOTHING."""
    highest = int(max(classes.ids.max(initial=0), classes.background_id or 0))
    table = np.full(highest + 3, NOTHING, np.int32)
    table[classes.ids] = np.arange(len(classes.ids))
    if classes.background_id is not None:
        table[classes.background_id] = BACKGROUND
    # Ids below 0 and above the highest fall on the two spare cells at the end, which say nothing.
    return table[np.where((ids < 0) | (ids > highest), highest + 1, ids)]


def draw_seeds(
    weak: WeakArrays,
    classes: ClassArrays,
    full: tuple[int, int],
    size: tuple[int, int],
    radius_px: float,
    people: bool = True,
) -> Seeds:
    """Points (discs of this radius in pixels of `size`), scribbles and maps on a grid of `size`.

    full: height and width that the weak labels' coordinates refer to. people: corrections too; they are painted and
    never spread, since who corrected has seen the rest and left it as it was. Where forms overlap, people's corrections
    win over the partial map, that over points, and points over scribbles.
    """
    scale_y, scale_x = size[0] / full[0], size[1] / full[1]
    rows = np.full(size, NOTHING, np.int32)
    source = np.zeros(size, np.uint8)
    for line, width_px, row in weak.scribbles:
        drawn = _draw_line(line * (scale_x, scale_y), width_px * (scale_x + scale_y) / 2, size)
        rows[drawn], source[drawn] = row, PROVENANCE.index("scribble")
    for (x, y), row in zip(weak.points, weak.point_classes, strict=True):
        disc = _disc(float(x) * scale_x, float(y) * scale_y, radius_px, size)
        rows[disc], source[disc] = row, PROVENANCE.index("point")
    for name, ids in (("partial", weak.partial), ("human", weak.human if people else None)):
        if ids is not None:
            given = resize_nearest(ids_to_rows(ids, classes), size)
            says = given != NOTHING
            rows[says], source[says] = given[says], PROVENANCE.index(name)
    return Seeds(rows, source)


def _disc(x: float, y: float, radius: float, size: tuple[int, int]) -> tuple[npt.NDArray[np.intp], ...]:
    """Indices of the pixels whose centre is within radius of (x, y); always the pixel that holds it."""
    row, column = min(max(int(y), 0), size[0] - 1), min(max(int(x), 0), size[1] - 1)
    reach = int(radius) + 1
    rows = np.arange(max(row - reach, 0), min(row + reach + 1, size[0]))
    columns = np.arange(max(column - reach, 0), min(column + reach + 1, size[1]))
    near = (rows[:, None] + 0.5 - y) ** 2 + (columns[None] + 0.5 - x) ** 2 <= radius * radius
    near |= (rows[:, None] == row) & (columns[None] == column)
    inside = np.nonzero(near)
    return rows[inside[0]], columns[inside[1]]


def _draw_line(line: npt.NDArray[np.floating], width: float, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels of a polyline [K, 2] (x y) of this width, bool [*size]; a single point is a dot."""
    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    xy = [(float(x), float(y)) for x, y in line]
    draw.line(xy if len(xy) > 1 else xy * 2, fill=1, width=max(1, round(width)), joint="curve")
    for x, y in xy:
        draw.point((min(max(x, 0), size[1] - 1), min(max(y, 0), size[0] - 1)), fill=1)
    return np.asarray(canvas)


def spread_seeds(
    seeds: Seeds,
    chosen: npt.NDArray[np.intp],
    features: npt.NDArray[np.float32],
    masks: Maps,
    quality: npt.NDArray[np.float32],
    support: Maps,
    config: DecideConfig,
) -> tuple[Maps, npt.NDArray[np.bool_]]:
    """What the seeds of each class speak for: float32 [K, h, w] 0..1, and bool [K], which classes have seeds at all.

       seeds: on the grid [h, w]. chosen: the K class rows that take part. features: float32 [fh, fw, D]. masks:
       [M, h, w] with quality [M]. support: [K, h, w], what text and masks think, which picks between nested masks.
    Two readings are averaged: patches that look like the seeded ones (a prototype of each class,
       as in GPRN's matching), and the bank masks that hold the seeds of the class and of no other.
    """
    size = seeds.rows.shape
    seeded = np.array([bool((seeds.rows == row).any()) for row in chosen], bool)
    out = np.zeros((len(chosen), *size), np.float32)
    alike = resize_maps(_prototype_maps(seeds, chosen, seeded, features), (size[0], size[1]))
    for index in np.flatnonzero(seeded):
        row = chosen[index]
        held = _holding_masks(seeds.rows, row, masks, quality, support[index], config)
        share = 0.0 if held is None else config.seed_mask_share
        out[index] = alike[index] if held is None else (1 - share) * alike[index] + share * held
        out[index][seeds.rows == row] = 1.0
    out[:, seeds.rows == BACKGROUND] = 0.0
    return out, seeded


def flow_seeds(
    seeds: Seeds, chosen: npt.NDArray[np.intp], flow: csr_matrix, iterations: int
) -> tuple[Maps, npt.NDArray[np.float32]]:
    """Send the seeds through refinement's affinity [h*w, h*w], along like colours; seeds stay what they are.

    Returns each class's share of what arrives, float32 [K, h, w], 0..1 (the rest is background's), and how much
    arrives, float32 [h, w], 0..1.
    """
    flat = seeds.rows.reshape(-1)
    fixed = np.stack([flat == row for row in chosen] + [flat == BACKGROUND], axis=1).astype(np.float32)
    where = flat != NOTHING
    mass = fixed
    for _ in range(iterations):
        mass = flow @ mass
        mass[where] = fixed[where]
    total = mass.sum(1, keepdims=True)
    shares = (mass[:, :-1] / np.maximum(total, 1e-9)).T.reshape(len(chosen), *seeds.rows.shape)
    return np.ascontiguousarray(shares, dtype=np.float32), np.asarray(total.reshape(seeds.rows.shape), np.float32)


def _prototype_maps(
    seeds: Seeds, chosen: npt.NDArray[np.intp], seeded: npt.NDArray[np.bool_], features: npt.NDArray[np.float32]
) -> Maps:
    """How much more each patch looks like a class's seeds than like everything else, float32 [K, fh, fw], 0..1."""
    height, width, depth = features.shape
    flat = features.reshape(-1, depth)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-8)
    patch_y = (np.arange(seeds.rows.shape[0]) * height // seeds.rows.shape[0])[:, None]
    patch_x = (np.arange(seeds.rows.shape[1]) * width // seeds.rows.shape[1])[None]
    patch = patch_y * width + patch_x
    common = unit.mean(0)
    others = _similarity(unit, patch[seeds.rows == BACKGROUND], common)
    out = np.zeros((len(chosen), height * width), np.float32)
    for index in np.flatnonzero(seeded):
        out[index] = _similarity(unit, patch[seeds.rows == chosen[index]], common)
    for index in np.flatnonzero(seeded):
        rivals = np.delete(out, index, axis=0).max(0, initial=0.0)
        rival = np.maximum(rivals, others)
        out_here = np.maximum(out[index] - 0.5 * np.maximum(rival, 0), 0)
        out[index] = out_here / max(float(out_here.max()), 1e-8)
    return out.reshape(-1, height, width)


def _similarity(
    unit: npt.NDArray[np.float32], where: npt.NDArray[np.intp], common: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Cosine of every patch with the mean of some patches, both less the image's mean patch; 0 for no patches.

    Without taking off the mean, all patches of one image look alike.
    """
    if not len(where):
        return np.zeros(len(unit), np.float32)
    centred = unit - common
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-8)
    prototype = centred[np.unique(where)].mean(0)
    return np.asarray(centred @ (prototype / max(float(np.linalg.norm(prototype)), 1e-8)), np.float32)


def _holding_masks(
    rows: npt.NDArray[np.int32],
    row: int,
    masks: Maps,
    quality: npt.NDArray[np.float32],
    support: Maps,
    config: DecideConfig,
) -> Maps | None:
    """The weighted mean of the best masks that hold a class's seeds and no other's, [h, w]; None if there are none."""
    if not len(masks):
        return None
    own, other = rows == row, (rows != row) & (rows != NOTHING)
    holds = masks[:, own].mean(1)
    spills = masks[:, other].mean(1) if other.any() else np.zeros(len(masks), np.float32)
    flat = masks.reshape(len(masks), -1)
    both = flat @ support.reshape(-1)
    agrees = both / np.maximum(flat.sum(1) + support.sum() - both, 1e-6)
    fit = holds * np.maximum(1 - 2 * spills, 0) * quality * (0.1 + agrees)
    fit[holds < 0.2] = 0.0
    best = np.argsort(-fit, kind="stable")[: config.mask_top]
    best = best[fit[best] > 0]
    if not len(best):
        return None
    weight = fit[best] ** config.mask_sharpness
    return np.asarray(np.tensordot(weight / weight.sum(), masks[best], axes=1), np.float32)
