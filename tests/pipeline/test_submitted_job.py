"""A job submitted to a cluster that asks for a token, and what Prometheus sees of it while it runs."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from jobs import ROOT, Job, label_rows, wait_until, write_crops
from prometheus_client.parser import text_string_to_metric_families
from s3_server import free_port

IMAGES = 20
RAY = str(Path(sys.executable).parent / "ray")
Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass
class Cluster:
    """address: of the dashboard; metrics: where the node is scraped; env: of whoever has the token."""

    address: str
    metrics: str
    env: dict[str, str]

    def ray_job(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        command = [RAY, "job", arguments[0], "--address", self.address, *arguments[1:]]
        return subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=300, cwd=ROOT)

    def submit(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        for _ in range(5):
            done = self.ray_job("submit", "--working-dir", str(ROOT), "--", *command)
            # The head answers some seconds before its agent can take a job.
            if "No available agent" not in done.stdout + done.stderr:
                break
            time.sleep(2)
        return done

    def status(self, **headers: str) -> int:
        """What the dashboard's list of jobs answers."""
        try:
            with urlopen(Request(f"{self.address}/api/jobs/", headers=headers), timeout=30) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def cluster(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, temporary = tmp_path_factory.mktemp("cluster"), Path(f"/tmp/ms-{os.getpid()}")
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    env = {
        **Job(small_models, folder).env,
        "RAY_TMPDIR": str(temporary),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_metrics_report_interval_ms": "1000",
        # On 127.0.0.1, all of it.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # The job's `python` is the one that the head finds first.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    port, dashboard, metrics, agent = free_port(), free_port(), free_port(), free_port()
    head = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", f"--port={port}",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", f"--temp-dir={temporary}",
            "--object-store-memory=300000000", "--disable-usage-stats",
        ],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    found = Cluster(f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics", env)
    try:

        def up() -> bool:
            with contextlib.suppress(OSError):
                return found.status(Authorization=f"Bearer {token.read_text()}") == 200
            return False

        assert wait_until(up, 90, 0.5), "the head did not come up"
        yield found
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def test_without_the_token_nothing_is_told_and_nothing_starts(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.status() == 401
    assert cluster.status(Authorization="Bearer wrong") == 403
    wrong, ran = tmp_path / "wrong", tmp_path / "ran"
    wrong.write_text(secrets.token_hex(32))
    refused = cluster.ray_job("submit", "--", "touch", str(ran), RAY_AUTH_TOKEN_PATH=str(wrong))
    assert refused.returncode != 0 and "token" in refused.stdout + refused.stderr
    assert not ran.exists()


@dataclass
class Scraper:
    """Scrapes as Prometheus does; a node answers one at a time. highest: of every sample, its greatest value so far."""

    url: str
    highest: dict[Sample, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Scraper":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(2):
            with contextlib.suppress(OSError):
                self.scrape()

    def scrape(self) -> None:
        with urlopen(self.url, timeout=10) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                self.highest[key] = max(sample.value, self.highest.get(key, sample.value))

    def names(self) -> set[str]:
        return {name for name, _ in self.highest}

    def value(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` that have `labels`."""
        return sum(value for (n, has), value in self.highest.items() if n == name and set(labels.items()) <= has)


def test_a_submitted_night_labels_and_tells_prometheus(cluster: Cluster, job: Job, tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_crops(photos, IMAGES)
    (photos / "broken.jpg").write_bytes(b"no image")
    command = job.command("--corpus", photos, "--classes", "cat, person, cup", "--output", output)
    command[:2] = ["python", "pipelines/relabel_nightly.py"]
    with Scraper(cluster.metrics) as seen:
        done = cluster.submit([*command, "--execution.rows_per_shard", "4"])
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        seen.scrape()
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"run_id"')]
    told = json.loads(line)
    assert (told["outcome"], told["labeled"], told["quarantined"]) == ("published", IMAGES, 1)
    assert len(label_rows(output, ["asset"])) == IMAGES

    assert seen.value("ray_maskstream_images_total", step="observe", outcome="done") == IMAGES
    assert seen.value("ray_maskstream_images_total", step="observe", outcome="quarantined") == 1
    assert seen.value("ray_maskstream_images_total", step="decide", outcome="done") == IMAGES
    assert seen.value("ray_maskstream_corpus_images", state="wanted") == IMAGES + 1
    assert seen.value("ray_maskstream_corpus_images", state="evidence_reused") == 0
    assert seen.value("ray_maskstream_actor_busy_seconds_total", step="observe") > 0
    assert seen.value("ray_maskstream_actors", step="observe") >= 1
    board = (ROOT / "infra/monitoring/grafana/boards/maskstream.json").read_text()
    shown = set(re.findall(r"\bray_\w+", board))
    absent = shown - seen.names() - {"ray_node_gpus_utilization"}  # which only nodes with a GPU have
    assert not absent, f"the board asks for what was never there: {absent}"
