"""A student as an ONNX file: any batch, any size, checked against PyTorch.

import onnxruntime
session = onnxruntime.InferenceSession("student.onnx")
(logits,) = session.run(["logits"], {"images": images})   # float32 [B, 3, H, W] in 0..1 -> [B, C, H/4, W/4]
"""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.students.student import Student

OPSET = 18
TOLERANCE = 1e-4  # of the largest logit


class OnnxMismatch(RuntimeError):
    """The exported file gives other logits than the student."""


class _Logits(nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)["logits"]


def export_onnx(student: Student, path: str | Path, size: int = 352) -> float:
    """Write `path`, one file with the weights inside: input "images" [batch, 3, height, width], output "logits".

    The student itself is left as it is; a copy in evaluation mode and float32 on the CPU is exported.

    Args:
        size: side in px of the square picture that it is checked at, beside smaller, larger, wide, tall and odd ones.

    Returns:
        The largest absolute difference of any logit from PyTorch's, over all batches and sizes checked.

    Raises:
        ImportError: onnx or onnxruntime is missing; the message names the extra.
        OnnxMismatch: that difference is above 1e-4 of the largest logit. The file is then removed.
    """
    _require_packages()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = _Logits(copy.deepcopy(student)).eval().float().cpu()
    _write(model, path)
    difference, scale = compare(model, path, size)
    if not difference <= TOLERANCE * scale:
        path.unlink()
        raise OnnxMismatch(f"the ONNX logits differ from PyTorch's by {difference:.3g}, and are at most {scale:.3g}")
    return difference


def _write(model: nn.Module, path: Path) -> None:
    # No dimension is 1, none is like another, none goes without padding: a trace would take that for a rule.
    example = torch.rand(2, 3, 90, 150)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch", 2: "rows", 3: "columns"}}
    with warnings.catch_warnings():
        # of the trace, which the comparison makes up for, and of newer exporters
        warnings.simplefilter("ignore")
        # dynamo=True gives the same logits, takes 15 to 30 times as long, and leaves batch norm unfolded.
        torch.onnx.export(
            model,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def compare(model: nn.Module, path: Path, size: int) -> tuple[float, float]:
    """(largest absolute difference, largest absolute logit) over several batches and sizes of random pictures."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    difference = scale = 0.0
    for images in _pictures(size):
        (found,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            wanted = model(images).numpy()
        if found.shape != wanted.shape:
            raise OnnxMismatch(f"{tuple(images.shape)} gives {found.shape} in ONNX and {wanted.shape} in PyTorch")
        difference = max(difference, float(np.abs(found - wanted).max()))
        scale = max(scale, float(np.abs(wanted).max()))
    return difference, scale


def _pictures(size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, size, size), (3, size // 2, size), (2, size, size * 3 // 4 + 1), (1, 97, 61), (4, 64, 64))
    for batch, height, width in shapes:
        yield torch.rand(batch, 3, height, width, generator=generator)


def _require_packages() -> None:
    for name in ("onnx", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f"ONNX export needs {name}: pip install {name}") from error
