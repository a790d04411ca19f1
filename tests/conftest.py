"""Shared fixtures, and the rule for checks that need something the machine may not have."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def require(name: str, present: bool, reason: str) -> None:
    """Skip with the reason where `name` is absent; fail instead where MASKSTREAM_REQUIRE lists it."""
    if present:
        return
    if name in os.environ.get("MASKSTREAM_REQUIRE", "").split(","):
        pytest.fail(f"MASKSTREAM_REQUIRE asks for {name}, but {reason}")
    pytest.skip(reason)


def require_data() -> Path:
    """Folder of the annotated photographs."""
    require("data", DATA.is_dir(), f"the annotated photographs are not at {DATA}")
    return DATA


def require_chromium() -> str:
    """Path of a Chromium that can run headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require("chromium", path is not None, "no chromium on the PATH (Debian: apt-get install chromium)")
    return str(path)


@pytest.fixture(scope="session")
def data() -> Path:
    return require_data()


@pytest.fixture(scope="session")
def chromium() -> str:
    return require_chromium()
