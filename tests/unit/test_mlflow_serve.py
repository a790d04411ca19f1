"""What infra/mlflow/serve.sh refuses before it starts anything."""

import os
import subprocess
from pathlib import Path

import pytest

SERVE = Path(__file__).resolve().parents[2] / "infra" / "mlflow" / "serve.sh"
GOOD = {"MLFLOW_ARTIFACTS": "s3://bucket/mlflow", "MLFLOW_AUTH_ADMIN_PASSWORD": "correct-horse-battery"}


def serve(tmp_path: Path, **env: str) -> tuple[int, str]:
    """With `echo` for MLflow: what would be started is printed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    told = {**plain, "MLFLOW_COMMAND": "echo", "MLFLOW_DATA": str(tmp_path / "data"), **env}
    done = subprocess.run([str(SERVE)], env=told, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"MLFLOW_ARTIFACTS": ""}, "where artifacts go"),
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "MLFLOW_AUTH_ADMIN_PASSWORD is missing"),
        ({"MLFLOW_DATABASE_URL": "postgresql://mlflow:hunter2@db/mlflow"}, "put it in PGPASSWORD"),
        ({"MLFLOW_USERS_URL": "postgresql://mlflow:hunter2@db/users"}, "put it in PGPASSWORD"),
        ({"MLFLOW_SERVER_HOST": "0.0.0.0"}, "is seen from outside"),
    ],
)
def test_what_is_unsafe_or_missing_is_refused(changed: dict[str, str], told: str, tmp_path: Path) -> None:
    code, said = serve(tmp_path, **{**GOOD, **changed})
    assert code != 0 and told in said and "hunter2" not in said
    assert not (tmp_path / "data").exists()


def test_databases_without_a_password_are_taken(tmp_path: Path) -> None:
    urls = {name: f"postgresql://mlflow@db:5432/{name}" for name in ("MLFLOW_DATABASE_URL", "MLFLOW_USERS_URL")}
    assert serve(tmp_path, **GOOD, MLFLOW_USERS_URL=urls["MLFLOW_USERS_URL"])[0] == 0
    code, said = serve(tmp_path, **GOOD, **urls)
    assert code == 0 and f"--backend-store-uri {urls['MLFLOW_DATABASE_URL']}" in said


def test_it_listens_on_loopback_and_writes_no_secret(tmp_path: Path) -> None:
    code, said = serve(tmp_path, **GOOD)
    assert code == 0 and "--host 127.0.0.1" in said and "--artifacts-destination s3://bucket/mlflow" in said
    assert "--app-name basic-auth" in said and GOOD["MLFLOW_AUTH_ADMIN_PASSWORD"] not in said
    (written,) = (tmp_path / "data").iterdir()
    assert GOOD["MLFLOW_AUTH_ADMIN_PASSWORD"] not in written.read_text() and written.stat().st_mode & 0o077 == 0
