"""The methods that an ablation switches, one entry each. A new method of *decide* is one more entry: its `off`."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, Literal

from models.decide.config import HEAT_ONLY, DecideConfig
from models.observe_config import ObserveConfig
from pipelines.class_builtins import TEMPLATES
from pipelines.config import LabelConfig


@dataclass(frozen=True)
class Method:
    """One method, and the settings that switch it.

    part: decide; text, what *decide* is told in words; corpus, what all images together teach, by the name of its kind
    (pipelines/learned.py); or observe, for which the photographs are observed again. off: fields of DecideConfig and
    the values with which it does nothing. on: their values where the run has it off; default: DecideConfig's own. Of an
    observe method: on, fields of ObserveConfig such as clip.flip. against: the fields of ObserveConfig that it needs,
    with and without it. Of a text method: on, fields of TextConfig, or the class set's templates;
    pipelines/ablation/texts.py switches them. builds_on: methods without which it does nothing; alone, it stands on
    them.
    """

    name: str
    title: str
    paper: str
    part: Literal["decide", "text", "corpus", "observe"] = "decide"
    off: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] = field(default_factory=dict)
    builds_on: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """What the images must have for it to matter: models.decide.config.Given. What has to be learned is learned."""
        metadata = {one.name: one.metadata for one in fields(DecideConfig)}
        needs = frozenset(metadata[name]["needs"] for name in self.off if "needs" in metadata[name])
        return needs - {"learned", "references", "bias"}

    def is_on(self, config: DecideConfig) -> bool:
        return any(getattr(config, name) != value for name, value in self.off.items())

    def without(self, config: DecideConfig) -> DecideConfig:
        return replace(config, **self.off)

    def within(self, config: DecideConfig, like: DecideConfig) -> DecideConfig:
        """The settings with this method on: as `like` has it, if it does."""
        default = DecideConfig()
        chosen = {name: getattr(default, name) for name in self.off} | dict(self.on)
        return replace(config, **({name: getattr(like, name) for name in chosen} if self.is_on(like) else chosen))

    def observe(self, config: ObserveConfig) -> ObserveConfig:
        """What an observe method observes with."""
        return _changed(config, self.on)

    def baseline(self, config: ObserveConfig) -> ObserveConfig:
        """What an observe method is compared with."""
        return _changed(config, self.against)

    @property
    def default(self) -> bool:
        """Whether it is on where nobody says anything."""
        label = LabelConfig.model_validate({"corpus": "", "output": ""})
        if self.part == "observe":
            return self.observe(label.observe) == label.observe
        if self.part == "text":
            told = {**dict(label.text), "templates": TEMPLATES}
            return all(told[name] == value for name, value in self.on.items())
        networks = {"student": bool(label.students), "localiser": bool(label.localisers)}
        asked = {"heat": label.heat.kind != "none", **networks}
        learned = self.part != "corpus" or label.learn.enabled
        return self.is_on(label.decide) and learned and all(asked.get(need, True) for need in self.needs)


def _changed(config: ObserveConfig, values: Mapping[str, Any]) -> ObserveConfig:
    return reduce(lambda made, one: _set(made, one[0].split("."), one[1]), values.items(), config)


def _set(config: Any, path: list[str], value: Any) -> Any:
    inner = _set(getattr(config, path[0]), path[1:], value) if len(path) > 1 else value
    return replace(config, **{path[0]: inner})


METHODS = (
    Method("masks", "SAM mask bank", "Kirillov et al., Segment Anything, ICCV 2023", off={"mask_weight": 0.0}),
    Method("regions", "region voting", "ours", off={"region_share": 0.0}, builds_on=("masks",)),
    Method("par", "pixel-adaptive refinement", "Ru et al., AFA, CVPR 2022", off={"par_strength": 0.0}),
    Method("guided", "guided upsampling", "He et al., Guided Image Filtering, 2013", off={"guided_strength": 0.0}),
    Method("words", "background words", "Lin et al., CLIP-ES, CVPR 2023", off={"background_words_weight": 0.0}),
    Method(
        "descriptions",
        "what classes look like",
        "AttrSeg, NeurIPS 2023; ExCEL, CVPR 2025",
        part="text",
        on={"descriptions": "builtin"},
    ),
    Method(
        "concepts",
        "more background words",
        "Lin et al., CLIP-ES, CVPR 2023",
        part="text",
        on={"concepts": True},
        builds_on=("words",),
    ),
    Method(
        "templates",
        "several sentences for a word",
        "Radford et al., CLIP, 2021",
        part="text",
        on={"templates": TEMPLATES},
    ),
    Method("head", "head learned from the corpus", "ours", part="corpus", off={"head_weight": 0.0}),
    Method(
        "references",
        "references of what a class's images share",
        "ReCo, NeurIPS 2022",
        part="corpus",
        off={"reference_weight": 0.0},
        on={"reference_weight": 0.2},
    ),
    Method(
        "bias",
        "removal of what backgrounds elsewhere look like",
        "MARS, ICCV 2023",
        part="corpus",
        off={"bias_removal": 0.0},
        on={"bias_removal": 1.0},
    ),
    Method(
        "likeness",
        "shares of what looks like the surest patches",
        "AGMM, CVPR 2023",
        off={"responsibility_weight": 0.0},
        on={"responsibility_weight": 0.3},
    ),
    Method(
        "affinity",
        "heat spread by an affinity of patches",
        "ExCEL, CVPR 2025",
        off={"affinity_strength": 0.0},
        on={"affinity_strength": 0.5, "affinity_power": 2},
    ),
    Method(
        "mumford_shah",
        "masks and prototypes by turns",
        "LMS-Net, 2025",
        off={"mumford_shah_steps": 0},
        on={"mumford_shah_steps": 3},
    ),
    Method(
        "presence",
        "heat scaled by presence",
        "ours",
        off={"presence_power": 0.0},
        on={"presence_power": 1.0},
    ),
    Method("heat_masks", "masks that heat asks SAM for", "GenSAM and GPRN, 2024", off={"heat_mask_weight": 0.0}),
    Method("student", "a student's say", "Lee, Pseudo-Label, 2013", off={"student_weight": 0.0}),
    Method("localiser", "maps of a localiser that tags taught", "USAGE, ICCV 2023", off={"localiser_weight": 0.0}),
    Method("seeds", "what looks like seeds", "ours", off={"seed_weight": 0.0}),
    Method("seed_masks", "masks that hold seeds", "ours", off={"seed_mask_share": 0.0}, builds_on=("seeds",)),
    Method("seed_flow", "flow from seeds", "Grady, Random Walks, 2006", off={"seed_flow_weight": 0.0}),
    Method("boxes", "masks and shapes in boxes", "ours", off={"box_weight": 0.0}),
    Method("ellipse", "ellipse in boxes", "ours", off={"box_ellipse_share": 0.0}, builds_on=("boxes",)),
    Method("noisy", "votes of noisy maps", "ours", off={"noisy_weight": 0.0}),
    Method(
        "noisy_spread",
        "noisy maps spread to masks and likes",
        "GPRN, AAAI 2025; AGMM, CVPR 2023",
        off={"noisy_mask_share": 0.0, "noisy_alike_share": 0.0, "noisy_iterations": 0},
        builds_on=("noisy",),
    ),
    Method(
        "noisy_own",
        "noisy maps' own pixels and thin things",
        "ours",
        off={"noisy_own_share": 0.0, "noisy_thin_share": 0.0},
        builds_on=("noisy",),
    ),
    Method("tag_area", "tagged classes get some area", "ours", off={"tag_min_area": 0.0}),
    Method("flip", "features of the mirrored picture too", "usual", part="observe", on={"clip.flip": True}),
    Method("one_size", "features of one size alone", "usual", part="observe", on={"clip.scales": (1.0,)}),
    Method("qkv", "likeness of queries, keys, values", "ExCEL", part="observe", on={"clip.attention": "qq+kk+vv"}),
    Method(
        "extra",
        "likeness of whole tokens, added to vv",
        "ExCEL",
        part="observe",
        on={"clip.extra_attention": 0.5},
        against={"clip.attention": "vv"},
    ),
    Method(
        "tokens",
        "tokens weighed by attention",
        "DOEI, 2025",
        part="observe",
        on={"clip.token_weight": 0.5},
    ),
    Method("tiles", "features of tiles too", "PPL, 2022; ZeroSeg, 2023", part="observe", on={"clip.tiles": (2,)}),
)
BY_NAME = {method.name: method for method in METHODS}


def method_named(name: str) -> Method:
    """Raises ValueError, naming the nearest."""
    if name in BY_NAME:
        return BY_NAME[name]
    close = difflib.get_close_matches(name, BY_NAME, 1, 0.3)
    raise ValueError(f"{name!r} is no method; " + (f"did you mean {close[0]}?" if close else f"known: {list(BY_NAME)}"))


def nothing(config: DecideConfig) -> DecideConfig:
    """Everything off: text heat alone, with the background threshold that suits it best."""
    off = (method.off for method in METHODS if method.part != "observe")
    return replace(config, **{name: value for one in off for name, value in one.items()} | HEAT_ONLY)


def alone(method: Method, config: DecideConfig) -> tuple[DecideConfig, DecideConfig]:
    """(with, without) it on top of everything off and what it builds on; its settings are the config's."""
    floor = method.without(beneath(method, config))
    return method.within(floor, config), floor


def beneath(method: Method, config: DecideConfig) -> DecideConfig:
    """Everything off but what a method builds on."""
    floor = nothing(config)
    for name in method.builds_on:
        floor = BY_NAME[name].within(floor, config)
    return floor
