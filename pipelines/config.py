"""The settings of the labeling job: one typed tree, from YAML, then environment, then flags."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, field_validator, model_validator

from models.decide.config import DecideConfig
from models.observe_config import HeatPromptConfig, ObserveConfig, key_fields
from pipelines import config_cli
from pipelines.config_cli import UsageError
from pipelines.config_schema import DURATION

__all__ = ["LabelConfig", "UsageError", "config_digest", "parse"]

Model = TypeVar("Model")
Form = Literal["tags", "points", "scribbles", "boxes", "partial", "noisy", "maps", "captions"]


def _seconds(value: Any) -> Any:
    """ "2h", "30m", "1h30m", "45s", or a number of seconds."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s?)?", value.replace(" ", ""))
    if not match or not any(match.groups()):
        raise ValueError("expected a duration such as 2h, 30m or 1h30m")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))


def _count(value: Any) -> Any:
    """ "200M", "50k", "1_000", or a number."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)", value.replace("_", "").replace(",", ""))
    if not match:
        raise ValueError("expected a whole number such as 1000, 50k or 200M")
    return float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}[match[2]]


Duration = Annotated[float, BeforeValidator(_seconds), DURATION]
Count = Annotated[int, BeforeValidator(_count), "COUNT"]


class Section(BaseModel):
    """Base of all sections: no unknown keys, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImagesConfig(Section):
    """how images are found and read"""

    max_pixels: Count = Field(
        default=200_000_000,
        ge=1,
        description="larger images are refused as decompression bombs, pixels (200M works too)",
    )
    read_threads: int = Field(default=4, ge=1, le=256, description="images that one actor reads and decodes at once")
    column: str | None = Field(
        default=None, description="Parquet: the column with the images (default: found by its type)"
    )
    root: str | None = Field(
        default=None, description="COCO and JSONL: folder or URL that image addresses are relative to"
    )


class TextConfig(Section):
    """what the classes' words say beyond their prompts"""

    descriptions: str | None = Field(
        default=None,
        description="what the classes look like: builtin, a YAML file or URL (class: [texts]), or the address of an "
        "OpenAI-compatible language model, such as http://localhost:8000/v1, which is asked once; none: not used",
    )
    attribute_temperature: float = Field(
        default=0.01, ge=0.0001, le=100, description="how sharply a class picks from the descriptions of all classes"
    )
    attribute_keep: float = Field(
        default=0.9, ge=0, le=1, description="share of the clusters of descriptions, the closest, that a class takes of"
    )
    attribute_clusters: int = Field(
        default=0, ge=0, le=10_000, description="clusters of descriptions; 0: one for every four of them"
    )
    concepts: bool = Field(
        default=False, description="some 170 more background words, without those that speak of a class"
    )
    model: str = Field(default="", description="name of the language model at an address")
    key_variable: str = Field(
        default="OPENAI_API_KEY", min_length=1, description="environment variable that holds the address' key"
    )
    timeout_seconds: float = Field(default=60.0, gt=0, description="how long an answer may take")
    retries: int = Field(default=3, ge=0, le=20, description="how often a question without an answer is asked again")

    @field_validator("descriptions")
    @classmethod
    def _source(cls, value: str | None) -> str | None:
        if value is None or value.strip().lower() in ("", "none"):
            return None
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError("the address holds a password: put the key into an environment variable (key_variable)")
        return value.strip()

    @model_validator(mode="after")
    def _which_model(self) -> "TextConfig":
        if self.is_endpoint and not self.model:
            raise ValueError("the language model at an address needs a name: --text.model")
        return self

    @property
    def is_endpoint(self) -> bool:
        """Whether `descriptions` is the address of a language model."""
        source = (self.descriptions or "").lower()
        return source.startswith(("http://", "https://")) and not source.endswith((".yaml", ".yml", ".json"))


class ExecutionConfig(Section):
    """where and how wide it runs; changes no label"""

    actors: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="observing actors; auto: one a GPU, or one a CPU core"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the models run")
    gpu_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="of a GPU for each actor; 0: what fits them on the GPUs there are. On a cluster that grows from no "
        "GPU, set device to cuda, actors to the most that it may have, and this to 1",
    )
    rows_per_shard: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="images in one evidence file: what a killed run does again; 0: 16 on a CPU, 64 on a GPU",
    )
    batch_images: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="images that an actor hands to its models at once; 0: 4 on a CPU, 16 on a GPU",
    )
    object_store_mb: int = Field(default=512, ge=80, description="Ray's shared memory on this machine, MB")
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    ray_address: str = Field(
        default="", description="an existing Ray cluster (auto, or ray://host:port); default: start one"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="where Prometheus scrapes a cluster that the run starts; 0: a free port"
    )


