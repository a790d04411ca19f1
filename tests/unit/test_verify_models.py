"""verify_models: the pocket models see what they should, random models do not."""

from pathlib import Path

import pytest
from small_models import write_clip, write_sam

from pipelines.verify_models import main


def test_random_weights_are_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, sam = write_clip(tmp_path / "clip"), write_sam(tmp_path / "sam")
    assert main(["--clip", str(clip), "--sam", str(sam), "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("FAIL  CLIP") for line in lines) >= 4
    assert sum(line.startswith("FAIL  SAM") for line in lines) >= 3


def test_a_reference_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clip", "/nowhere", "--sam", ""]) == 1
    assert "/nowhere" in capsys.readouterr().err


def test_the_pocket_models_see_what_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 0, capsys.readouterr().out
