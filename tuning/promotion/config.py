"""What `promote.py` can be told."""

from pydantic import Field, model_validator

from pipelines.config import Section, TrackingConfig


class PromoteConfig(Section):
    """What `promote.py` can be told."""

    model: str = Field(description="name in the model registry, such as voc-decide or drive")
    run: tuple[str, ...] = Field(
        default=(),
        description="MLflow run of a training or search, or several that differ by their seed: the first is promoted; "
        "of one, the others are found",
    )
    decide: tuple[str, ...] = Field(
        default=(), description="decide.yaml of tune_labels.py instead, result.json beside it; several: of other seeds"
    )
    rollback: bool = Field(default=False, description="the champion before becomes the champion again")
    gate: str | None = Field(default=None, description="YAML with what is required; default: a metric not below")
    reason: str = Field(default="", description="why, kept with the version; default: the numbers")
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _one_way(self) -> "PromoteConfig":
        if sum(map(bool, (self.run, self.decide, self.rollback))) != 1:
            raise ValueError("give --run, --decide or --rollback: one of the three")
        return self
