"""What each source of one image would have called its pixels by itself, for a label model to weigh them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.class_masks import ClassMasks
from models.decide.decide import class_maps
from models.decide.masks import component_masks, region_votes
from models.decide.scene import Scene
from models.decide.seeds import BACKGROUND as BACKGROUND_ROW
from models.decide.seeds import NOTHING, ids_to_rows
from models.label_model import ABSTAIN, LabelModel
from models.refine.grids import resize_nearest

SOURCES = ("text", "component", "region", "asked", "student", "noisy", "localiser")
"""text: heat. component, region: the two readings of the mask bank. asked: masks that the heat asked SAM for. student:
what a student says. noisy: the noisy map. localiser: its maps."""
BACKGROUND = 0
"""Number of the background among the votes; a class has its row plus 1."""
Maps = npt.NDArray[np.float32]
Votes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class VoteConfig:
    """how sure a source has to be"""

    band: float = field(
        default=0.1,
        metadata={
            "help": "a source abstains where its strongest class is nearer than this to the background threshold",
            "range": (0.0, 1.0),
        },
    )
    background: bool = field(
        default=True,
        metadata={"help": "whether strengths below that are votes for the background; false: the source abstains"},
    )


def source_votes(scene: Scene, config: VoteConfig | None = None, of_classes: Sequence[ClassMasks] = ()) -> Votes:
    """Votes int16 [h*w, len(SOURCES)] of every pixel of the coarse grid: 0 background, class row + 1, -1 for none.

    Sources that the image does not have abstain. of_classes: evidence of the second kind, as `decide` takes it.
    """
    config = config or VoteConfig()
    votes = np.full((scene.size[0] * scene.size[1], len(SOURCES)), ABSTAIN, np.int16)
    for name, (own, maps) in _strengths(scene, of_classes).items():
        votes[:, SOURCES.index(name)] = _called(own, maps, scene, config).ravel()
    if scene.weak.noisy is not None:
        rows = resize_nearest(ids_to_rows(scene.weak.noisy, scene.classes), scene.size)
        said = np.where(rows == BACKGROUND_ROW, BACKGROUND, rows + 1)
        votes[:, SOURCES.index("noisy")] = np.where(rows == NOTHING, ABSTAIN, said).ravel()
    return votes


def segment_votes(votes: Votes, segments: npt.NDArray[np.integer], num_classes: int) -> Votes:
    """Votes of whole segments, int16 [G, S]: what most pixels that a source votes on say; -1 if it votes on none.

    votes: [n, S] of pixels; segments: int [n], 0..G-1. num_classes: with the background.
    """
    count = int(segments.max(initial=-1)) + 1
    out = np.full((count, votes.shape[1]), ABSTAIN, np.int16)
    for source in range(votes.shape[1]):
        said = votes[:, source] != ABSTAIN
        index = segments[said].astype(np.int64) * num_classes + votes[said, source]
        tally = np.bincount(index, minlength=count * num_classes).reshape(count, num_classes)
        out[:, source] = np.where(tally.any(1), tally.argmax(1), ABSTAIN)
    return out


def bank_segments(masks: Maps) -> npt.NDArray[np.intp]:
    """What a mask bank float32 [M, h, w], 0..1, cuts an image into: intp [h*w], 0..G-1.

    A pixel belongs to the smallest mask that holds it; pixels that none holds are one segment.
    """
    if not len(masks):
        return np.zeros(masks.shape[1] * masks.shape[2], np.intp)
    inside = masks.reshape(len(masks), -1) > 0.5
    inside = inside[np.argsort(inside.sum(1), kind="stable")]
    smallest = np.where(inside.any(0), inside.argmax(0), len(masks))
    return np.asarray(np.unique(smallest, return_inverse=True)[1], np.intp)


def fusion_weights(model: LabelModel) -> Mapping[str, float]:
    """Fields of DecideConfig from what a model of `source_votes` learned: mask_weight, region_share, and those of the
    sources that voted at all.

    A vote is worth the log odds of being right, as in a naive Bayes decision between two classes, the usual case inside
    an image; a source that is right no more than half of the time is worth nothing. Each weight is the source's share
    of the worth of all that *decide* blends before it. Empty where not even text is worth anything.
    """
    accuracy = np.clip(model.accuracy, 0.5, 0.999)
    worth = np.where(model.coverage > 0, np.log(accuracy) - np.log1p(-accuracy), 0.0)
    of = dict(zip(SOURCES, (float(value) for value in worth), strict=True))
    bank = of["component"] + of["region"]
    if of["text"] + bank <= 0:
        return {}
    found = {"mask_weight": bank / (of["text"] + bank)}
    if bank > 0:
        found["region_share"] = of["region"] / bank
    before = of["text"] + bank
    weights = {"asked": "heat_mask_weight", "student": "student_weight", "localiser": "localiser_weight"}
    for name, key in {**weights, "noisy": "noisy_weight"}.items():
        if model.coverage[SOURCES.index(name)] > 0:
            before += of[name]
            found[key] = of[name] / before
    return found


def _strengths(scene: Scene, of_classes: Sequence[ClassMasks]) -> dict[str, tuple[npt.NDArray[np.intp], Maps]]:
    """By source, the class rows [K] that it has a say of, and their strength, float32 [K, h, w]."""
    found = {"text": scene.heat}
    if len(scene.masks) and len(scene.heat):
        peak = np.maximum(scene.heat.max((1, 2), keepdims=True), 1e-8)
        found["component"] = component_masks(scene.heat, scene.masks, scene.quality, scene.config) * peak
        found["region"] = region_votes(scene.heat, scene.masks, scene.quality) * peak
    strengths = {name: (scene.rows, maps) for name, maps in found.items()}
    by_maker: dict[str, list[tuple[Maps, npt.NDArray[np.float32]]]] = {}
    for masks in of_classes:
        by_maker.setdefault("asked" if masks.made_by == "heat" else masks.made_by, []).append(class_maps(scene, masks))
    for name, told in by_maker.items():
        # The mean of those that have a say of the class: there can be several students.
        count = np.sum([say > 0 for _, say in told], axis=0)
        total = np.sum([maps * say[:, None, None] for maps, say in told], axis=0)
        heard = count > 0
        strengths[name] = scene.rows[heard], (total[heard] / count[heard, None, None]).astype(np.float32)
    return strengths


def _called(rows: npt.NDArray[np.intp], maps: Maps, scene: Scene, config: VoteConfig) -> Votes:
    """Votes int16 [h, w] of one source's strengths."""
    if not len(maps):
        return np.full(scene.size, ABSTAIN, np.int16)
    called = (rows[maps.argmax(0)] + 1).astype(np.int16)
    if scene.classes.background_id is None:
        called[maps.max(0) <= 0] = ABSTAIN
        return called
    strongest, floor = maps.max(0), scene.config.background_threshold
    below = BACKGROUND if config.background else ABSTAIN
    called[strongest < floor] = below
    called[np.abs(strongest - floor) < config.band] = ABSTAIN
    return called
