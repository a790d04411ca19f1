"""The text export is read back with the codec, and says what the label table says."""

import json
from pathlib import Path

import numpy as np
import pytest
from label_scene import make_scene

from models.codecs.rrle import decode_text
from pipelines import export


@pytest.mark.parametrize("keep", ["all", "row"])
def test_every_line_is_a_label(tmp_path: Path, keep: str) -> None:
    scene = make_scene(tmp_path, {"classes": ["a *b|c", "dog"]})
    out = tmp_path / "text"
    arguments = ["--labels", str(scene.output), "--to", "rrle", "--output", str(out), "--val", "0.5", "--keep", keep]
    assert export.main(arguments) == 0
    lines = [line for split in ("train", "val") for line in (out / f"labels_{split}.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert {row["asset"] for row in rows} == set(scene.maps)
    names = {0: "background", 1: "a *b|c", 2: "dog"}
    for row in rows:
        assert row.keys() == {"asset", "height", "width", "classes", "text"}
        found, truth = decode_text(row["text"], names, (row["height"], row["width"])), scene.maps[row["asset"]]
        known = found != 255
        assert known.all() == (keep == "all") and known.any()
        np.testing.assert_array_equal(found[known], truth[known])
        assert row["classes"] == {names[int(i)]: int(i) for i in np.unique(found[known])}
    assert not list(out.rglob("*.jp*g"))
