"""The settings of the losses and of the recipes that compose them. Free of torch, so that reading them is quick."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

RecipeName = Literal["supervised", "from_tags", "from_points", "semi_supervised", "from_noisy_maps", "distill"]
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
_POLICY = "cw_bass.confidence.policy"
_SELECTION = ("noisy.selection", True)


def _option(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    *,
    search: tuple[float, float] | None = None,
    log: bool = False,
    when: tuple[str, Any] | None = None,
    unread_by: tuple[RecipeName, ...] = (),
) -> Any:
    """A field with its help text and, for numbers, its inclusive range.

    For a search: search, a range that is worth trying, and log, whether on a log scale; when, the field of LossesConfig
    (dotted) and its value without which this one means nothing; unread_by, recipes that read the section and not this.
    """
    metadata: dict[str, Any] = {"help": text, "log": log, "unread_by": unread_by}
    if low is not None:
        metadata["range"] = (low, high)
    if search is not None:
        metadata["search"] = search
    if when is not None:
        metadata["when"] = (when[0], (when[1],))
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SupervisedConfig:
    """What is learned from labeled pixels, in every recipe."""

    stride: int = _option(
        2,
        "Dense targets are compared on every stride-th pixel along each side: 2 costs a quarter of 1, and the student "
        "itself answers on every fourth. Sparse ones (from_points) and noisy maps keep every pixel.",
        1,
        4,
    )
    cross_entropy: float = _option(1.0, "Weight of the cross-entropy.", 0.0, 100.0)
    dice: float = _option(
        0.5,
        "Weight of the Dice loss, where targets are dense (not in from_points).",
        0.0,
        100.0,
        search=(0.0, 2.0),
        unread_by=("from_points",),
    )
    gamma: float = _option(
        1.0,
        "Power of the labels' confidence in a pixel's weight; 0: all labeled pixels count 1.",
        0,
        8,
        search=(0.0, 3.0),
    )
    boundary: float = _option(
        0.0,
        "Weight of the extra cross-entropy on class boundaries of the labels.",
        0.0,
        10.0,
        search=(0.0, 2.0),
        unread_by=("from_points",),
    )


@dataclass(frozen=True)
class ConfidenceConfig:
    """Which pseudo-labels of a teacher count: those above a threshold."""

    policy: Literal["fixed", "dynamic", "per-class"] = _option(
        "dynamic",
        "fixed: one threshold; dynamic: one that rises with the mean confidence (CW-BASS); per-class: the most "
        "confident share of each predicted class.",
    )
    threshold: float = _option(
        0.9, "policy=fixed: confidence of a pixel that counts.", 0.0, 1.0, search=(0.5, 0.98), when=(_POLICY, "fixed")
    )
    dynamic_base: float = _option(
        0.9,
        "policy=dynamic: base / (1 + exp(-slope * (mean confidence - 0.5))).",
        0.1,
        1.0,
        search=(0.6, 1.0),
        when=(_POLICY, "dynamic"),
    )
    dynamic_slope: float = _option(4.0, "policy=dynamic: slope over the mean confidence.", 0.5, 12.0)
    dynamic_low: float = _option(0.3, "policy=dynamic: lowest threshold.", 0.0, 1.0)
    dynamic_high: float = _option(0.8, "policy=dynamic: highest threshold.", 0.0, 1.0)
    class_share: float = _option(
        0.5,
        "policy=per-class: share of each class's pixels that counts.",
        0.0,
        1.0,
        search=(0.2, 0.9),
        when=(_POLICY, "per-class"),
    )
    class_momentum: float = _option(0.9, "policy=per-class: how slowly the thresholds follow the batches.", 0.0, 1.0)


@dataclass(frozen=True)
class CwBassConfig:
    """CW-BASS (2025): confidence-weighted, boundary-aware learning from pseudo-labels."""

    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    gamma: float = _option(1.0, "Power of the confidence in a pixel's weight.", 0.0, 8.0, search=(0.0, 3.0))
    boundary: float = _option(
        0.5, "Weight of the extra cross-entropy on class boundaries; 0: off.", 0.0, 10.0, search=(0.0, 2.0)
    )
    decay: float = _option(
        1.0, "What confidences are multiplied by at the end of training, less before; 1: off, as released.", 0.0, 1.0
    )


@dataclass(frozen=True)
class DistillConfig:
    """MGD: distillation at image, region and pixel level. A weight of 0 switches a level off."""

    image: float = _option(
        0.3, "Weight of the image level: pooled class logits, L1.", 0.0, 1000.0, search=(0.03, 3.0), log=True
    )
    region: float = _option(
        100.0,
        "Weight of the region level: cosines between pooled regions, squared error.",
        0.0,
        1e4,
        search=(1.0, 1000.0),
        log=True,
    )
    pixel: float = _option(
        1.0,
        "Weight of the pixel level: cross-entropy to the teachers' hard labels.",
        0.0,
        100.0,
        search=(0.1, 10.0),
        log=True,
    )
    region_grid: int = _option(7, "Regions along each side of the image.", 2, 64)
    image_teacher: int = _option(-1, "Teacher of the image level, by its place from 0; -1: all with logits.", -1, 64)
    region_teacher: int = _option(
        -1, "Teacher of the region level, by its place from 0; -1: all with features.", -1, 64
    )
    pixel_threshold: float = _option(0.0, "Pixels whose teacher is less confident are left out.", 0.0, 1.0)


@dataclass(frozen=True)
class AgmmConfig:
    """AGMM (CVPR 2023): a Gaussian mixture around the labeled pixels of each image."""

    sigma: float = _option(
        0.7071,
        "Width of the Gaussians, in mean absolute feature difference; 1/sqrt(2) is the released exp(-d^2).",
        1e-3,
        1e3,
        search=(0.2, 3.0),
        log=True,
    )
    prediction: float = _option(
        1.0,
        "Weight of predictions against responsibilities, over all pixels.",
        0.0,
        100.0,
        search=(0.1, 10.0),
        log=True,
    )
    ramp: float = _option(0.0, "Share of the training over which that weight rises from 0.", 0.0, 1.0)
    seeds: float = _option(1.0, "Weight of responsibilities against the labels, over labeled pixels.", 0.0, 100.0)
    repulsion: float = _option(1.0, "Weight of what pushes the classes' centres apart.", 0.0, 100.0, search=(0.0, 3.0))
    memory_momentum: float = _option(
        0.0,
        "Centres of classes that a batch lacks are remembered, this slowly changing, and repel too; 0: off.",
        0.0,
        0.999,
    )


@dataclass(frozen=True)
class TagsConfig:
    """Recipe from_tags: pseudo-labels with confidences, made from image tags."""

    absent: float = _option(
        0.1,
        "Weight of what forbids classes that the tags exclude, on every pixel; 0: off.",
        0.0,
        100.0,
        search=(0.0, 1.0),
    )
    agmm: bool = _option(False, "Also the Gaussian mixture, seeded by the most confident pixels.")
    seed_confidence: float = _option(0.9, "agmm: confidence of a pixel that is a seed.", 0.0, 1.0)


@dataclass(frozen=True)
class PointsConfig:
    """Recipe from_points: points, scribbles, boxes or blocks, drawn into a partial map."""

    agmm: bool = _option(True, "AGMM, the Gaussian mixture; false: cross-entropy on the labeled pixels alone.")
    absent: float = _option(
        1.0,
        "agmm: weight of what forbids classes that the tags exclude; 0: off.",
        0.0,
        100.0,
        search=(0.0, 3.0),
        when=("points.agmm", True),
    )


@dataclass(frozen=True)
class SemiConfig:
    """Recipe semi_supervised: labeled and unlabeled images. With all switches off, unlabeled images are not used."""

    ema: bool = _option(True, "The EMA teacher makes the pseudo-labels; false: the student itself, on the weak view.")
    cutmix: bool = _option(True, "Unlabeled images are mixed by pasted boxes (CutMix).")
    cw_bass: bool = _option(True, "CW-BASS: confidence weights, dynamic threshold and boundary term.")
    mgd: bool = _option(False, "MGD: also distillation from frozen teachers; needs teachers.")
    strong_view: bool = _option(True, "The student sees unlabeled images with changed colours and blur.")
    weight: float = _option(1.0, "Weight of the unlabeled images.", 0.0, 100.0, search=(0.1, 10.0), log=True)
    ramp: float = _option(
        0.1, "Share of the training over which that weight rises from 0.", 0.0, 1.0, search=(0.0, 0.5)
    )
    threshold: float = _option(
        0.9,
        "Without cw_bass: confidence of a pseudo-label that counts.",
        0.0,
        1.0,
        search=(0.5, 0.98),
        when=("semi.cw_bass", False),
    )
    cutmix_area: tuple[float, float] = _option(
        (0.1, 0.5), "Least and greatest share of the image in the box.", 0.0, 1.0
    )
    cutmix_probability: float = _option(1.0, "Share of the unlabeled images that get a box.", 0.0, 1.0)

    @property
    def uses_pseudo_labels(self) -> bool:
        return self.ema or self.cutmix or self.cw_bass


@dataclass(frozen=True)
class NoisyConfig:
    """Recipe from_noisy_maps: CromSS (2024) with a second branch that sees texture and edges."""

    selection: bool = _option(True, "CromSS; false: cross-entropy and Dice on the maps as they are, nothing else.")
    share: float = _option(
        0.5,
        "Share of each class's pixels that keep their full weight in the end.",
        0.01,
        1.0,
        search=(0.2, 0.9),
        when=_SELECTION,
    )
    anneal: float = _option(
        0.5, "Share of the training over which selection comes in.", 0.0, 1.0, search=(0.1, 1.0), when=_SELECTION
    )
    consistency: float = _option(
        1.0, "Weight of the branches' agreement; 0: off.", 0.0, 100.0, search=(0.0, 4.0), when=_SELECTION
    )
    prior_smoothing: float = _option(
        0.15, "Share of the label given to the blurred map.", 0.0, 1.0, search=(0.0, 0.5), when=_SELECTION
    )
    uniform_smoothing: float = _option(0.05, "Share of the label given to all classes alike.", 0.0, 1.0)
    prior_sigma_px: float = _option(8.0, "Width of that blur, pixels.", 0.5, 64.0)
    texture_width: int = _option(32, "Channels of the second branch.", 4, 512)


@dataclass(frozen=True)
class LossesConfig:
    """Every loss and what the recipes switch on and off."""

    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    tags: TagsConfig = field(default_factory=TagsConfig)
    points: PointsConfig = field(default_factory=PointsConfig)
    agmm: AgmmConfig = field(default_factory=AgmmConfig)
    semi: SemiConfig = field(default_factory=SemiConfig)
    cw_bass: CwBassConfig = field(default_factory=CwBassConfig)
    mgd: DistillConfig = field(default_factory=DistillConfig)
    noisy: NoisyConfig = field(default_factory=NoisyConfig)

    def read_by(self, recipe: RecipeName) -> frozenset[str]:
        """Names of the sections that a recipe reads, with the switches as they are here."""
        switched = {
            "from_tags": {"tags": True, "agmm": self.tags.agmm},
            "from_points": {"points": True, "agmm": self.points.agmm},
            "semi_supervised": {"semi": True, "cw_bass": self.semi.cw_bass, "mgd": self.semi.mgd},
            "from_noisy_maps": {"noisy": True},
            "distill": {"mgd": True},
        }.get(recipe, {})
        return frozenset({"supervised", *(name for name, on in switched.items() if on)})
