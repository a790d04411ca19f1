"""From strengths at the guide's resolution to the label at the image's own."""

import numpy as np
import numpy.typing as npt

from models.decide import confidence as conf
from models.decide.calibrate import apply_table
from models.decide.fuse import Votes
from models.decide.guarantees import appear, clear_outside_boxes, keep_inside_boxes
from models.decide.scene import Scene
from models.decide.seeds import BACKGROUND, NOTHING, Seeds, draw_seeds, has_seeds
from models.decide.types import ClassArrays, Label
from models.refine.grids import resize_maps, resize_nearest

Maps = npt.NDArray[np.float32]
BAND_ROWS = 256
CONFIDENCE_STEP = 4
"""Confidence and provenance are kept on a grid of this many pixels."""


def finish(scene: Scene, strength: Maps, votes: Votes, disagreement: float) -> Label:
    """strength: float32 [K, gh, gw] at the guide's resolution; votes: the same on the coarse grid."""
    config, floor = scene.config, votes.floor
    strength = keep_inside_boxes(strength, scene)
    middle = config.confidence_middle if floor is not None else None
    here = conf.winners(strength, floor)
    probability = conf.probability_of_winner(strength, here, middle, config.confidence_temperature)
    won = here if here.shape == scene.full else winners_at(strength, floor, scene.full)
    clear_outside_boxes(won, scene)
    appear(won, strength, scene)
    quarter = (-(-scene.full[0] // CONFIDENCE_STEP), -(-scene.full[1] // CONFIDENCE_STEP))
    confidence = apply_table(resize_maps(probability[None], quarter)[0], config.confidence_table)
    provenance = resize_nearest(votes.provenance(), quarter).astype(np.uint8)
    rows = np.where(won >= 0, scene.rows[np.maximum(won, 0)], BACKGROUND) if len(scene.rows) else won
    if has_seeds(scene.weak):
        radius = config.point_radius_px
        seeds = draw_seeds(scene.weak, scene.classes, scene.full, scene.full, radius)
        rows = np.where(seeds.rows != NOTHING, seeds.rows, rows)
        mark_seeds(
            draw_seeds(scene.weak, scene.classes, scene.full, quarter, radius / CONFIDENCE_STEP), confidence, provenance
        )
    return describe(rows, confidence, provenance, scene, disagreement)


def winners_at(strength: Maps, floor: float | None, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """winners() of the bilinearly enlarged strengths, in bands of rows so that memory does not grow with the image."""
    height = strength.shape[1]
    if size[0] <= BAND_ROWS:
        return conf.winners(resize_maps(strength, size), floor)
    out = np.empty(size, np.int32)
    for start in range(0, size[0], BAND_ROWS):
        stop = min(start + BAND_ROWS, size[0])
        y = np.clip((np.arange(start, stop) + 0.5) * height / size[0] - 0.5, 0, height - 1)
        top = np.minimum(y.astype(np.intp), max(height - 2, 0))
        part = (y - top).astype(np.float32)[None, :, None]
        below = np.minimum(top + 1, height - 1)
        band = strength[:, top] * (1 - part) + strength[:, below] * part
        out[start:stop] = conf.winners(resize_maps(band, (stop - start, size[1])), floor)
    return out


def mark_seeds(seeds: Seeds, confidence: Maps, provenance: npt.NDArray[np.uint8]) -> None:
    """Pixels that a person named are certain, and theirs, in place."""
    where = seeds.rows != NOTHING
    confidence[where] = 1.0
    provenance[where] = seeds.source[where]


def rows_to_ids(rows: npt.NDArray[np.int32], classes: ClassArrays) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Class rows (BACKGROUND included) to class ids in the smallest unsigned type that holds every id."""
    highest = max(int(classes.ids.max(initial=0)), classes.background_id or 0)
    table = np.append(classes.ids, classes.background_id or 0)
    return table.astype(np.uint8)[rows] if highest < 256 else table.astype(np.uint16)[rows]


def describe(
    rows: npt.NDArray[np.int32], confidence: Maps, provenance: npt.NDArray[np.uint8], scene: Scene, disagreement: float
) -> Label:
    """Put the numbers to a finished map: what a reader keeps of it, and how much of each class there is."""
    class_map = rows_to_ids(rows, scene.classes)
    stored = np.rint(np.clip(confidence, 0, 1) * 255).astype(np.uint8)
    mean = float(stored.mean()) / 255
    threshold = conf.keep_threshold(mean, scene.config)
    if scene.config.keep_policy == "per-class":
        quarter_map = class_map[::CONFIDENCE_STEP, ::CONFIDENCE_STEP]
        stored = conf.bend_by_class(stored, quarter_map, scene.config.keep_class_share, round(threshold * 255))
    kept = stored >= round(threshold * 255)
    kept_full = np.repeat(np.repeat(kept, CONFIDENCE_STEP, 0), CONFIDENCE_STEP, 1)[: rows.shape[0], : rows.shape[1]]
    return Label(
        class_map=class_map,
        confidence=stored,
        provenance=provenance,
        keep_threshold=threshold,
        coverage=float(kept_full.mean()),
        mean_confidence=mean,
        areas=_areas(class_map, class_map.size),
        kept_areas=_areas(class_map[kept_full], class_map.size),
        disagreement=disagreement,
    )


def _areas(ids: npt.NDArray[np.integer], total: int) -> dict[int, float]:
    counts = np.bincount(ids.reshape(-1))
    return {int(i): float(counts[i] / total) for i in np.flatnonzero(counts)}
