"""A student as a model of MLflow. Only `pipelines.tracking` calls this, in its own thread."""

import contextlib
from pathlib import Path
from typing import Any


def log_student(
    client: Any,
    tracking_uri: str,
    run_id: str,
    folder: Path,
    onnx: Path,
    example: Any,
    register: str | None,
    description: str,
) -> dict[str, str]:
    """Log the ONNX file with a signature, and the files of `folder` beside it; returns tags for the run.

    example: float32 [B, 3, H, W]. register: a name in the registry, where this becomes the newest version.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from onnx import load

    signature = ModelSignature(_tensor("images", example), _tensor("logits", _run(onnx, example)))
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        logged = mlflow.onnx.log_model(
            load(str(onnx)),
            name="student",
            signature=signature,
            pip_requirements=["onnxruntime"],
            save_as_external_data=False,
        )
    # Our own jobs load a student from its card and weights; they ask the registry for the same folder.
    client.log_model_artifacts(logged.model_id, str(folder))
    tags = {"model_uri": str(logged.model_uri)}
    if register:
        with contextlib.suppress(mlflow.MlflowException):  # it is there already
            client.create_registered_model(register)
        version = client.create_model_version(
            register, logged.model_uri, run_id, description=description, model_id=logged.model_id
        )
        tags["registered"] = f"models:/{register}/{version.version}"
    return tags


def _tensor(name: str, example: Any) -> Any:
    """MLflow's schema of pictures or maps like `example`, [B, C, H, W], of which only C is fixed."""
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(example.dtype, (-1, example.shape[1], -1, -1), name)])


def _run(path: Path, images: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]
