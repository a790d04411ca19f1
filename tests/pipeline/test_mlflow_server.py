"""The MLflow server of infra/mlflow on a real S3 server: passwords, artifacts, and a job that loses it in mid-run."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
from jobs import ROOT, Finished, Job, label_rows, wait_until, write_crops
from s3_server import S3, free_port, running

PASSWORD = "correct-horse-battery"


@dataclass
class Server:
    """Starts and stops infra/mlflow/serve.sh, keeping its data in `folder`."""

    folder: Path
    s3: S3
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        env = {
            **os.environ,
            **self.s3.env,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_S3_ENDPOINT_URL": self.s3.env["AWS_ENDPOINT_URL"],
            "MLFLOW_ARTIFACTS": "s3://data/mlflow",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_SERVER_PORT": str(self.port),
            "MLFLOW_SERVER_WORKERS": "1",
            "MLFLOW_DATA": str(self.folder),
        }
        self.process = subprocess.Popen(
            [str(ROOT / "infra" / "mlflow" / "serve.sh")],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert wait_until(lambda: self.status("/health") == 200, 240, 0.5), "the MLflow server did not come up"

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
            self.process = None

    def status(self, path: str, password: str | None = None) -> int:
        """HTTP status of a page, 0 where nobody answers."""
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        if password is not None:
            manager.add_password(None, self.uri, "admin", password, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        try:
            return int(opener.open(self.uri + path, timeout=30).status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            return 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "s3").mkdir()
    with running(tmp_path / "s3") as s3:
        found = Server(tmp_path / "server", s3)
        try:
            found.start()
            yield found
        finally:
            found.stop()


def test_a_job_loses_its_server_and_is_uploaded_afterwards(
    job: Job, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert [server.status(api, given) for given in (None, "wrong", PASSWORD)] == [401, 401, 200]
    assert not any(PASSWORD.encode() in file.read_bytes() for file in server.folder.rglob("*") if file.is_file())
    for name, value in (("MLFLOW_TRACKING_USERNAME", "admin"), ("MLFLOW_TRACKING_PASSWORD", PASSWORD)):
        monkeypatch.setenv(name, value)
        job.env[name] = value

    from mlflow import MlflowClient

    client, output = MlflowClient(server.uri), tmp_path / "out"
    names = write_crops(tmp_path / "photos", 6)
    command = job.command("--corpus", tmp_path / "photos", "--classes", "cat, cup", "--output", output)
    tracked = [*command, "--tracking.enabled", "true", "--tracking.uri", server.uri]
    process = subprocess.Popen(
        tracked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=job.env
    )
    try:
        assert wait_until(lambda: runs(client) or process.poll() is not None, every=0.5)
        server.stop()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    done = Finished(process.returncode, out, err)
    assert done.code == 0, done.err[-3000:]
    assert len(label_rows(output)) == len(names) == done.result["labeled"], "the output is complete"
    folder = output / "runs" / done.result["run_id"]
    assert '"labeled": 6.0' in (folder / "metrics.jsonl").read_text()

    server.start()
    (before,) = runs(client)
    assert "labeled" not in before.data.metrics and before.info.status == "RUNNING"
    said = re.search(r"^  python (.*upload\.py .*)$", done.err, re.MULTILINE)
    assert said is not None, done.err
    for uploaded in (1, 0):
        told = subprocess.run(
            [sys.executable, *said[1].split()], env=job.env, capture_output=True, text=True, timeout=120
        )
        assert told.returncode == 0 and f'"uploaded": {uploaded}' in told.stdout, told.stderr
    (after,) = runs(client)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.metrics["labeled"] == 6 and after.data.tags["snapshot"] == str(done.result["snapshot"])
    assert after.data.params["corpus"] == str(tmp_path / "photos")
    assert {"report.html", "overlays"} <= {one.path for one in client.list_artifacts(after.info.run_id)}
    stored = fsspec.filesystem("s3", **server.s3.options, skip_instance_cache=True).find("data/mlflow")
    assert any(path.endswith(f"{after.info.run_id}/artifacts/report.html") for path in stored)


def runs(client: "object") -> list:  # type: ignore[type-arg]
    """Runs of the labeling job that the server knows."""
    from mlflow import MlflowClient

    assert isinstance(client, MlflowClient)
    ids = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(ids, "tags.job = 'label_corpus'"))
