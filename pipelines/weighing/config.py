"""What `weigh_sources.py` can be told. Free of torch and Ray, so that --help is quick."""

from pydantic import Field

from models.decide.source_votes import VoteConfig
from models.label_model import LabelModelConfig
from pipelines.ablation.config import WeakForm
from pipelines.config import Section, TrackingConfig
from pipelines.evaluation.bootstrap import RESAMPLES
from pipelines.evaluation.config import GoldConfig


class WeighGoldConfig(GoldConfig):
    """masks of some of the images; without, sources are judged by each other alone"""

    uri: str = Field(default="", description="voc:PATH, or a folder of PNG masks (grey or palette) named like images")


class SampleConfig(Section):
    """what the sources are asked about"""

    images: int = Field(default=200, ge=0, description="images without gold, a seeded choice")
    gold: int = Field(default=1000, ge=2, description="images with gold at most, a seeded choice")
    pixels: int = Field(default=100, ge=1, le=10_000, description="of each image, a seeded choice")
    least_area: float = Field(
        default=0.01, ge=0, le=1, description="share of an image that a source must give a class to say it is there"
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="of images, pixels, and the two halves of the gold")


class WeighConfig(Section):
    """Everything that `weigh_sources.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py; its evidence is decided again")
    gold: WeighGoldConfig = WeighGoldConfig()
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    weak: tuple[WeakForm, ...] | None = Field(
        default=None,
        description="of the images' weak labels, those to decide with; default: all that the labels were made with; "
        "`none` uses none",
    )
    sample: SampleConfig = SampleConfig()
    votes: VoteConfig = VoteConfig()
    model: LabelModelConfig = LabelModelConfig()
    penalty: float = Field(
        default=1.0, gt=0, description="of the few-shot regression's squared coefficients, against its summed loss"
    )
    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000, description="of the bootstrap over images")
    output: str | None = Field(
        default=None, description="folder or URL for weights.yaml, .json and .md; default: LABELS/weights/NAME"
    )
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    tracking: TrackingConfig = TrackingConfig()
