"""What `relabel_nightly.py` can be told, beyond what `label_corpus.py` can."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.config import Duration, LabelConfig, Section
from pipelines.gates import QualityGate

DAY_S = 86_400.0
Day = Annotated[date, "DATE"]


class GoldConfig(Section):
    """masks that the gate judges old and new labels by"""

    uri: str | None = Field(
        default=None, description="voc:PATH, or a folder of PNG masks named like the images; none: IoU is not judged"
    )
    split: str | None = Field(default=None, description="voc: a name in ImageSets/Segmentation")
    classes: str | None = Field(
        default=None, description="what the masks' ids mean: voc, camvid, a file or names; default: voc, or the labels'"
    )
    ignore: int = Field(default=255, ge=0, description="id of pixels that are not judged")
    list: str | None = Field(default=None, description="file of image names, a line each: only these")
    exclude: str | None = Field(default=None, description="file of image names, a line each: all but these")


class SnapshotGate(QualityGate):
    """what new labels must show before they are published (on gold: compared with the published ones)"""

    metric: Literal["miou"] = Field(default="miou", description="on gold: mean IoU over the classes of both sides")
    minimum_gain: float = Field(
        default=-0.01, ge=-1, le=1, description="of the metric on gold; below 0: how far it may fall"
    )
    no_class_worse_than: float | None = Field(
        default=0.05, ge=0, le=1, description="how far the IoU of any class may fall on gold; null: any distance"
    )
    maximum_churn_without_cause: float | None = Field(
        default=0.001, ge=0, le=1, description="share of pixels that may change where nothing they depend on did"
    )
    recheck_images: int = Field(
        default=16, ge=0, description="images without a change that are decided once more, to see such changes"
    )
    maximum_churn: float | None = Field(
        default=None, ge=0, le=1, description="share of pixels that may change, whatever the cause; null: all"
    )
    minimum_coverage: float | None = Field(
        default=None, ge=0, le=1, description="mean share of an image that the confidence policy keeps; null: any"
    )
    maximum_coverage_fall: float | None = Field(
        default=0.05, ge=0, le=1, description="how far that share may fall; null: any distance"
    )
    maximum_quarantine_rate: float | None = Field(
        default=0.05, ge=0, le=1, description="share of the corpus that may be in quarantine; null: any"
    )
    maximum_withdrawn: int | None = Field(
        default=0, ge=0, description="labels that a rollback took back and that may be published again; null: any"
    )


class RetrainConfig(Section):
    """a student that is trained again on a schedule, and labels beside CLIP and SAM"""

    every: Duration | None = Field(default=None, ge=1, description="age at which a new one is trained; default: never")
    config: str | None = Field(
        default=None, description="YAML of train_student.py for it; labels, output and tracking are set here"
    )


class KeepConfig(Section):
    """what becomes of the past"""

    snapshots: Duration | None = Field(
        default=30 * DAY_S,
        ge=0,
        description="age at which replaced snapshots and candidates are deleted; null: never. The published one stays",
    )
    compact: bool = Field(
        default=True, description="rewrite label files most of whose rows are superseded, in nights that publish"
    )


class NightlyConfig(LabelConfig):
    """Everything that `relabel_nightly.py` can be told."""

    as_of: Day | None = Field(
        default=None,
        description="the day that this run is of, as 2026-11-30: the age of students and snapshots counts from its "
        "end; default: now",
    )
    changes: int = Field(default=60, ge=0, le=300, description="photographs on the page of changes, the most changed")
    gold: GoldConfig = GoldConfig()
    gate: SnapshotGate = SnapshotGate()
    retrain: RetrainConfig = RetrainConfig()
    keep: KeepConfig = KeepConfig()

    def labeling(self, **changes: Any) -> LabelConfig:
        """The part that `label_corpus.py` knows, with changes."""
        values = {name: getattr(self, name) for name in LabelConfig.model_fields}
        return LabelConfig.model_validate({**values, **changes})

    @property
    def moment(self) -> datetime:
        """When this run is: now, or the end of the day `as_of`."""
        if self.as_of is None:
            return datetime.now(UTC)
        return datetime.combine(self.as_of, time(), UTC) + timedelta(days=1)
