"""What `make label` does, with the models that ship: the listed points of the sample photographs are right."""

import json
from pathlib import Path

from jobs import Job, label_rows

from pipelines.classes import ClassSet
from pipelines.stages.decide import read_png

POINTS = json.loads((Path(__file__).parent / "sample_points.json").read_text())


def test_the_listed_points_of_the_sample_photographs_are_right(job: Job, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = job("--corpus", "sample:", "--output", output, models=False)
    assert done.code == 0, done.err[-3000:]
    assert done.result["labeled"] == 9
    rows = label_rows(output)
    classes = ClassSet.load("sample")
    wrong = []
    for asset, points in POINTS.items():
        labels = read_png(rows[asset]["class_map"])
        own = classes.classes[classes.index(points["class"])].id
        wrong += [f"{asset} {x},{y} is not {points['class']}" for x, y in points["on"] if labels[y, x] != own]
        wrong += [f"{asset} {x},{y} is {points['class']}" for x, y in points["off"] if labels[y, x] == own]
    assert not wrong, "\n".join(wrong)
    assert Path(done.result["report"]).stat().st_size > 100_000
