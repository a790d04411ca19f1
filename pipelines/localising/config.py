"""The settings of a localiser's training: one typed tree, from YAML, then environment, then flags. Free of torch."""

from typing import Annotated, Literal

from pydantic import Field

from models.localize.kinds import PoolingKind
from pipelines.config import Count, Section, TrackingConfig
from pipelines.training.config import TrainExecutionConfig


class NetworkConfig(Section):
    """the head on the frozen backbone"""

    hidden: int = Field(default=0, ge=0, le=4096, description="channels of a hidden layer; 0: a linear head")
    size_px: int = Field(
        default=320, ge=32, le=2048, description="pictures are resized to about the area of a square of this side"
    )


class PoolingConfig(Section):
    """from a class's map to one score"""

    kind: PoolingKind = Field(
        default="softmax",
        description="mean (gap), maximum (gmp), mean weighed by a softmax, mean of the highest share (topk), or mean "
        "and maximum with a penalty on classes that win almost nothing",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=1000, description="softmax: from the maximum (0) to the mean (large)"
    )
    share: float = Field(default=0.1, gt=0, le=1, description="topk: share of the cells")


class OptimConfig(Section):
    """AdamW with cosine decay"""

    steps: Count = Field(default=600, ge=1, description="optimiser steps")
    batch_images: int = Field(default=32, ge=1, description="images in a step, over all workers")
    lr: float = Field(default=1e-2, gt=0, description="learning rate, at its highest")
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled decay of weights")


class LocaliserTraining(Section):
    """Everything that `train_localiser.py` can be told."""

    output: str = Field(description="folder or URL for the localiser, features and numbers; the same one resumes")
    labels: str = Field(description="the output folder or URL of label_corpus.py, whose images and tags these are")
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    images: Count = Field(default=20_000, ge=2, description="tagged images to learn from, at most (0.35 MB each)")
    unsaid: Literal["unknown", "absent"] = Field(
        default="unknown",
        description="a class that no tag of an image speaks of: nothing is known of it, or it is taken as absent",
    )
    validation_share: float = Field(
        default=0.1, ge=0, lt=0.9, description="share of the images that are held out, to judge the localiser by"
    )
    validation_images: int = Field(default=500, ge=1, description="images that are held out, at most")
    group_by: Literal["auto", "none", "folder", "prefix", "digest"] = Field(
        default="auto", description="what stays on one side of the split, see data.group_by of train_student.py"
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="training processes; auto: one a GPU, else one (the head is small)"
    )
    seed: int = Field(default=0, ge=0, description="of the split, the order and the weights")
    restart: bool = Field(default=False, description="forget the training at --output, but not the features")
    checkpoint_every_steps: int = Field(default=200, ge=1, description="steps between checkpoints: what a kill costs")
    log_every_steps: int = Field(default=20, ge=1, description="steps that one point of the curves is the mean of")
    network: NetworkConfig = NetworkConfig()
    pooling: PoolingConfig = PoolingConfig()
    optim: OptimConfig = OptimConfig()
    execution: TrainExecutionConfig = TrainExecutionConfig()
    tracking: TrackingConfig = TrackingConfig()
