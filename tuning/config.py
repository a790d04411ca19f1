"""What `tune_labels.py` can be told. Free of torch and Ray, so that --help is quick."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipelines.config import Section, TrackingConfig
from pipelines.evaluation.config import GoldConfig
from tuning.objectives import parse_objective


class OptionalGoldConfig(GoldConfig):
    """the masks to search with; every objective but `agreement` needs them"""

    uri: str = Field(default="", description="voc:PATH, or a folder of PNG masks (grey or palette) named like images")


class TuneExecutionConfig(Section):
    """where and how wide it runs"""

    concurrent: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto", description="trials at once; auto: one a core. With 1, a seed gives the same trials exactly"
    )
    scene_cache_mb: int = Field(
        default=512, ge=0, description="memory of one trial process for what trials have in common, MB"
    )
    object_store_mb: int = Field(
        default=256, ge=80, description="Ray's shared memory, MB; more is taken where the evidence needs it"
    )
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    ray_address: str = Field(
        default="", description="an existing Ray cluster (auto, or ray://host:port); default: start one"
    )


class TuneLabelsConfig(Section):
    """What `tune_labels.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py; its evidence is decided again")
    gold: OptionalGoldConfig = OptionalGoldConfig()
    trials: int = Field(default=100, ge=1, description="settings to try in all, an interrupted search's included")
    objective: tuple[str, ...] = Field(
        default=("miou",),
        description="what is to be large: miou, miou@coverage=0.8, precision@coverage=0.8, two of them with a comma "
        "between, or agreement (without gold, and weaker)",
    )
    space: str | None = Field(
        default=None,
        description="YAML that restricts the search: fields, ranges, fixed; default: all that matters",
    )
    holdout: float = Field(
        default=0.5,
        ge=0.0,
        le=0.9,
        description="share of the images that the search never sees and is judged by",
    )
    images: int = Field(default=400, ge=0, description="at most so many images, by a seeded choice; 0: all")
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="of the split, the order of the images and the search")
    early_stop: bool = Field(
        default=True, description="stop poor trials on a part of the images (ASHA); never with two objectives"
    )
    output: str | None = Field(
        default=None, description="local folder of the search; the same one resumes; default: below --labels, or here"
    )
    execution: TuneExecutionConfig = TuneExecutionConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("objective")
    @classmethod
    def _known_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        parsed = [parse_objective(name) for name in names]
        if not 1 <= len(set(names)) == len(names) <= 2:
            raise ValueError("one objective, or two different ones")
        if len(parsed) > 1 and any(one.metric == "agreement" for one in parsed):
            raise ValueError("agreement is for when there is no gold, and stands alone")
        return names


class CalibrateExecutionConfig(Section):
    """how it runs; changes no number"""

    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")


class CalibrateConfig(Section):
    """What `calibrate.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py; its evidence is decided again")
    gold: GoldConfig
    kind: Literal["isotonic", "temperature"] = Field(
        default="isotonic", description="isotonic: a rising curve; temperature: one number, for a handful of masks"
    )
    folds: int = Field(
        default=5, ge=2, le=1000, description="parts of the gold images, each judged by a curve of the others"
    )
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="draws the parts")
    output: str | None = Field(
        default=None, description="folder or URL; default: LABELS/calibrations/NAME, the same for the same inputs"
    )
    execution: CalibrateExecutionConfig = CalibrateExecutionConfig()
    tracking: TrackingConfig = TrackingConfig()
