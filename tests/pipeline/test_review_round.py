"""A person's corrections survive a relabel with other settings: labels out to Label Studio, and back for good."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Job, label_rows, write_crops
from label_studio_sdk.converter import brush

from models.decide.types import PROVENANCE
from pipelines import review
from pipelines.tables.pictures import read_png


def corrected(tasks: list[dict[str, Any]], maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put an annotation into every task but the last: a cup in the middle, and nothing else in the top rows."""
    wanted = {}
    for task in tasks[:-1]:
        asset = task["data"]["asset"]
        ids = maps[asset].astype(int).copy()
        ids[:6] = 0
        ids[20:36, 15:40] = 3
        wanted[asset] = ids
        size = {"original_height": ids.shape[0], "original_width": ids.shape[1]}
        results = []
        for class_id, name in enumerate(("cat", "person", "cup"), 1):
            rle = brush.mask2rle((ids == class_id).astype(np.uint8) * 255)
            value = {"format": "rle", "rle": rle, "brushlabels": [name]}
            results.append({"type": "brushlabels", "from_name": "label", **size, "value": value})
        task["annotations"] = [{"completed_by": 1, "updated_at": "2026-11-01T10:00:00Z", "result": results}]
    return wanted


def test_no_relabel_overwrites_what_people_said(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_crops(tmp_path / "photos", 6)
    output, folder = tmp_path / "out", tmp_path / "review"
    arguments = ("--corpus", tmp_path / "photos", "--classes", "cat, person, cup", "--output", output)
    first = job(*arguments)
    assert first.code == 0, first.err[-3000:]
    before = label_rows(output)
    maps = {asset: read_png(row["class_map"]) for asset, row in before.items()}

    sent = ["export", "--labels", output, "--to", "label-studio", "--budget", 4, "--output", folder]
    sent += ["--min_area_px", 1]  # The person below draws specks too, as if they had been shown.
    assert review.main([str(a) for a in sent]) == 0
    tasks = json.loads((folder / "tasks.json").read_text())
    wanted = corrected(tasks, maps)
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    assert review.main(["import", "--review", str(folder), "--file", str(tmp_path / "back.json")]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    said = {asset: ids != maps[asset] for asset, ids in wanted.items() if (ids != maps[asset]).any()}
    assert found["corrections"] == len(said) == 3 and found["pixels"] == sum(mask.sum() for mask in said.values())

    # Other settings give another label everywhere, and no image is seen again.
    second = job(*arguments, "--decide.background_threshold", "0.6", "--from-evidence")
    assert second.code == 0, second.err[-3000:]
    assert (second.result["observed"], second.result["labeled"]) == (0, 6)
    after = label_rows(output)
    for asset, mask in said.items():
        np.testing.assert_array_equal(read_png(after[asset]["class_map"])[mask], wanted[asset][mask])
        assert PROVENANCE.index("human") in read_png(after[asset]["provenance"])
    details = json.loads((output / "runs" / second.result["run_id"] / "summary.json").read_text())
    assert (details["corrected_by_people"], details["stale_corrections"]) == (3, [])
