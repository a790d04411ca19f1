"""What `forget.py` can be told."""

from pydantic import Field

from pipelines.config import LockConfig, Section


class ForgetConfig(Section):
    """What `forget.py` can be told."""

    output: str = Field(description="the output folder or URL of label_corpus.py")
    asset: tuple[str, ...] = Field(default=(), description="images by their path below the corpus, as tables name them")
    uri: tuple[str, ...] = Field(default=(), description="images by their whole address")
    also: tuple[str, ...] = Field(
        default=(), description="other folders or URLs to remove them from: exports, evaluations, reports elsewhere"
    )
    dry_run: bool = Field(default=False, description="say what would be removed, and change nothing")
    remember: bool = Field(
        default=True, description="leave the images out of later runs too, while their files lie in the corpus"
    )
    tracking_uri: str = Field(
        default="", description="MLflow to ask for copies; default: MLFLOW_TRACKING_URI, or the file beside the output"
    )
    lock: LockConfig = LockConfig()
