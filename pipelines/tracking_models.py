"""Models of MLflow: students go in, registered versions come out as local folders."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.tracking_names import SQLITE, without_password
from pipelines.tracking_store import connect


def log_student(
    client: Any, tracking_uri: str, run_id: str, folder: Path, side_px: int, register: str | None, description: str
) -> dict[str, str]:
    """Log a student's ONNX file with a signature, and the files beside it; returns tags for the run.

    folder: its own. side_px: of the example picture. register: a name in the registry, where this becomes
    the newest version.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from onnx import load

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    onnx = folder / "student.onnx"
    example = np.zeros((1, 3, side_px, side_px), np.float32)
    signature = ModelSignature(_tensor("images", example), _tensor("logits", _run(onnx, example)))
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
        version = create_version(client, register, str(logged.model_uri), run_id, logged.model_id, description)
        tags["registered"] = f"models:/{register}/{version}"
    return tags


def create_version(
    client: Any, name: str, source: str, run_id: str, model_id: str | None = None, description: str = ""
) -> str:
    """A new version of a registered model, which is created where it is not there yet."""
    import mlflow

    with contextlib.suppress(mlflow.MlflowException):  # it is there already
        client.create_registered_model(name)
    version = client.create_model_version(name, source, run_id, description=description, model_id=model_id)
    return str(version.version)


@contextlib.contextmanager
def local(address: str) -> Iterator[Path]:
    """A folder or URL as a folder, downloaded while it is used if it is not a local one."""
    if "://" not in address:
        yield Path(address)
        return
    fs, path = storage.filesystem(address)
    with tempfile.TemporaryDirectory() as scratch:
        for file in storage.list_files(address):
            name = file.rpartition("/")[2]
            fs.get_file(f"{path}/{name}", f"{scratch}/{name}")
        yield Path(scratch)


def _tensor(name: str, example: Any) -> Any:
    """MLflow's schema of pictures or maps like `example`, [B, C, H, W], of which only C is fixed."""
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(example.dtype, (-1, example.shape[1], -1, -1), name)])


def _run(path: Path, images: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def registry_address(uri: str = "") -> str:
    """The registry that `models:/` means: `uri`, or MLFLOW_TRACKING_URI. Raises FileNotFoundError where none is."""
    tracking_uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    file = Path(tracking_uri.removeprefix(SQLITE))
    if not tracking_uri or (tracking_uri.startswith(SQLITE) and not file.is_file()):
        raise FileNotFoundError(f"there is no MLflow registry at {without_password(tracking_uri) or 'no address'}")
    return tracking_uri


def fetch_model(reference: str, cache: Path, uri: str = "") -> Path:
    """Local folder of a registered model, `models:/NAME@ALIAS` or `models:/NAME/VERSION`. MLflow's errors pass through.

    uri: of the registry, as `choose_store` gives it for a job's output; default: MLFLOW_TRACKING_URI.

    A version never changes, so each is downloaded once: to `cache`, under the registry's address, name and version.
    """
    tracking_uri = registry_address(uri)
    client = connect(tracking_uri)
    from mlflow.artifacts import download_artifacts

    name, alias, last = reference.removeprefix("models:/").rpartition("@")
    if alias:
        version = client.get_model_version_by_alias(name, last).version
    else:
        name, _, version = reference.removeprefix("models:/").rpartition("/")
    identity = hashlib.sha256(f"{tracking_uri}\0{name}\0{version}".encode()).hexdigest()[:16]
    target = cache / identity / "model"
    if not target.exists():
        source = client.get_model_version_download_uri(name, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            found = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=tracking_uri)
            with contextlib.suppress(OSError):  # another process was quicker
                Path(found).rename(target)
    return target