class ReportConfig(Section):
    """the page to look at"""

    images: int = Field(default=200, ge=0, le=1000, description="photographs shown in report.html, at most")


class TrackingConfig(Section):
    """MLflow"""

    enabled: bool = Field(default=True, description="log the run to MLflow")
    uri: str = Field(default="", description="tracking server; default: MLFLOW_TRACKING_URI, or a local sqlite file")
    experiment: str = Field(default="", description="name of the MLflow experiment; default: the corpus")
    parent: str = Field(default="", description="id of the MLflow run that this one is a part of, such as a search")

    @field_serializer("uri", when_used="json")
    def _without_password(self, uri: str) -> str:
        """All that is written of a config, to files, pages and MLflow, is made from its JSON values."""
        from pipelines.tracking_names import without_password  # not for --help: it imports pyarrow

        return without_password(uri)


class LockConfig(Section):
    """one run at a time on one output"""

    enabled: bool = Field(default=True, description="false: only where something else makes sure of it")
    lease: Duration = Field(
        default=120.0, ge=1, description="how long a killed run keeps others out; renewed while it lives"
    )
    wait: Duration = Field(default=0.0, ge=0, description="how long to wait for another run; 0: give up at once")


class LearnConfig(Section):
    """what a corpus with tags teaches about the looks of its classes"""

    enabled: bool = Field(
        default=True,
        description="fit a linear head on the stored features of tagged images, and decide with it (no GPU needed); "
        "false: nothing is learned",
    )
    use: str | None = Field(
        default=None,
        description="another labeled output; what was learned there last is used as it is; its images must have been "
        "observed in the same way and its classes must be these",
    )
    images: Count = Field(default=4000, ge=1, description="tagged images that it is fitted on, at most")
    min_tagged: int = Field(default=200, ge=1, description="with fewer tagged images nothing is learned")
    min_images: int = Field(default=10, ge=1, description="classes tagged in fewer images keep their text alone")
    growth: float = Field(
        default=0.5,
        ge=0,
        description="fitted anew (and everything decided anew) when there are so much more tagged images than it was "
        "fitted on, as a share",
    )
    seed: int = Field(default=0, ge=0, description="of which images and patches, and in which order")
    reference_images: int = Field(
        default=24,
        ge=1,
        le=200,
        description="decide.reference_weight > 0: images that a class's reference is made of, at most: those of its "
        "tag that are closest to its text; of all images where tags do not say",
    )


class QualityUseConfig(Section):
    """predicted IoU of every label, by what fit_quality.py fitted"""

    use: str = Field(
        default="",
        description="auto: the newest model of the output that fits its classes and CLIP, or none; another output: its "
        "newest, which must fit; empty or none: labels have no prediction. It changes no pixel",
    )

    @field_validator("use")
    @classmethod
    def _off(cls, value: str) -> str:
        word = value.strip()
        return {"none": "", "auto": "auto"}.get(word.lower(), word)


class ChecksConfig(Section):
    """rules of the classes that a label may break, as they are when it is decided; it changes no pixel"""

    enabled: bool = Field(default=True, description="say of every label which rules it breaks (under 0.1 ms each)")
    min_area: float = Field(
        default=0.001, ge=0, le=1, description="classes of a smaller share of the image are not looked at"
    )
    max_lift: float = Field(
        default=0.1,
        ge=0,
        description="two classes are hardly ever in one image if complete tags say so at most so often, against chance",
    )
    min_expected: float = Field(
        default=5.0, ge=0, description="images in which they would have met by chance, before that means anything"
    )


