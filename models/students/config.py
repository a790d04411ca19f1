"""What a student and its predictions can be told. Free of torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _option(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with its help text and, for numbers, its inclusive range."""
    metadata: dict[str, Any] = {"help": text}
    if low is not None:
        metadata["range"] = (low, high)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class StudentConfig:
    """Which network a student is."""

    name: Literal["ffnet-xs", "ffnet-s", "ffnet-m", "lite0", "segformer-b0"] = _option(
        "ffnet-s",
        "ffnet-xs, -s, -m: plain residual networks of 0.5, 3 and 11 million parameters; lite0: EfficientNet-Lite0; "
        "segformer-b0: a small transformer.",
    )
    pretrained: bool = _option(
        True,
        "lite0 starts from ImageNet weights (needs the extra `pretrain`), or from random ones; the others have none.",
    )


@dataclass(frozen=True)
class PredictConfig:
    """How a student is run on pictures; changes nothing of the student."""

    size_px: int = _option(0, "Longer side that pictures are resized to; 0: what the student was trained at.", 0, 8192)
    flip: bool = _option(False, "Also average the prediction of the mirrored picture; doubles the time.")
    window_px: int = _option(
        0,
        "Side of a window that slides over the resized picture, its overlaps averaged; for a size_px far above what "
        "the student was trained at. 0: the whole picture at once.",
        0,
        8192,
    )
    window_overlap: float = _option(0.25, "Share of a window that overlaps the next one, at least.", 0.0, 0.75)
    batch_images: int = _option(0, "Pictures of one shape in a forward pass; 0: 4 on the CPU, 32 on a GPU.", 0, 1024)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "Number format of the forward pass; auto: float32 on the CPU, bfloat16 (or float16) on a GPU."
    )
