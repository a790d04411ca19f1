"""What `ablate.py` can be told. Free of torch and Ray, so that --help is quick."""

from typing import Literal

from pydantic import Field, field_validator

from pipelines.ablation.methods import BY_NAME, METHODS, method_named
from pipelines.config import Section, TrackingConfig
from pipelines.evaluation.bootstrap import RESAMPLES
from pipelines.evaluation.config import GoldConfig

WeakForm = Literal["tags", "points", "scribbles", "boxes", "partial", "noisy", "maps"]
"""As label rows have them: captions have become tags."""


class AblateExecutionConfig(Section):
    """where it runs; changes no number"""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where photographs are observed again")
    object_store_mb: int = Field(default=512, ge=80, description="Ray's shared memory while a head is fitted, MB")
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    ray_address: str = Field(
        default="", description="an existing Ray cluster (auto, or ray://host:port) to fit on; default: start one"
    )


class AblateConfig(Section):
    """Everything that `ablate.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py; its evidence is decided again")
    gold: GoldConfig
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    methods: tuple[str, ...] = Field(
        default=(),
        description=f"with commas between, of: {', '.join(BY_NAME)}; default: all that can matter for these images",
    )
    observe: bool = Field(
        default=False,
        description="also the methods for which the photographs are observed again: "
        + ", ".join(method.name for method in METHODS if method.part == "observe"),
    )
    weak: tuple[WeakForm, ...] | None = Field(
        default=None,
        description="of the images' weak labels, those to decide with; default: all that the labels were made with; "
        "`none` uses none, to see what matters where nothing is known of an image",
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, description="of methods that are fitted")
    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000, description="of the bootstrap over images")
    output: str | None = Field(
        default=None,
        description="folder or URL; the same one goes on where it was stopped; default: LABELS/ablations/NAME",
    )
    execution: AblateExecutionConfig = AblateExecutionConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method_named(name).name for name in names))

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if min(seeds) < 0:
            raise ValueError("a seed is 0 or more")
        return tuple(dict.fromkeys(seeds))
