"""What `tune_student.py` can be told: all that `train_student.py` can be, and how to search. Free of torch and Ray."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.training.config import TrainConfig, learned_settings

SchedulerName = Literal["asha", "pbt", "none"]


class TuneStudentConfig(TrainConfig):
    """The training that the search is around, and the search."""

    restart: bool = Field(default=False, description="forget the search that is at --output, and begin anew")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="of the search, and of each training")
    output: str = Field(
        description="folder of the search, which all machines see; the same one resumes. Trials have folders below it"
    )
    register_model: str | None = Field(default=None, description="name of the best student in MLflow's model registry")
    trials: int = Field(default=20, ge=1, description="settings to try in all, an interrupted search's included")
    scheduler: SchedulerName = Field(
        default="asha",
        description="asha: poor trials are stopped early; pbt: they go on from a better one's state with its settings "
        "changed; none: all are trained to the end. asha and none choose settings by TPE",
    )
    space: str | None = Field(
        default=None,
        description="YAML that restricts or widens the search: fields, ranges, fixed; default: learning rates, decay "
        "and the recipe's own losses",
    )
    keep: int = Field(default=3, ge=1, description="so many of the best trials keep their student and checkpoints")
    concurrent: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="trials at once; auto: as many as fit, each with --workers training processes (auto: one at least) "
        "and a reader. With 1, a seed gives the same trials",
    )

    def training(self, **changes: object) -> TrainConfig:
        """The training without the search, with these fields changed."""
        own = set(type(self).model_fields) - set(TrainConfig.model_fields)
        fields = {name: value for name, value in self if name not in own}
        return TrainConfig(**{**fields, "restart": False, "register_model": None, **changes})


def reusable(config: TrainConfig) -> dict[str, object]:
    """Plain values for a YAML that train_student.py --config takes: what is learned, not where."""
    return learned_settings(config)
