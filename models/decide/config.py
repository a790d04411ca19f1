"""The settings of *decide*. Free of torch, so that reading them is quick. Defaults were chosen on gold masks only."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Part = Literal["frame", "scene", "map", "keep"]
PARTS: tuple[Part, ...] = get_args(Part)
"""The steps of *decide*, each of which builds on those before it: `frame_of`, `look`, `draw`, and in `draw` what a
reader is told of the finished map (confidence, threshold), which changes no class of it."""

Given = Literal[
    "open",
    "hinted",
    "unhinted",
    "named",
    "points",
    "seeds",
    "boxes",
    "noisy",
    "heat",
    "student",
    "localiser",
    "learned",
    "references",
    "bias",
]
"""What some fields need before they matter, of the images at hand: classes that compete by their presence (`open`;
`hinted`, `unhinted`: beside classes that are known, or without any), classes that have to appear, points, seeds of any
kind, boxes, noisy maps, masks that SAM was asked for, what a student says, the maps of a localiser, and of what the
corpus taught: a head, references, bias."""


def _setting(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    *,
    part: Part = "map",
    search: tuple[float, float] | None = None,
    log: bool = False,
    when: tuple[str, str | tuple[str, ...]] | None = None,
    needs: Given | None = None,
    later: bool = False,
) -> Any:
    """A dataclass field whose metadata tells a command line and a search what it means and where it may go.

    part: the first step that reads it. For a search: search, a range that is worth trying, where all of low..high is
    not; log, whether to try it on a log scale; when, the field and value(s) without which it means nothing; needs,
    likewise of the images. later: added when there were labels without it, which its default describes: there it is no
    part of what they were decided by (models.observe_config.key_fields).
    """
    metadata: dict[str, object] = {"help": help, "part": part, "log": log, "later": later}
    if low is not None:
        metadata["range"] = (low, high)
        metadata["search"] = search or (low, high)
    if when is not None:
        metadata["when"] = (when[0], (when[1],) if isinstance(when[1], str) else when[1])
    if needs is not None:
        metadata["needs"] = needs
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DecideConfig:
    """How evidence, text and weak labels become a label. Every field is validated where it is used."""

    # Text match
    similarity: Literal["dot", "cosine"] = _setting(
        "dot",
        "patch against text: dot product keeps objectness (pocket models), cosine suits OpenAI's CLIP",
        part="scene",
    )
    heat_scale: Literal["max", "minmax", "softmax"] = _setting(
        "max",
        "scores to heat: ReLU over the maximum, min-max, or a softmax over classes then over the maximum",
        part="scene",
    )
    softmax_temperature: float = _setting(
        0.05, "temperature of heat_scale=softmax", 0.005, 1.0, part="scene", log=True, when=("heat_scale", "softmax")
    )
    background_words_weight: float = _setting(
        0.3,
        "how much of the best background word's score is taken off every class",
        0.0,
        1.0,
        part="scene",
        when=("heat_scale", ("max", "minmax")),
    )
    head_weight: float = _setting(
        1.0,
        "share of what the corpus taught about a class (learn.enabled) in its heat, against its text; where nothing "
        "was learned, text alone",
        0.0,
        1.0,
        part="scene",
        needs="learned",
    )
    head_temperature: float = _setting(
        0.7, "how softly what was learned chooses between classes", 0.2, 3.0, part="scene", log=True, needs="learned"
    )
    reference_weight: float = _setting(
        0.0,
        "share of the heat that has to look like its class's reference, which images that its name or tags retrieve "
        "have in common; above 0, references are made of the corpus (learn.reference_images)",
        0.0,
        1.0,
        part="scene",
        needs="references",
        later=True,
    )
    bias_removal: float = _setting(
        0.0,
        "how much heat goes where it looks like backgrounds of images without the class, such as rails under trains; "
        "above 0, these are gathered from the tagged images",
        0.0,
        1.0,
        part="scene",
        needs="bias",
        later=True,
    )
    # Which classes compete when no tags are known
    presence_threshold: float = _setting(
        0.5,
        "a class takes part if its presence score is this share of the best class's",
        0.0,
        1.0,
        part="scene",
        needs="unhinted",
    )
    presence_heat_weight: float = _setting(
        0.5,
        "presence score: weight of the hottest patches against the global embedding",
        0.0,
        1.0,
        part="scene",
        needs="open",
    )
    presence_threshold_hinted: float = _setting(
        0.9,
        "the same where tags, points, boxes or maps already name some classes",
        0.0,
        1.0,
        part="scene",
        needs="hinted",
    )
    presence_temperature: float = _setting(
        0.0,
        "presence scores through a softmax of this temperature (0: plain shares; 0.01 for OpenAI's CLIP)",
        0.0,
        0.2,
        part="scene",
        needs="open",
    )
    presence_power: float = _setting(
        0.0,
        "a class that nobody named has its heat scaled by its presence to this power",
        0.0,
        4.0,
        part="scene",
        needs="open",
    )
    presence_max_classes: int = _setting(
        4, "at most so many classes in an image without tags (0: all)", 0, 32, part="scene", needs="open"
    )
    # Refinement to image edges
    grid_px: int = _setting(
        64, "longer side of the grid that decisions are made on, pixels", 32, 352, part="frame", search=(48, 96)
    )
    par_strength: float = _setting(
        1.0, "share of pixel-adaptive refinement in the heat (0: off)", 0.0, 1.0, part="scene"
    )
    par_iterations: int = _setting(12, "iterations of pixel-adaptive refinement", 0, 40, part="scene")
    par_dilations: tuple[int, ...] = _setting(
        (1, 2, 4, 8), "neighbour distances of the refinement, grid pixels", part="frame"
    )
    par_color_weight: float = _setting(
        0.15, "w1: how sharply colour differences cut the refinement", 0.05, 2.0, part="frame", log=True
    )
    par_position_weight: float = _setting(
        0.01, "w2: weight of the position term of the refinement", 0.0, 0.5, part="frame"
    )
    # Refinement of the heat on the patch grid (models/decide/patches.py), before it is enlarged
    affinity_strength: float = _setting(
        0.0, "share of the heat that is sent through an affinity between patches (0: off)", 0.0, 1.0, part="scene"
    )
    affinity_source: Literal["features", "color", "masks"] = _setting(
        "features",
        "affinity_strength > 0: what makes patches alike: CLIP features, colours, masks of the bank",
        part="scene",
    )
    affinity_power: int = _setting(
        2, "affinity_strength > 0: how many steps heat walks along the affinity", 1, 8, part="scene"
    )
    mumford_shah_steps: int = _setting(
        0,
        "turns of prototypes and masks that make the heat piecewise constant in features (0: off)",
        0,
        20,
        part="scene",
    )
    responsibility_weight: float = _setting(
        0.0,
        "share of likeness to the hottest or marked patches of each class in the heat (0: off)",
        0.0,
        1.0,
        part="scene",
    )
    guided_strength: float = _setting(
        0.5, "share of the edge-aware filter in the upsampled map (0: bilinear)", 0.0, 1.0
    )
    guided_radius_px: int = _setting(2, "window radius of the edge-aware filter, grid pixels", 1, 16, log=True)
    guided_epsilon: float = _setting(
        0.0003, "smoothing of the edge-aware filter, variance of colour 0..1", 1e-5, 0.1, log=True
    )
    # Masks
    component_threshold: float = _setting(0.7, "heat above this forms the components that look for masks", 0.05, 0.95)
    mask_weight: float = _setting(0.7, "share of the mask bank against the heat inside the fused map", 0.0, 1.0)
    mask_top: int = _setting(3, "how many bank masks are averaged for each component", 1, 16, log=True)
    mask_min_overlap: float = _setting(0.2, "a mask must reach this soft IoU with the component's heat", 0.0, 0.9)
    mask_sharpness: float = _setting(1.0, "power of fit times quality that weighs the averaged masks", 0.0, 8.0)
    region_share: float = _setting(
        0.6, "share of region voting (every mask votes by contrast of heat) in what the bank says", 0.0, 1.0
    )
    heat_mask_weight: float = _setting(
        0.3,
        "greatest share of masks that a class's heat asked SAM for (heat.kind), against all before",
        0.0,
        1.0,
        needs="heat",
    )
    student_weight: float = _setting(
        0.1,
        "share of what a student says (--labelers ...,student:REF) of the classes that it knows",
        0.0,
        1.0,
        needs="student",
    )
    localiser_weight: float = _setting(
        0.1,
        "share of the maps of a localiser (--labelers ...,localiser:REF) of the classes that it knows, where tags say "
        "which are there only of those",
        0.0,
        1.0,
        needs="localiser",
        later=True,
    )
    # Fusion with the background
    background_threshold: float = _setting(0.45, "fused strength below this is background", 0.05, 0.9)
    # Weak labels
    point_radius_px: float = _setting(
        2.0, "radius of the hard seed around a point, grid pixels", 0.0, 8.0, needs="points"
    )
    seed_weight: float = _setting(
        0.5, "share of what points and scribbles spread to, against text and masks", 0.0, 1.0, needs="seeds"
    )
    box_weight: float = _setting(
        0.8, "share of a box's shape prior and best mask, against text", 0.0, 1.0, needs="boxes"
    )
    seed_mask_share: float = _setting(
        0.8, "share of masks that hold the seeds against like-looking patches", 0.0, 1.0, needs="seeds"
    )
    seed_flow_weight: float = _setting(
        0.9, "greatest share of what flows from seeds along like colours", 0.0, 1.0, needs="seeds"
    )
    seed_flow_mass: float = _setting(
        0.3, "a pixel that gathers this much from seeds gets half of that share", 0.01, 2.0, log=True, needs="seeds"
    )
    seed_flow_iterations: int = _setting(20, "iterations that seeds flow for", 0, 80, needs="seeds")
    box_min_share: float = _setting(0.1, "least share of each box that its class gets", 0.0, 0.5, needs="boxes")
    box_ellipse_share: float = _setting(
        0.65, "share of the inscribed ellipse against the heat inside a box", 0.0, 1.0, needs="boxes"
    )
    noisy_weight: float = _setting(0.8, "share of a noisy map's vote", 0.0, 1.0, needs="noisy")
    noisy_mask_share: float = _setting(
        0.5, "noisy map: share of what the masks that hold a pixel are mostly, in its vote", 0.0, 1.0, needs="noisy"
    )
    noisy_alike_share: float = _setting(
        0.5, "noisy map: share of what patches look like its classes' pixels, in its vote", 0.0, 1.0, needs="noisy"
    )
    noisy_iterations: int = _setting(
        2, "noisy map: iterations of pixel-adaptive refinement of its vote", 0, 20, needs="noisy"
    )
    noisy_own_share: float = _setting(
        0.2, "noisy map: share of its own pixels in the enlarged map", 0.0, 1.0, needs="noisy"
    )
    noisy_thin_share: float = _setting(
        0.5,
        "noisy map: the same of thin things, for which the grid of decisions is too coarse",
        0.0,
        1.0,
        needs="noisy",
    )
    tag_min_area: float = _setting(
        0.01, "least share of the image that a class tagged as present gets", 0.0, 0.2, needs="named"
    )
    # Confidence
    confidence_middle: float = _setting(
        0.5,
        "strength at which a class and background are equally likely; calibrates the confidence",
        0.05,
        0.95,
        part="keep",
    )
    confidence_temperature: float = _setting(
        0.11,
        "strength difference that moves the odds by e; calibrates the confidence",
        0.01,
        1.0,
        part="keep",
        log=True,
    )
    keep_policy: Literal["fixed", "dynamic", "per-class"] = _setting(
        "dynamic",
        "which pixels a reader should use: above keep_threshold, above a threshold that follows the image, or the "
        "surest share of each class (whose confidence is bent to lie above keep_threshold: no probability any more)",
        part="keep",
    )
    keep_threshold: float = _setting(
        0.6, "keep_policy=fixed: confidence of a kept pixel", 0.0, 1.0, part="keep", when=("keep_policy", "fixed")
    )
    keep_class_share: float = _setting(
        0.7,
        "keep_policy=per-class: share of each class's pixels that is kept, the surest ones",
        0.05,
        1.0,
        part="keep",
        when=("keep_policy", "per-class"),
    )
    dynamic_base: float = _setting(
        0.9,
        "keep_policy=dynamic: base / (1 + exp(-slope * (mean confidence - 0.5)))",
        0.1,
        1.0,
        part="keep",
        when=("keep_policy", "dynamic"),
    )
    dynamic_slope: float = _setting(
        4.0,
        "keep_policy=dynamic: slope over the image's mean confidence",
        0.5,
        12.0,
        part="keep",
        when=("keep_policy", "dynamic"),
    )
    dynamic_low: float = _setting(
        0.3, "keep_policy=dynamic: lowest threshold", 0.0, 1.0, part="keep", when=("keep_policy", "dynamic")
    )
    dynamic_high: float = _setting(
        0.8, "keep_policy=dynamic: highest threshold", 0.0, 1.0, part="keep", when=("keep_policy", "dynamic")
    )
    # Calibration of the confidence (models/decide/calibrate.py)
    confidence_table: tuple[float, ...] = _setting(
        (),
        "what a confidence becomes, at equal steps from 0 to 1: numbers that rise within 0..1 (empty: as it is)",
        part="keep",
    )


HEAT_ONLY: dict[str, object] = {
    "par_strength": 0.0,
    "mask_weight": 0.0,
    "guided_strength": 0.0,
    "background_threshold": 0.55,
    "head_weight": 0.0,
    "reference_weight": 0.0,
    "bias_removal": 0.0,
}
"""Text heat alone, with the threshold that suits it best on gold masks, so that it is a fair baseline."""

HEAT_PAR: dict[str, object] = {
    "mask_weight": 0.0,
    "background_threshold": 0.55,
    "head_weight": 0.0,
    "reference_weight": 0.0,
    "bias_removal": 0.0,
}
"""Text heat and its refinement, likewise."""
