"""What `compare.py` can be told. Free of torch and MLflow, so that --help is quick."""

from typing import Literal

from pydantic import Field, field_validator

from models.students.config import PredictConfig
from pipelines.config import Section, TrackingConfig
from pipelines.evaluation.config import GoldConfig


class ComparedGoldConfig(GoldConfig):
    """masks that judge all sides anew, on the same images; without them, stored numbers are compared"""

    uri: str = Field(default="", description="voc:PATH, or a folder of PNG masks (grey or palette) named like images")
    images: str | None = Field(
        default=None,
        description="students: folder of photographs, named like the masks (voc: has its own); without masks, the "
        "students are compared on these",
    )


class CompareConfig(Section):
    """What `compare.py` can be told."""

    runs: tuple[str, ...] = Field(
        description="what is compared, also without the flag: ids of MLflow runs, outputs of train_student.py, outputs "
        "of label_corpus.py (OUT, or OUT@VERSION for an older snapshot)"
    )
    gold: ComparedGoldConfig = ComparedGoldConfig()
    exclude: str | None = Field(default=None, description="file of image names, a line each: all gold but these")
    page: str | None = Field(
        default=None, description="the HTML page to write; default: comparisons/NAME/compare.html in the first output"
    )
    page_images: int = Field(default=40, ge=0, le=300, description="images on the page, those that differ most")
    rows: int = Field(default=12, ge=1, le=200, description="rows of each table on the terminal")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where students run")
    predict: PredictConfig = PredictConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("runs")
    @classmethod
    def _two_or_more(cls, runs: tuple[str, ...]) -> tuple[str, ...]:
        if len(runs) < 2:
            raise ValueError("give two or more runs or snapshots: compare.py RUN RUN ...")
        if doubled := [run for number, run in enumerate(runs) if run in runs[:number]]:
            raise ValueError(f"{doubled[0]!r} is given twice; an older snapshot is OUT@VERSION")
        return runs
