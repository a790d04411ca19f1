"""Fixtures of the tests that run the job."""

from pathlib import Path

import pytest
from jobs import Job
from small_models import write_clip, write_sam

# Two files run at a time: a long one that began last would be waited for alone.
LONGEST_FIRST = (
    "test_resume.py", "test_layouts.py", "test_tune_student.py", "test_train_student.py", "test_usage.py",
    "test_tune_labels.py", "test_special_images.py", "test_review_round.py", "test_train_localiser.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    write_sam(folder / "sam")
    return folder


@pytest.fixture
def job(small_models: Path, tmp_path: Path) -> Job:
    return Job(small_models, tmp_path)
