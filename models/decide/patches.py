"""Heat refined where it is made, on the patch grid, by what the dense features say of their likeness.

Three ways, each off by default and each after the other where several are asked for.
"""

import numpy as np
import numpy.typing as npt

from models.decide.config import DecideConfig
from models.decide.scene import Frame
from models.decide.seeds import BACKGROUND, NOTHING, draw_seeds, has_seeds
from models.decide.text_match import normalise
from models.decide.types import ClassArrays, WeakArrays
from models.evidence import Evidence
from models.refine.affinity import Affinity
from models.refine.grids import resize_maps
from models.refine.mumford_shah import MumfordShahConfig, mumford_shah
from models.refine.responsibility import responsibilities, shares, surest_places

Maps = npt.NDArray[np.float32]
START_TEMPERATURE = 0.11
"""Strength that moves the odds by e: what heat is worth as a probability, as confidence is calibrated."""


def any_asked(config: DecideConfig) -> bool:
    """Whether these settings refine anything here."""
    return bool(config.affinity_strength or config.mumford_shah_steps or config.responsibility_weight)


def refine_on_patches(
    heat: Maps,
    rows: npt.NDArray[np.intp],
    frame: Frame,
    evidence: Evidence,
    classes: ClassArrays,
    weak: WeakArrays,
    config: DecideConfig,
) -> Maps:
    """Heat float32 [K, h, w], 0..1, of the classes `rows`, refined; its maxima stay 1 where there is heat at all."""
    floor = 0.5 if classes.background_id is not None else None
    if not len(heat):
        return heat
    if config.affinity_strength > 0:
        flow = patch_affinity(frame, evidence, config.affinity_source).sinkhorn().power(config.affinity_power)
        heat = normalise(flow.apply(heat, config.affinity_strength))
    if config.mumford_shah_steps > 0:
        heat = _piecewise(heat, floor, frame, evidence, config)
    if config.responsibility_weight > 0:
        heat = _alike(heat, rows, floor, evidence, classes, weak, config)
    return heat


def patch_affinity(frame: Frame, evidence: Evidence, source: str) -> Affinity:
    """How alike the patches are, on the grid of the evidence's features."""
    size = evidence.features.shape[0], evidence.features.shape[1]
    if source == "color":
        return Affinity.from_color(np.ascontiguousarray(resize_maps(frame.guide, size).transpose(1, 2, 0)))
    if source == "masks":
        return Affinity.from_regions(resize_maps(frame.masks, size), frame.quality)
    return Affinity.from_features(evidence.features)


def _piecewise(heat: Maps, floor: float | None, frame: Frame, evidence: Evidence, config: DecideConfig) -> Maps:
    """Mumford-Shah from the heat, with background as one more mask where the class set has one."""
    stacked = heat if floor is None else np.concatenate([heat, np.full_like(heat[:1], floor)])
    start = np.exp((stacked - stacked.max(0)) / np.float32(START_TEMPERATURE))
    start /= start.sum(0)
    smoother = patch_affinity(frame, evidence, "color")
    masks, _ = mumford_shah(evidence.features, start, smoother, MumfordShahConfig(steps=config.mumford_shah_steps))
    return normalise(masks[: len(heat)])


def _alike(
    heat: Maps,
    rows: npt.NDArray[np.intp],
    floor: float | None,
    evidence: Evidence,
    classes: ClassArrays,
    weak: WeakArrays,
    config: DecideConfig,
) -> Maps:
    """The heat blended with each class's share of the responsibilities; classes without marks keep theirs."""
    marks = surest_places(heat, floor)
    if has_seeds(weak, people=False):
        size = heat.shape[1], heat.shape[2]
        drawn = draw_seeds(weak, classes, (evidence.height, evidence.width), size, 0.0, people=False).rows
        for index, row in enumerate(rows):
            if (drawn == row).any():
                marks[marks == index] = -1  # What a person marked is surer than the heat.
            marks[drawn == row] = index
        marks[drawn == BACKGROUND] = len(rows)
        marks[(drawn >= 0) & ~np.isin(drawn, rows)] = NOTHING
    given = responsibilities(evidence.features, marks, len(rows) + 1)
    marked = np.array([(marks == index).any() for index in range(len(rows))])[:, None, None]
    likeness = normalise(shares(given)[: len(rows)])
    return np.where(marked, heat + np.float32(config.responsibility_weight) * (likeness - heat), heat)
