"""The settings of *decide*. Free of torch, so that reading them is quick. Defaults were chosen on gold masks only."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose metadata tells a command line and a search what it means and where it may go."""
    metadata: dict[str, object] = {"help": help}
    if low is not None:
        metadata["range"] = (low, high)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DecideConfig:
    """How evidence, text and weak labels become a label. Every field is validated where it is used."""

    # Text match
    similarity: Literal["dot", "cosine"] = _setting(
        "dot", "patch against text: dot product keeps objectness (pocket models), cosine suits OpenAI's CLIP"
    )
    heat_scale: Literal["max", "minmax", "softmax"] = _setting(
        "max", "scores to heat: ReLU over the maximum, min-max, or a softmax over classes then over the maximum"
    )
    softmax_temperature: float = _setting(0.05, "temperature of heat_scale=softmax", 0.005, 1.0)
    background_words_weight: float = _setting(
        0.3, "how much of the best background word's score is taken off every class", 0.0, 1.0
    )
    # Which classes compete when no tags are known
    presence_threshold: float = _setting(
        0.5, "a class takes part if its presence score is this share of the best class's", 0.0, 1.0
    )
    presence_heat_weight: float = _setting(
        0.5, "presence score: weight of the hottest patches against the global embedding", 0.0, 1.0
    )
    presence_threshold_hinted: float = _setting(
        0.9, "the same where tags, points, boxes or maps already name some classes", 0.0, 1.0
    )
    presence_temperature: float = _setting(
        0.0, "presence scores through a softmax of this temperature (0: plain shares; 0.01 for OpenAI's CLIP)", 0.0, 0.2
    )
    presence_power: float = _setting(
        1.0, "a class that nobody named has its heat scaled by its presence to this power", 0.0, 4.0
    )
    presence_max_classes: int = _setting(4, "at most so many classes in an image without tags (0: all)", 0, 32)
    # Refinement to image edges
    grid_px: int = _setting(64, "longer side of the grid that decisions are made on, pixels", 32, 352)
    par_strength: float = _setting(1.0, "share of pixel-adaptive refinement in the heat (0: off)", 0.0, 1.0)
    par_iterations: int = _setting(12, "iterations of pixel-adaptive refinement", 0, 40)
    par_dilations: tuple[int, ...] = _setting((1, 2, 4, 8), "neighbour distances of the refinement, grid pixels")
    par_color_weight: float = _setting(0.15, "w1: how sharply colour differences cut the refinement", 0.05, 2.0)
    par_position_weight: float = _setting(0.01, "w2: weight of the position term of the refinement", 0.0, 0.5)
    guided_strength: float = _setting(
        0.5, "share of the edge-aware filter in the upsampled map (0: bilinear)", 0.0, 1.0
    )
    guided_radius_px: int = _setting(2, "window radius of the edge-aware filter, grid pixels", 1, 16)
    guided_epsilon: float = _setting(0.0003, "smoothing of the edge-aware filter, variance of colour 0..1", 1e-5, 0.1)
    # Masks
    component_threshold: float = _setting(0.7, "heat above this forms the components that look for masks", 0.05, 0.95)
    mask_weight: float = _setting(0.7, "share of the mask bank against the heat inside the fused map", 0.0, 1.0)
    mask_top: int = _setting(3, "how many bank masks are averaged for each component", 1, 16)
    mask_min_overlap: float = _setting(0.2, "a mask must reach this soft IoU with the component's heat", 0.0, 0.9)
    mask_sharpness: float = _setting(1.0, "power of fit times quality that weighs the averaged masks", 0.0, 8.0)
    region_share: float = _setting(
        0.6, "share of region voting (every mask votes by contrast of heat) in what the bank says", 0.0, 1.0
    )
    heat_mask_weight: float = _setting(
        0.3, "greatest share of masks that a class's heat asked SAM for (heat.kind), against all before", 0.0, 1.0
    )
    student_weight: float = _setting(
        0.5, "share of what a student says (--labelers ...,student:REF) of the classes that it knows", 0.0, 1.0
    )
    # Fusion with the background
    background_threshold: float = _setting(0.45, "fused strength below this is background", 0.05, 0.9)
    # Weak labels
    point_radius_px: float = _setting(2.0, "radius of the hard seed around a point, grid pixels", 0.0, 8.0)
    seed_weight: float = _setting(0.5, "share of what points and scribbles spread to, against text and masks", 0.0, 1.0)
    box_weight: float = _setting(0.8, "share of a box's shape prior and best mask, against text", 0.0, 1.0)
    seed_mask_share: float = _setting(0.8, "share of masks that hold the seeds against like-looking patches", 0.0, 1.0)
    seed_flow_weight: float = _setting(0.9, "greatest share of what flows from seeds along like colours", 0.0, 1.0)
    seed_flow_mass: float = _setting(
        0.3, "a pixel that gathers this much from seeds gets half of that share", 0.01, 2.0
    )
    seed_flow_iterations: int = _setting(20, "iterations that seeds flow for", 0, 80)
    box_min_share: float = _setting(0.1, "least share of each box that its class gets", 0.0, 0.5)
    box_ellipse_share: float = _setting(0.65, "share of the inscribed ellipse against the heat inside a box", 0.0, 1.0)
    noisy_weight: float = _setting(0.65, "share of a noisy map's vote", 0.0, 1.0)
    tag_min_area: float = _setting(0.01, "least share of the image that a class tagged as present gets", 0.0, 0.2)
    # Confidence
    confidence_middle: float = _setting(
        0.5, "strength at which a class and background are equally likely; calibrates the confidence", 0.05, 0.95
    )
    confidence_temperature: float = _setting(
        0.11, "strength difference that moves the odds by e; calibrates the confidence", 0.01, 1.0
    )
    keep_policy: Literal["fixed", "dynamic"] = _setting(
        "dynamic", "which pixels a reader should use: above keep_threshold, or above a threshold that follows the image"
    )
    keep_threshold: float = _setting(0.6, "keep_policy=fixed: confidence of a kept pixel", 0.0, 1.0)
    dynamic_base: float = _setting(
        0.9, "keep_policy=dynamic: base / (1 + exp(-slope * (mean confidence - 0.5)))", 0.1, 1.0
    )
    dynamic_slope: float = _setting(4.0, "keep_policy=dynamic: slope over the image's mean confidence", 0.5, 12.0)
    dynamic_low: float = _setting(0.3, "keep_policy=dynamic: lowest threshold", 0.0, 1.0)
    dynamic_high: float = _setting(0.8, "keep_policy=dynamic: highest threshold", 0.0, 1.0)


HEAT_ONLY: dict[str, object] = {
    "par_strength": 0.0,
    "mask_weight": 0.0,
    "guided_strength": 0.0,
    "background_threshold": 0.55,
}
"""Text heat alone, with the threshold that suits it best on gold masks, so that it is a fair baseline."""

HEAT_PAR: dict[str, object] = {"mask_weight": 0.0, "background_threshold": 0.55}
"""Text heat and its refinement, likewise."""
