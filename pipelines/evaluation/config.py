"""What `evaluate.py` can be told."""

from typing import Literal

from pydantic import Field

from models.students.config import PredictConfig
from pipelines.config import Section, TrackingConfig

ELSEWHERE = "out/evaluated"
"""Where evaluations of a model go that has no folder of its own to be written to."""


class GoldConfig(Section):
    """the masks to compare with"""

    uri: str = Field(description="voc:PATH, or a folder of PNG masks (grey or palette) named like the images")
    split: str | None = Field(default=None, description="voc: a name in ImageSets/Segmentation")
    classes: str | None = Field(
        default=None, description="what the masks' ids mean: voc, camvid, a file or names; default: voc, or the labels'"
    )
    ignore: int = Field(default=255, ge=0, description="id of pixels that are not judged")
    list: str | None = Field(default=None, description="file of image names, a line each: only these")
    images: str | None = Field(
        default=None, description="with --model: folder of the photographs, named like the masks; voc: has its own"
    )


class EvaluateConfig(Section):
    """What `evaluate.py` can be told."""

    labels: str | None = Field(default=None, description="the output folder or URL of label_corpus.py")
    model: str | None = Field(
        default=None,
        description="a student instead: the output folder or URL of train_student.py, or models:/NAME@ALIAS",
    )
    gold: GoldConfig
    exclude: str | None = Field(default=None, description="file of image names, a line each: all but these")
    snapshot: int | None = Field(
        default=None, ge=0, description="with --labels: version of the label table; default: the newest"
    )
    baselines: bool = Field(
        default=True, description="with --labels: also decide again with less: centre prior, heat, heat with PAR"
    )
    output: str | None = Field(
        default=None,
        description=f"with --model: folder or URL for evaluations/; default: the model's, or {ELSEWHERE}",
    )
    page: str | None = Field(
        default=None, description="with --model: where the page goes; default: OUTPUT/evaluations/NAME/worst.html"
    )
    page_images: int = Field(default=40, ge=0, le=300, description="with --model: worst images on the page")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="with --model: where the student runs")
    predict: PredictConfig = PredictConfig()
    tracking: TrackingConfig = TrackingConfig()