class LabelConfig(Section):
    """Everything that `label_corpus.py` can be told."""

    corpus: str = Field(
        description="where the images are, a path or URL: a folder, Parquet, voc:PATH, coco:FILE.json, a JSONL "
        "manifest, or sample: for the photographs that ship"
    )
    classes: str | list[Any] | dict[str, Any] | None = Field(
        default=None,
        description='what to find: "cat, dog", a YAML or JSON file or URL, or voc, camvid, sample; default: what the '
        "layout brings along",
    )
    output: str = Field(description="folder or URL for tables and report; the same one resumes and updates")
    split: str | None = Field(default=None, description="voc: a name in ImageSets/Segmentation, such as train or val")
    weak: tuple[Form, ...] | None = Field(
        default=None,
        description="weak labels to use; default: all that records carry, and of a VOC or COCO layout, whose "
        "annotation is complete, none; `none` uses none",
    )
    weak_file: str | None = Field(default=None, description="JSONL with weak labels, a line an image, keyed by `path`")
    limit: int | None = Field(default=None, ge=1, description="only the first N images")
    strict: bool = Field(default=False, description="stop at a weak label that cannot be used, instead of listing it")
    dry_run: bool = Field(default=False, description="print plan, counts and estimated cost, and change nothing")
    from_evidence: bool = Field(
        default=False, description="decide only, from evidence that is there; no model sees an image"
    )
    publish_anyway: str | None = Field(
        default=None,
        description="publish again what a rollback took back, and of a night what the gate refuses, for this reason, "
        "which is recorded",
    )
    retry_quarantined: bool = Field(False, description="read again what is in quarantine for good")
    budget: Duration | None = Field(
        default=None, ge=0, description="stop observing after this time (2h, 30m, 90s), and publish what is done"
    )
    budget_images: int | None = Field(default=None, ge=0, description="stop cleanly after observing this many images")
    labelers: tuple[str, ...] = Field(
        default=("clip", "sam"),
        description="what sees the images: clip and sam always, and students that train_student.py made: "
        "clip,sam,student:out/student; and localisers of train_localiser.py: localiser:out/localiser",
    )
    pools: Literal["joint", "split"] = Field(
        default="joint", description="all models in every actor, or a pool for each model"
    )
    images: ImagesConfig = ImagesConfig()
    observe: ObserveConfig = ObserveConfig()
    heat: HeatPromptConfig = HeatPromptConfig()
    text: TextConfig = TextConfig()
    learn: LearnConfig = LearnConfig()
    decide: DecideConfig = DecideConfig()
    quality: QualityUseConfig = QualityUseConfig()
    checks: ChecksConfig = ChecksConfig()
    execution: ExecutionConfig = ExecutionConfig()
    report: ReportConfig = ReportConfig()
    tracking: TrackingConfig = TrackingConfig()
    lock: LockConfig = LockConfig()

    @field_validator("labelers")
    @classmethod
    def _known_labelers(cls, labelers: tuple[str, ...]) -> tuple[str, ...]:
        networks = ("student:", "localiser:")
        others = [name for name in labelers if name not in ("clip", "sam") and not name.startswith(networks)]
        if others:
            raise ValueError(f"{others[0]!r} is no labeler: clip, sam, student:REFERENCE or localiser:REFERENCE")
        if not {"clip", "sam"} <= set(labelers):
            raise ValueError("clip and sam make the evidence that everything is decided on: name both")
        return labelers

    @field_validator("publish_anyway")
    @classmethod
    def _says_why(cls, reason: str | None) -> str | None:
        if reason is not None and not reason.strip():
            raise ValueError("say why: the reason is recorded with the snapshot")
        return reason

    @model_validator(mode="after")
    def _attention_to_add_to(self) -> "LabelConfig":
        clip = self.observe.clip
        if clip.extra_attention and clip.attention in ("auto", "plain"):
            raise ValueError(
                f"observe.clip.extra_attention adds to attention=vv and the like, and observe.clip.attention is "
                f"{clip.attention}: name one (vv, qq, kk, qq+kk+vv)"
            )
        return self

    @property
    def students(self) -> list[str]:
        """References of the students among the labelers."""
        return [name.removeprefix("student:") for name in self.labelers if name.startswith("student:")]

    @property
    def localisers(self) -> list[str]:
        """References of the localisers among them."""
        return [name.removeprefix("localiser:") for name in self.labelers if name.startswith("localiser:")]

    @property
    def budget_seconds(self) -> float | None:
        return self.budget


def parse(
    model: type[Model],
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    prog: str = "maskstream",
    description: str = "",
) -> Model:
    """The config of a job from --config, MASKSTREAM_* variables and flags (argv; None: the process' own).

    `model`: a pydantic model or dataclass whose fields are settings, or such models again (sections). --help prints
    every setting and ends with exit code 0; whatever is wrong is printed, naming the setting and the nearest valid
    one, and ends with exit code 2.
    """
    others = () if model is LabelConfig else (LabelConfig,)
    parsed: Model = config_cli.parse(model, argv, os.environ if env is None else env, prog, description, others)
    return parsed


def config_digest(section: Any) -> str:
    """sha256, hex, of a section's values: equal for equal settings, whatever they came from."""
    values = section.model_dump(mode="json") if isinstance(section, BaseModel) else key_fields(section)
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
