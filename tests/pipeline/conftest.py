"""Fixtures of the tests that run the job."""

from pathlib import Path

import pytest
from jobs import Job
from small_models import write_clip, write_sam


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    write_sam(folder / "sam")
    return folder


@pytest.fixture
def job(small_models: Path, tmp_path: Path) -> Job:
    return Job(small_models, tmp_path)
