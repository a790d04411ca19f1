"""What `export.py` can be told."""

from typing import Literal

from pydantic import Field

from pipelines.config import Count, Section

Format = Literal["coco", "coco-panoptic", "yolo", "voc", "huggingface", "rrle"]
Keep = Literal["all", "row", "fixed"]
# Below, a part is noise of a class map's edges that nobody would draw; detectors take it for an object.
SPECK_PX = 20


class ExportConfig(Section):
    """What `export.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py")
    to: Format = Field(description="the format: coco, coco-panoptic, yolo, voc, huggingface or rrle")
    output: str | None = Field(default=None, description="folder or URL for the export; default: LABELS/exports/FORMAT")
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    keep: Keep = Field(
        default="all",
        description="pixels that are labeled: all, those of at least their row's keep_threshold, or of "
        "--min_confidence (fixed); the others are void, or part of nothing",
    )
    min_confidence: float = Field(default=0.5, ge=0, le=1, description="keep=fixed: confidence of pixels that count")
    val: float = Field(
        default=0.0, ge=0, lt=1, description="share of the images that are the validation split, drawn by their bytes"
    )
    images: Literal["copy", "none"] = Field(
        default="copy",
        description="none: coco and coco-panoptic name the images where they are, and copy nothing (as rrle always)",
    )
    instances: Literal["components", "points", "classes"] = Field(
        default="components",
        description="what one object is: a connected part of a class; the same, divided among the points of that class "
        "that the image's weak labels have in it; or all of a class",
    )
    min_area_px: int | None = Field(
        default=None,
        ge=1,
        description="coco, coco-panoptic, yolo: connected parts with fewer pixels are left out; default: "
        f"{SPECK_PX} where an object is a part of coco or yolo, else 1, which is every pixel",
    )
    max_regions: int = Field(
        default=200,
        ge=1,
        description="objects of one image at most; coco makes one of the smallest of a class, yolo leaves them out",
    )
    rows_per_file: int = Field(
        default=512, ge=1, description="huggingface: images in one Parquet file, which ends at 256 MB too"
    )
    title: str = Field(default="", description="huggingface: name of the dataset; default: the corpus")
    license: str = Field(
        default="unknown", description="huggingface: licence of the images and labels, such as cc-by-4.0"
    )
    limit: int | None = Field(default=None, ge=1, description="only the first N images, by name")
    threads: int = Field(default=4, ge=1, le=256, description="images that are read and written at once")
    max_pixels: Count = Field(default=200_000_000, ge=1, description="larger images are refused, pixels (200M works)")
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")

    @property
    def smallest_px(self) -> int:
        """`min_area_px`, or what it is by default. Formats that are whole class maps stay exact."""
        if self.min_area_px is not None:
            return self.min_area_px
        return SPECK_PX if self.to in ("coco", "yolo") and self.instances != "classes" else 1
