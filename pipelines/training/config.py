"""The settings of a training: one typed tree, from YAML, then environment, then flags. Free of torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from models.losses.config import LossesConfig, RecipeName
from models.students.augment import AugmentConfig
from models.students.config import StudentConfig
from pipelines.config import Count, Section, TrackingConfig


class GoldConfig(Section):
    """masks that people drew: to train on, or to validate with"""

    uri: str | None = Field(default=None, description="voc:PATH, or a folder of PNG masks named like the images")
    images: str | None = Field(
        default=None, description="the folder of the photographs; default: voc's JPEGImages, or the masks' own folder"
    )
    split: str | None = Field(default=None, description="voc: a name in ImageSets/Segmentation")
    classes: str | None = Field(
        default=None, description="what the masks' ids mean: voc, camvid, a file or names; default: voc, or the labels'"
    )
    ignore: int = Field(default=255, ge=0, description="id of pixels that say nothing")
    list: str | None = Field(default=None, description="file of image names, a line each: only these")
    every: int = Field(default=1, ge=1, description="only every N-th mask in the order of the names")
    rest_unlabeled: bool = Field(
        default=False, description="the images that --gold.every or --gold.list left out are unlabeled images"
    )
    use: Literal["auto", "train", "validation"] = Field(
        default="auto", description="auto: to validate with where labels are given, else to train on"
    )


class DataConfig(Section):
    """how images and targets become batches"""

    size_px: int = Field(default=256, ge=32, le=4096, description="longer side of the pictures, and side of the crops")
    targets: Literal["labels", "weak"] = Field(
        default="labels", description="weak: what people said (points, scribbles, boxes, partial maps), not the labels"
    )
    keep: Literal["row", "fixed", "all"] = Field(
        default="row",
        description="pixels of a label that count: of at least its keep_threshold, of data.min_confidence, or all",
    )
    min_confidence: float = Field(
        default=0.0, ge=0, le=1, description="data.keep=fixed: confidence of pixels that count"
    )
    confidence_weight: bool = Field(default=True, description="pixels weigh as much as their confidence; false: 1")
    point_radius: float = Field(
        default=0.015, ge=0, le=0.2, description="targets=weak: radius of a point, as a share of the longer side"
    )
    box_fill: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="targets=weak: middle share of each side of a box that is its class; 0: none",
    )
    class_balance: float = Field(
        default=0.5, ge=0, le=1, description="how much more often images of rare classes are seen (0: not; 0.5: root)"
    )
    quality_weight: float = Field(
        default=1.0, ge=0, le=8, description="power of a label's mean confidence in how often its image is seen"
    )
    unlabeled_ratio: float = Field(default=1.0, ge=0, le=16, description="unlabeled images beside each labeled one")
    validation_share: float = Field(
        default=0.1, ge=0, lt=0.9, description="share of the training images that validate; unused with gold validation"
    )
    validation_images: int = Field(default=500, ge=1, description="images that a validation looks at, at most")
    group_by: Literal["auto", "none", "folder", "prefix", "digest"] = Field(
        default="auto",
        description="what stays on one side of the validation split: equal bytes, runs of numbered names (auto: both), "
        "a folder, or single images",
    )
    shuffle_images: int = Field(
        default=4096, ge=1, description="images in a shuffle window; a window reads from few target files"
    )
    cache_mb: int = Field(default=512, ge=0, description="decoded pictures that a reading process keeps, MB")
    max_pixels: Count = Field(default=200_000_000, ge=1, description="larger images are refused, pixels")


class OptimConfig(Section):
    """AdamW, its schedule, and what a step is"""

    steps: Count = Field(default=2000, ge=1, description="optimiser steps")
    batch_images: int = Field(
        default=16, ge=1, description="labeled images in a step, over all workers and accumulated batches"
    )
    accumulate: int = Field(default=1, ge=1, description="batches whose gradients make one step")
    lr: float = Field(
        default=1e-3,
        gt=0,
        description="learning rate of the head, at its highest",
        json_schema_extra={"search": [1e-4, 1e-2], "log": True},
    )
    backbone_lr_factor: float = Field(
        default=1.0,
        ge=0,
        description="the backbone's rate as a share of that; 0: frozen",
        json_schema_extra={"search": [0.05, 1.0], "log": True},
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        description="decoupled decay of weights, not of norms and biases",
        json_schema_extra={"search": [1e-4, 0.1], "log": True},
    )
    warmup_steps: int = Field(default=50, ge=0, description="steps of linear warm-up, a tenth of all at most")
    schedule: Literal["poly", "cosine", "constant"] = Field(default="poly", description="after the warm-up")
    clip_norm: float = Field(default=5.0, ge=0, description="gradients are clipped to this norm; 0: not")
    ema_decay: float = Field(
        default=0.99, ge=0, lt=1, description="running mean of the weights, which is validated and exported; 0: none"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="autocast; auto: float32 on a CPU, bfloat16 on a GPU"
    )


class StoppingConfig(Section):
    """ending before the last step"""

    patience: int = Field(default=0, ge=0, description="stop after so many validations without a gain; 0: never")
    min_gain: float = Field(default=0.001, ge=0, description="what counts as a gain, of mean IoU")


class TrainExecutionConfig(Section):
    """where and how wide it runs"""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the student trains")
    readers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="processes that read, decode and augment"
    )
    max_failures: int = Field(default=3, ge=-1, description="crashes of workers that a run survives; -1: any number")
    object_store_mb: int = Field(default=512, ge=80, description="Ray's shared memory on this machine, MB")
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    ray_address: str = Field(default="", description="an existing Ray cluster; default: start one")


class TrainConfig(Section):
    """Everything that `train_student.py` can be told."""

    output: str = Field(description="folder or URL for the student, checkpoints and numbers; the same one resumes")
    labels: str | None = Field(default=None, description="the output folder or URL of label_corpus.py")
    snapshot: int | None = Field(default=None, ge=0, description="version of the label table; default: the newest")
    exclude: str | None = Field(default=None, description="file of image names, a line each, never to be trained on")
    unlabeled: str | None = Field(default=None, description="corpus of images without labels (see label_corpus.py)")
    unlabeled_split: str | None = Field(default=None, description="voc: the split of --unlabeled")
    recipe: RecipeName = Field(default="supervised", description="what is learned from what (--help losses)")
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="training processes; auto: one a GPU, or one a CPU core and eight at most"
    )
    seed: int = Field(default=0, ge=0, description="of the split, the order, the views and the weights")
    restart: bool = Field(default=False, description="forget what is at --output and train anew")
    register_model: str | None = Field(default=None, description="name in MLflow's model registry")
    teachers: tuple[str, ...] = Field(default=(), description="trained students to learn from, folders or URLs")
    validate_every_steps: int = Field(default=200, ge=1, description="steps between validations")
    checkpoint_every_steps: int = Field(default=100, ge=1, description="steps between checkpoints: what a kill costs")
    log_every_steps: int = Field(default=10, ge=1, description="steps that one point of the curves is the mean of")
    gold: GoldConfig = GoldConfig()
    student: StudentConfig = StudentConfig()
    losses: LossesConfig = LossesConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    early_stopping: StoppingConfig = StoppingConfig()
    execution: TrainExecutionConfig = TrainExecutionConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.labels is None and self.gold.uri is None:
            raise ValueError("nothing to learn from: give --labels OUT, or --gold.uri MASKS, or both")
        if self.labels is None and self.gold.use == "validation":
            raise ValueError("gold.use is validation, so --labels is needed to train on")
        if self.data.targets == "weak" and self.labels is None:
            raise ValueError("data.targets is weak: the weak labels are in a label table, so --labels is needed")
        if self.recipe == "distill" and not self.teachers:
            raise ValueError("the recipe distill learns from frozen models: name them with --teachers")
        if self.recipe == "semi_supervised" and self.losses.semi.ema and not self.optim.ema_decay:
            raise ValueError("losses.semi.ema needs a running mean of the weights: set optim.ema_decay above 0")
        if self.optim.batch_images % self.optim.accumulate:
            raise ValueError(
                f"optim.batch_images {self.optim.batch_images} is not a multiple of optim.accumulate "
                f"{self.optim.accumulate}"
            )
        return self


# What may differ when a training goes on: where it runs and what is told of it, not what is learned.
FREE = ("output", "restart", "register_model", "workers", "execution", "tracking", "snapshot", "checkpoint_every_steps")


def learned_settings(config: Any) -> dict[str, object]:
    """The settings that decide what is learned: they must be the same for a training to go on."""
    values: dict[str, object] = config.model_dump(mode="json")
    return {name: value for name, value in values.items() if name not in FREE}
