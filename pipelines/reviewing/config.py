"""What `review.py export` and `review.py import` can be told."""

from typing import Literal

from pydantic import Field

from pipelines.config import Count, LockConfig, Section
from pipelines.exports.config import SPECK_PX

Format = Literal["label-studio", "cvat", "coco", "fiftyone"]


class RankConfig(Section):
    """what makes an image worth a look; each part is 0..1"""

    region: float = Field(default=1.0, ge=0, description="weight of its most mixed and doubtful regions")
    uncertainty: float = Field(default=0.5, ge=0, description="weight of one minus the mean confidence")
    disagreement: float = Field(default=0.5, ge=0, description="weight of how much the sources contradict each other")
    quality: float = Field(
        default=0.5,
        ge=0,
        description="weight of one minus the predicted IoU, of labels that have one (quality.use)",
    )
    violations: float = Field(default=0.5, ge=0, description="weight of breaking a rule of the classes")
    region_share: float = Field(
        default=0.15, gt=0, le=1, description="side of a region as a share of the image's longer side"
    )
    regions: int = Field(default=5, ge=0, le=100, description="regions that are pointed out in an image, at most")
    balance: bool = Field(default=True, description="classes that were chosen often already count less")
    duplicate: float = Field(
        default=0.95, ge=-1, le=1, description="images whose small grey pictures correlate so much are asked for once"
    )


class ReviewExportConfig(Section):
    """What `review.py export` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py")
    to: Format = Field(description="the tool: label-studio, cvat, coco or fiftyone")
    budget: int = Field(description="images that a person will look at", ge=1)
    output: str | None = Field(default=None, description="folder or URL; default: LABELS/reviews/TIME-TOOL")
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    order: Literal["ranked", "random"] = Field(default="ranked", description="random: to compare the ranking with")
    seed: int = Field(default=0, ge=0, description="of the random order")
    exclude: str | None = Field(default=None, description="file of asset names, a line each: not these")
    image_url: str = Field(
        default="/data/local-files/?d={folder}/images/",
        description="label-studio: where it finds images/; {folder} is the name of the review's folder",
    )
    min_area_px: int = Field(
        default=SPECK_PX, ge=1, description="connected parts with fewer pixels are not shown; they stay in the labels"
    )
    rank: RankConfig = RankConfig()
    threads: int = Field(default=4, ge=1, le=256, description="images that are read and written at once")
    max_pixels: Count = Field(default=200_000_000, ge=1, description="larger images are refused, pixels (200M works)")
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")


class ReviewImportConfig(Section):
    """What `review.py import` can be told."""

    review: str = Field(description="the folder or URL that `review.py export` wrote")
    file: str = Field(description="what the tool exported: JSON of Label Studio or COCO, annotations.xml of CVAT")
    labels: str | None = Field(
        default=None, description="the output that the review is of; default: where it came from"
    )
    annotator: str = Field(default="", description="who corrected, where the file does not say it")
    accept: Literal["changed", "regions", "all"] = Field(
        default="changed",
        description="pixels that the person vouches for: those that differ from the label, also those in the regions "
        "that were pointed out, or all of the image",
    )
    empty: Literal["skip", "background"] = Field(
        default="skip", description="coco, cvat, fiftyone: an image without any object was not looked at, or is empty"
    )
    lock: LockConfig = LockConfig()
