"""Students as ONNX files: any batch and any size, the same logits as PyTorch."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from models.students import onnx as exporting
from models.students.build import build_student
from models.students.config import StudentConfig
from models.students.onnx import OnnxMismatch, export_onnx
from models.students.student import Student
from tests.conftest import require


@pytest.fixture(autouse=True)
def packages() -> None:
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    require("onnx", not missing, f"ONNX export needs {', '.join(missing)}")


def student(name: str) -> Student:
    """A student whose normalisation and residual branches are not the identity that they begin as."""
    torch.manual_seed(0)
    model = build_student(StudentConfig(name, pretrained=False), 5)  # type: ignore[arg-type]
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
            for tensor in (part.bias, part.running_mean):
                torch.nn.init.uniform_(tensor, -0.5, 0.5)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("name", ["ffnet-xs", "lite0", "segformer-b0"])
def test_the_file_takes_any_batch_and_size_and_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    import onnxruntime

    model = student(name)
    difference = export_onnx(model, tmp_path / "student.onnx", 96)
    assert model.training  # left as it was
    assert [file.name for file in tmp_path.iterdir()] == ["student.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    model.eval()
    # none of these shapes is one that the export itself has seen
    for shape in ((1, 3, 128, 128), (5, 3, 70, 45), (2, 3, 33, 200)):
        images = torch.rand(shape)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            wanted = model(images)["logits"].numpy()
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())
    assert 0 <= difference < 1e-4 * max(1.0, np.abs(wanted).max())


def test_a_file_that_differs_is_refused_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)  # even equal logits are too far off
    with pytest.raises(OnnxMismatch, match="differ"):
        export_onnx(student("ffnet-xs"), tmp_path / "student.onnx", 64)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        export_onnx(student("ffnet-xs"), tmp_path / "student.onnx")
