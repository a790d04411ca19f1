"""Evidence to label: a pure function of what was observed, the class set, the weak labels and the settings.

Text is matched on the patch grid, everything is fused on a coarse grid (DecideConfig.grid_px), and one edge-aware step
brings the result to the guide's resolution; only the winning class goes on to the full-size image.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.class_masks import ClassMasks
from models.corpus.bias import BiasConfig, image_key, remove
from models.corpus.cosegment import reference_heat
from models.corpus.head import head_heat
from models.decide import boxes as box_rules
from models.decide import confidence as conf
from models.decide import patches as patch_rules
from models.decide import seeds as seed_rules
from models.decide.config import DecideConfig
from models.decide.finish import finish
from models.decide.fuse import Votes, insist_on, insist_on_presence
from models.decide.guarantees import allowed_of
from models.decide.masks import bank_on_grid, component_masks, mask_quality, region_votes, soft_iou
from models.decide.noisy import keep_noisy, planes_of, spread_noisy
from models.decide.scene import Frame, Scene
from models.decide.text_match import candidates, class_embeddings, heat, normalise, patch_scores, presence
from models.decide.types import PROVENANCE, ClassArrays, Label, TextBank, WeakArrays
from models.evidence import Evidence
from models.refine.grids import fit_grid, resize_maps
from models.refine.guided import guided_upsample
from models.refine.par import affinity, propagate

DECIDE_VERSION = 3
"""Raise it when the same inputs give another label; labels made by an older version are then made anew."""

Maps = npt.NDArray[np.float32]


def decide(
    evidence: Evidence,
    text: TextBank,
    classes: ClassArrays,
    weak: WeakArrays,
    config: DecideConfig,
    of_classes: Sequence[ClassMasks] = (),
) -> Label:
    """Label one image. About 20 ms at 352 px on one thread; no image is read and no GPU needed.

    of_classes: evidence of the second kind, if it was observed.

    Works with any mix of weak labels, and with none. Pixel-level labels (points, scribbles, partial maps) are taken as
    true and beat tags and boxes; what people corrected beats everything; absent tags forbid; present tags appear
    somewhere; boxes bound their class; noisy maps vote. Raises ValueError if a class has no prompt or the shapes do not
    fit each other.
    """
    frame = frame_of(evidence, config)
    scene = look(frame, evidence, text, classes, weak, config)
    return draw(scene, config, of_classes)


# The three steps read different fields of DecideConfig; each field's metadata says which (`part`), so that who decides
# the same image many times over, with other settings, can keep what stays the same.


def frame_of(evidence: Evidence, config: DecideConfig) -> Frame:
    """What there is before any class is known: guide, mask bank and affinity on the coarse grid."""
    guide = np.ascontiguousarray(evidence.guide.transpose(2, 0, 1), dtype=np.float32) / 255.0
    grid_px = min(config.grid_px, max(guide.shape[1:]))
    size = fit_grid(evidence.height, evidence.width, grid_px)
    coarse = resize_maps(guide, size)
    flow = affinity(
        coarse.transpose(1, 2, 0), config.par_dilations, config.par_color_weight, config.par_position_weight
    )
    return Frame(guide, coarse, flow, bank_on_grid(evidence.bank, size), mask_quality(evidence.bank))


def look(
    frame: Frame, evidence: Evidence, text: TextBank, classes: ClassArrays, weak: WeakArrays, config: DecideConfig
) -> Scene:
    """Match the text, choose the classes that take part, bring their heat to the coarse grid and refine it there."""
    scores, words = patch_scores(evidence, text, len(classes.ids), config)
    likely = presence(evidence, text, scores, config)
    rows = taking_part(likely, classes, weak, config)
    must = marked_classes(weak, classes)[rows]
    if weak.present is not None:
        must |= weak.present[rows]
    # How high the heat of each class may go: all the way for classes that are known to be there.
    share = np.where(must, 1.0, likely[rows] ** config.presence_power).astype(np.float32)
    hot = _heat(evidence, text, scores[rows], words, rows, config)
    if patch_rules.any_asked(config):
        hot = patch_rules.refine_on_patches(hot, rows, frame, evidence, classes, weak, config)
    raw = resize_maps(hot, frame.size)
    refined = normalise(propagate(raw, frame.flow, config.par_iterations, config.par_strength)) * share[:, None, None]
    return Scene(frame, evidence, classes, weak, config, rows, must, refined, scores.argmax(0))


def _heat(
    evidence: Evidence, text: TextBank, scores: Maps, words: Maps, rows: npt.NDArray[np.intp], config: DecideConfig
) -> Maps:
    """Heat on the patch grid, float32 [K, h, w], 0..1: of the text, or of what the corpus taught where it did."""
    hot = heat(scores, words, config)
    if text.head is not None and config.head_weight > 0:
        taught = head_heat(text.head, evidence.features, rows, hot, config.head_temperature)
        hot = _blend(hot, taught, config.head_weight)
    if text.references is not None and config.reference_weight > 0:
        names, _ = class_embeddings(text, len(text.references.known))
        alike = reference_heat(text.references, evidence.features, rows, names, hot)
        hot = _blend(hot, alike, config.reference_weight)
    if text.bias is not None and config.bias_removal > 0 and len(rows):
        cleaned = remove(evidence.features, hot, rows, text.bias, BiasConfig(), image_key(evidence.embedding))
        hot = _blend(hot, cleaned, config.bias_removal)
    return hot


def _blend(maps: Maps, others: Maps, weight: float) -> Maps:
    share = np.float32(weight)
    return (1 - share) * maps + share * others


def draw(scene: Scene, config: DecideConfig, of_classes: Sequence[ClassMasks] = ()) -> Label:
    """Blend text, masks and weak labels, and take the winners to full size.

    config: may differ from the scene's own in the fields that `frame_of` and `look` do not read.
    """
    scene = replace(scene, config=config)
    votes, seeds, mask_maps = fuse(scene, of_classes)
    strength = guided_upsample(
        votes.strength,
        scene.guide,
        scene.guide_coarse,
        config.guided_radius_px,
        config.guided_epsilon,
        config.guided_strength,
    )
    if scene.weak.noisy is not None and config.noisy_weight > 0:
        strength = keep_noisy(scene, strength, planes_of(scene, scene.weak.noisy))
    return finish(scene, strength, votes, disagree(scene, votes, seeds, mask_maps))


def taking_part(
    likely: npt.NDArray[np.float32], classes: ClassArrays, weak: WeakArrays, config: DecideConfig
) -> npt.NDArray[np.intp]:
    """Class rows that compete in an image; likely: float32 [C], from `presence`."""
    gated = classes.background_id is not None
    chosen = candidates(likely, weak, marked_classes(weak, classes), noted_classes(weak, classes), gated, config)
    if not chosen.any() and not gated:
        chosen = np.ones_like(chosen)  # No background and every class forbidden: the tags cannot be right.
    return np.flatnonzero(chosen)


def heat_to_ask(
    evidence: Evidence, text: TextBank, classes: ClassArrays, weak: WeakArrays, config: DecideConfig
) -> tuple[npt.NDArray[np.intp], Maps]:
    """What SAM can be asked about an image: the class rows [K] that compete, and their heat on the patch grid,
    float32 [K, h, w], 0..1."""
    scores, words = patch_scores(evidence, text, len(classes.ids), config)
    rows = taking_part(presence(evidence, text, scores, config), classes, weak, config)
    return rows, heat(scores[rows], words, config)


def marked_classes(weak: WeakArrays, classes: ClassArrays) -> npt.NDArray[np.bool_]:
    """Classes of which a point, scribble, box or partial map says where they are, bool [C]."""
    rows = [weak.point_classes, weak.box_classes, np.array([row for *_, row in weak.scribbles], np.int32)]
    if weak.partial is not None:
        rows.append(seed_rules.ids_to_rows(np.unique(weak.partial), classes))
    return _rows_to_flags(np.concatenate(rows), len(classes.ids))


def noted_classes(weak: WeakArrays, classes: ClassArrays) -> npt.NDArray[np.bool_]:
    """Classes of the noisy map, bool [C]."""
    found = np.unique(weak.noisy) if weak.noisy is not None else np.zeros(0, np.int32)
    return _rows_to_flags(seed_rules.ids_to_rows(found, classes), len(classes.ids))


def _rows_to_flags(rows: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.bool_]:
    flags = np.zeros(count, bool)
    flags[rows[rows >= 0]] = True
    return flags


def fuse(scene: Scene, of_classes: Sequence[ClassMasks]) -> tuple[Votes, seed_rules.Seeds | None, Maps]:
    """Blend text, masks and weak labels on the coarse grid."""
    config, weak = scene.config, scene.weak
    votes = Votes(scene.heat, scene.floor)
    mask_maps = bank_maps(scene)
    if config.mask_weight > 0 and len(scene.masks):
        votes.blend("mask", mask_maps, config.mask_weight)
    for masks in of_classes:
        blend_class_masks(scene, votes, masks)
    seeds = None
    if seed_rules.has_seeds(weak, people=False):
        radius = config.point_radius_px
        seeds = seed_rules.draw_seeds(weak, scene.classes, scene.full, scene.size, radius, people=False)
        blend_seeds(scene, votes, seeds)
    if len(weak.boxes):
        blend_boxes(scene, votes)
    if weak.noisy is not None:
        told = spread_noisy(scene, planes_of(scene, weak.noisy))
        votes.blend("noisy", told.shares, config.noisy_weight * told.mass[None])
    insist_on_presence(votes, scene.must, lambda row: allowed_of(scene, row, scene.size), config.tag_min_area)
    return votes, seeds, mask_maps


def bank_maps(scene: Scene) -> Maps:
    """What the mask bank makes of the heat, float32 [K, h, w] 0..1: masks per component and region votes, blended."""
    config = scene.config
    peak = np.maximum(scene.heat.max((1, 2), keepdims=True), 1e-8) if len(scene.heat) else 1.0
    share = config.region_share
    maps = np.zeros_like(scene.heat)
    if share < 1:
        maps += (1 - share) * component_masks(scene.heat, scene.masks, scene.quality, config) * peak
    if share > 0:
        maps += share * region_votes(scene.heat, scene.masks, scene.quality) * peak
    return maps


def blend_class_masks(scene: Scene, votes: Votes, masks: ClassMasks) -> None:
    """Let evidence that knows classes speak for them."""
    kind, config = masks.made_by, scene.config
    share = {"heat": config.heat_mask_weight, "student": config.student_weight, "localiser": config.localiser_weight}
    maps, say = class_maps(scene, masks)
    votes.blend("mask" if kind == "heat" else kind, maps, (share[kind] * say)[:, None, None])


def class_maps(scene: Scene, masks: ClassMasks) -> tuple[Maps, npt.NDArray[np.float32]]:
    """What evidence that knows classes says of those that take part, float32 [K, h, w] 0..1, and how much each of it
    counts, float32 [K] 0..1: SAM's answers to their heat, a student's probabilities, or the maps of a localiser, of
    which tags say which ones count."""
    drawn, kind = bank_on_grid(masks.bank, scene.size), masks.made_by
    quality = {"heat": mask_quality(masks.bank), "localiser": masks.bank.iou}.get(kind, np.ones(len(drawn), np.float32))
    maps, say = np.zeros_like(scene.heat), np.zeros(len(scene.rows), np.float32)
    for index, row in enumerate(scene.rows):
        own = masks.class_ids == scene.classes.ids[row]
        if own.any():
            # A student's probabilities add up where several of its classes became one.
            maps[index] = np.minimum(drawn[own].sum(0), 1) if kind == "student" else drawn[own].max(0)
            say[index] = quality[own].max()
    if kind == "localiser":
        # The peak of a map is 1 whether its class is there or not. Who knows says it; else the localiser's own score.
        known = (scene.must & (maps.max((1, 2)) > 0)).astype(np.float32)
        say = np.where(scene.must | (scene.weak.present is not None), known, say)
    return maps, say


def blend_seeds(scene: Scene, votes: Votes, seeds: seed_rules.Seeds) -> None:
    """Let points, scribbles and partial maps speak for what looks like them, then for what lies around them."""
    config, source = scene.config, seed_source(seeds)
    spread, seeded = seed_rules.spread_seeds(
        seeds, scene.rows, scene.evidence.features, scene.masks, scene.quality, votes.strength, config
    )
    votes.blend(source, spread, (config.seed_weight * seeded).astype(np.float32)[:, None, None])
    if config.seed_flow_weight > 0:
        shares, mass = seed_rules.flow_seeds(seeds, scene.rows, scene.flow, config.seed_flow_iterations)
        votes.blend(source, shares, (config.seed_flow_weight * mass / (mass + config.seed_flow_mass))[None])


def seed_source(seeds: seed_rules.Seeds) -> str:
    """The form that most seeded pixels come from."""
    return PROVENANCE[int(np.bincount(seeds.source[seeds.rows != seed_rules.NOTHING], minlength=1).argmax())]


def blend_boxes(scene: Scene, votes: Votes) -> None:
    """Shape prior and masks inside the boxes, nothing of the class outside them, something of it in each."""
    weak, config = scene.weak, scene.config
    drawn = box_rules.grid_boxes(weak, scene.full, scene.size)
    maps, allowed = np.zeros_like(votes.strength), np.ones(votes.strength.shape, bool)
    boxed = np.zeros(len(scene.rows), np.float32)
    for index, row in enumerate(scene.rows):
        own = drawn[weak.box_classes == row]
        if len(own):
            maps[index] = box_rules.box_map(own, votes.strength[index], scene.masks, scene.quality, config)
            allowed[index] = box_rules.inside_boxes(own, scene.size)
            boxed[index] = config.box_weight
    votes.blend("box", maps, boxed[:, None, None])
    votes.forbid("box", allowed)
    for box, row in zip(drawn, weak.box_classes, strict=True):
        inside = box_rules.inside_box(box, scene.size)
        index = int(np.searchsorted(scene.rows, row))
        insist_on(votes, "box", index, inside, max(1, round(config.box_min_share * inside.sum())))


def disagree(scene: Scene, votes: Votes, seeds: seed_rules.Seeds | None, mask_maps: Maps) -> float:
    """How much the sources contradict each other, 0..1: the mean of those of these parts that apply.

    Text against masks: one minus their soft IoU, over classes. Text against tags: the share of the labelled area where
    a class that does not take part has the best score. Seeds against the rest: the share of seeded pixels that text
    and masks would have called otherwise.
    """
    parts: list[float] = []
    if len(scene.rows) and len(scene.masks):
        pairs = [float(soft_iou(scene.heat[k : k + 1], mask_maps[k : k + 1])[0, 0]) for k in range(len(scene.rows))]
        parts.append(1.0 - float(np.mean(pairs)))
    if scene.weak.present is not None and len(scene.rows):
        labelled = conf.winners(votes.strength, votes.floor) >= 0
        best = scene.best_rows
        area = resize_maps(labelled[None].astype(np.float32), (best.shape[0], best.shape[1]))[0] > 0.5
        if area.any():
            parts.append(float((~np.isin(best[area], scene.rows)).mean()))
    if seeds is not None and (seeds.rows != seed_rules.NOTHING).any():
        where = seeds.rows != seed_rules.NOTHING
        model = (1 - scene.config.mask_weight) * scene.heat + scene.config.mask_weight * mask_maps
        won = conf.winners(model, votes.floor)
        called = np.where(won >= 0, scene.rows[np.maximum(won, 0)] if len(scene.rows) else -1, -1)
        parts.append(float((called != seeds.rows)[where].mean()))
    return float(np.clip(np.mean(parts), 0, 1)) if parts else 0.0
