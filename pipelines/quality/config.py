"""What `fit_quality.py` can be told. Free of torch and Ray, so that --help is quick."""

from pydantic import Field, field_validator

from models.quality.config import QualityConfig
from pipelines.config import Section, TrackingConfig
from pipelines.evaluation.bootstrap import RESAMPLES
from pipelines.evaluation.config import GoldConfig

LABELERS = {
    "run": "as the labels were decided",
    "heat": "text heat alone",
    "heat_par": "text heat and its refinement",
    "no_head": "without what the corpus taught",
    "no_masks": "without the bank of SAM's masks",
    "no_regions": "masks without region voting",
    "no_words": "without background words",
    "no_tags": "without anything that is known of the image",
}


class FitQualityConfig(Section):
    """Everything that `fit_quality.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py; its evidence is decided again")
    gold: GoldConfig
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    output: str | None = Field(
        default=None, description="folder or URL for learned/quality/; default: LABELS, whose runs find it there"
    )
    labelers: tuple[str, ...] = Field(
        default=tuple(name for name in LABELERS if name != "no_tags"),
        min_length=1,
        description="whose labels it learns from: "
        + "; ".join(f"{name} ({told})" for name, told in LABELERS.items())
        + ". Those that come to the same are decided once",
    )
    bad_below: float = Field(default=0.5, gt=0, lt=1, description="a label of a lower mean IoU is bad")
    risk: float = Field(default=0.05, gt=0, lt=1, description="share of all labels that are accepted and bad, at most")
    refuse: float = Field(
        default=0.2, gt=0, lt=1, description="the report: share of the images to leave out, the worst"
    )
    splits: int = Field(default=20, ge=1, le=1000, description="the report: how often the images are cut into halves")
    resamples: int = Field(
        default=RESAMPLES, ge=100, le=100_000, description="the report: of the bootstrap over images"
    )
    model: QualityConfig = QualityConfig()
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("labelers")
    @classmethod
    def _known_labelers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if strange := [name for name in names if name not in LABELERS]:
            raise ValueError(f"{strange[0]!r} is no labeler: {', '.join(LABELERS)}")
        # The report tells of the first alone, and of those that come to the same the first is kept.
        return tuple(sorted(dict.fromkeys(names), key=lambda name: name != "run"))
