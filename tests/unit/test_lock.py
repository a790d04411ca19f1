"""One at a time: two that try at once, a holder that is killed, one that comes back too late; on disk and on S3."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3, running

from pipelines import conditional, storage
from pipelines import lock as lock_module
from pipelines.conditional import Conflict
from pipelines.config import LockConfig, UsageError
from pipelines.lock import Held, LockLost, OutputLock, only_run

HOLDER = """
import sys, time
from pipelines.lock import OutputLock
with OutputLock(sys.argv[1], float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(100)
"""
LEASE_S = 1.5
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(params=["disk", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    for name, value in request.getfixturevalue("s3").env.items():
        monkeypatch.setenv(name, value)
    return f"s3://data/{tmp_path.name}"


def holder(output: str, lease_s: float) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, output, str(lease_s)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_of_many_that_write_at_once_one_succeeds(output: str) -> None:
    url = storage.join(output, "file")
    tag = ""
    for turn in range(2):
        won: list[str] = []
        start = threading.Barrier(6)

        def go(data: bytes, tag: str, won: list[str], start: threading.Barrier) -> None:
            start.wait()
            with contextlib.suppress(Conflict):
                won.append(conditional.write(url, data, tag))

        data = [f"{turn} {number}".encode() for number in range(6)]
        threads = [threading.Thread(target=go, args=(one, tag, won, start)) for one in data]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert conditional.read(url)[1] == won[0]
        tag = won[0]


def test_a_second_run_is_refused_or_waits_until_the_first_ends(output: str) -> None:
    with OutputLock(output, 30) as first:
        with pytest.raises(Held, match="holds it"), OutputLock(output, 30):
            pass
        first.confirm()
        threading.Timer(1.0, first.__exit__, (None, None, None)).start()
        started = time.monotonic()
        with OutputLock(output, 30, wait_s=20):
            assert time.monotonic() - started > 0.5


def test_a_killed_holder_keeps_others_out_for_its_lease_only(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = holder(output, LEASE_S)
    try:
        time.sleep(1.2 * LEASE_S)  # It lives, so it renews its lease.
        with pytest.raises(Held), OutputLock(output, LEASE_S):
            pass
        process.kill()
        process.wait()
        # As another machine sees it, which cannot look at the process.
        monkeypatch.setattr(lock_module, "_machine", lambda: "another machine")
        with pytest.raises(Held), OutputLock(output, LEASE_S):
            pass
        with OutputLock(output, LEASE_S, wait_s=10) as second:
            second.confirm()
    finally:
        process.kill()


def test_on_the_machine_of_a_killed_holder_nobody_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(str(tmp_path), 600)
    process.kill()
    process.wait()
    with OutputLock(str(tmp_path), 600):
        assert "taken over" in capsys.readouterr().err


def test_a_holder_that_lives_holds_whatever_becomes_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OutputLock(str(tmp_path), 600):
        # A step of the clock moves the boot time that /proc/stat gives, and with it what psutil says of a start.
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0)
        with pytest.raises(Held, match="holds it"), OutputLock(str(tmp_path), 600):
            pass
        # Another process that was given the same number is not the holder.
        monkeypatch.setattr(lock_module, "_started", lambda pid: 17)
        with OutputLock(str(tmp_path), 600) as second:
            second.confirm()


def test_the_lock_does_not_tell_arguments_which_may_name_what_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pipelines/forget.py", "--asset", "2024/jane.jpg"])
    with OutputLock(str(tmp_path), 600):
        held = (tmp_path / "lock.json").read_text()
    assert "forget.py" in held and "jane" not in held


def test_a_storage_that_cannot_lock_is_refused_only_where_a_lock_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with only_run("memory://out", LockConfig(), required=False) as confirm:
        confirm()
    assert "make sure that nothing else runs" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"--lock.enabled false"), only_run("memory://out", LockConfig()):
        pass


def test_who_was_away_for_longer_than_its_lease_learns_it_before_it_publishes(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OutputLock, "_renew_on", lambda self: None)
    with OutputLock(output, 0.5) as late:
        time.sleep(0.6)
        with OutputLock(output, 30) as quick:
            with pytest.raises(LockLost, match="taken over"):
                late.confirm()
            quick.confirm()
            late.__exit__(None, None, None)
            quick.confirm()  # Who lost the lock does not free it.


def test_a_storage_without_conditions_is_refused() -> None:
    with pytest.raises(conditional.Unsupported), OutputLock("memory://out", 5):
        pass


def test_a_freed_lock_says_who_had_it(tmp_path: Path) -> None:
    with OutputLock(str(tmp_path), 5):
        pass
    record = json.loads((tmp_path / "lock.json").read_text())
    assert record["holder"] is None and record["was"]["pid"]
