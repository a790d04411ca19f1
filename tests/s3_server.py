"""A real S3 server (SeaweedFS) for tests."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec

START_S = 60.0


@dataclass
class S3:
    """A server on this machine. env: what a process needs to reach its bucket `data`."""

    env: dict[str, str]

    @property
    def options(self) -> dict[str, object]:
        return {
            "key": self.env["AWS_ACCESS_KEY_ID"],
            "secret": self.env["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": self.env["AWS_ENDPOINT_URL"],
        }

    def answers(self) -> bool:
        try:
            return bool(fsspec.filesystem("s3", **self.options, skip_instance_cache=True).exists("data"))
        except Exception:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[S3]:
    """The server, keeping its data in `folder`, for as long as the block lasts."""
    port = free_port()
    env = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    ports = {name: free_port() for name in ("master", "volume", "filer")}
    server = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-s3.port={port}", "-webdav=false", "-admin.ui=false", "-bucket=data",
            *(f"-{name}.port={number}" for name, number in ports.items()),
        ],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found, end = S3(env), time.monotonic() + START_S
        while not found.answers():
            assert time.monotonic() < end, "the S3 server did not come up"
            time.sleep(0.5)
        yield found
    finally:
        # Asked to stop, it waits for connections that clients still hold: on a busy machine, longer than a test may.
        server.kill()
        server.wait()
