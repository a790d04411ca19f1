"""What labels are worth on corpora that no setting was chosen on: CamVid from weak forms, street fashion from tags.

    python tests/benchmarks/bench_other_corpora.py [camvid ccp] [--data ../shared/data] [--keep FOLDER]

Runs the real `pipelines/label_corpus.py` and `pipelines/evaluate.py`. Weak labels are made from the masks with a seed.

    camvid   val, every form alone: one click a class and image, scribbles, boxes, the masks of the frame before (first
             frames of a sequence have none and are left out of that line). Against it, for clicks and scribbles the
             class of the nearest seed in colour and position, for boxes filled boxes (smaller ones on top; the rest is
             the class that is commonest outside of boxes in train), and the old masks as they are
    ccp      the 677 photographs with masks, from their tags alone, the 20 most frequent classes; all others are
             background. Against the centre prior. What the corpus teaches comes from all 1,336 tagged photographs

Prints one JSON object on its last line; the same command goes on where --keep has results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from scipy.spatial import KDTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.metrics import Confusion  # noqa: E402
from pipelines.classes import ClassSet  # noqa: E402
from pipelines.corpus.simulate import map_entry, simulate  # noqa: E402

VOID, CLASSES, TOP = 11, 11, 20
PHOTOGRAPH = ".jpg"
Ids = np.ndarray
Weak = dict[str, Any]


def job(script: str, *flags: object) -> dict[str, Any]:
    """A job in a process of its own; its result line. Ends this process if the job fails."""
    command = [sys.executable, str(ROOT / "pipelines" / script), *map(str, flags), "--tracking.enabled", "false"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}; its messages are above")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def read(path: Path) -> Ids:
    return np.asarray(Image.open(path)).astype(np.int32)


def lines(path: Path, records: dict[str, Weak]) -> Path:
    path.write_text("".join(json.dumps({"path": name, **weak}) + "\n" for name, weak in records.items()))
    return path


class CamVid:
    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data / "camvid", folder
        self.names = {entry.id: entry.name for entry in ClassSet.load("camvid").classes}
        self.frames = sorted(path.name for path in (self.data / "valannot").glob("*.png"))

    def mask(self, name: str) -> Ids:
        mask = read(self.data / "valannot" / name)
        return np.where(mask == VOID, -1, mask)

    def rest(self) -> int:
        """The class that is commonest in train where no box is."""
        counts = np.zeros(CLASSES, np.int64)
        for path in sorted((self.data / "trainannot").glob("*.png"))[::8]:
            mask = read(path)
            counts += np.bincount(mask[mask < VOID], minlength=CLASSES)
        return int(counts.argmax())

    def weak(self, form: str) -> dict[str, Weak]:
        if form == "before":
            pairs = [(a, b) for a, b in pairwise(self.frames) if a.split("_")[0] == b.split("_")[0]]
            return {now: {"maps": [map_entry("noisy", self.mask(before), self.names)]} for before, now in pairs}
        if form == "click":
            return {name: {"points": self.clicks(name)} for name in self.frames}
        return {name: simulate(self.mask(name), self.names, name, [form]) for name in self.frames}

    def clicks(self, name: str) -> list[Weak]:
        """One a class: of all its parts' clicks, that in the largest part."""
        mask, first = self.mask(name), {}
        for point in simulate(mask, self.names, name, ["points"])["points"]:
            first.setdefault(point["class"], point)
        return list(first.values())

    def baseline(self, form: str, name: str, weak: Weak, rest: int) -> Ids:
        ids = {value: key for key, value in self.names.items()}
        picture = np.asarray(Image.open(self.data / "val" / photograph(name)).convert("RGB"), np.float32) / 255
        height, width = picture.shape[:2]
        if form == "before":
            return self.mask(self.frames[self.frames.index(name) - 1])
        if form == "boxes":
            boxes = sorted(weak["boxes"], key=lambda one: -area(one["box"]))
            out = np.full((height, width), rest)
            for one in boxes:
                x0, y0, x1, y1 = (round(value) for value in one["box"])
                out[y0:y1, x0:x1] = ids[one["class"]]
            return out
        seeds = [(one["x"], one["y"], ids[one["class"]]) for one in weak.get("points", [])]
        for one in weak.get("scribbles", []):
            for (xa, ya), (xb, yb) in pairwise(one["xy"]):
                steps = int(max(abs(xb - xa), abs(yb - ya))) + 1
                seeds += [(x, y, ids[one["class"]]) for x, y in np.linspace((xa, ya), (xb, yb), steps)]
        x, y, classes = (np.array(part) for part in zip(*seeds, strict=True))
        place = np.stack(np.mgrid[:height, :width], -1) / max(height, width)
        space = np.concatenate([picture, place], -1).astype(np.float32)
        tree = KDTree(space[np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)])
        return np.asarray(classes[tree.query(space.reshape(-1, 5))[1]].reshape(height, width))

    def measure(self, form: str) -> dict[str, Any]:
        weak = self.weak(form)
        told = {photograph(name): one for name, one in weak.items()}
        file, only = lines(self.folder / f"camvid-{form}.jsonl", told), self.folder / f"camvid-{form}.txt"
        only.write_text("".join(Path(name).stem + "\n" for name in weak))
        output = self.folder / "camvid"
        job(
            "label_corpus.py", "--corpus", self.data / "val", "--classes", "camvid", "--weak-file", file,
            "--output", output, "--report.images", 0,
        )  # fmt: skip
        numbers = job(
            "evaluate.py", "--labels", output, "--gold.uri", self.data / "valannot", "--gold.classes", "camvid",
            "--gold.ignore", VOID, "--gold.list", only, "--baselines", "false",
        )  # fmt: skip
        against, rest = Confusion(CLASSES, VOID), self.rest()
        for name, one in weak.items():
            gold = read(self.data / "valannot" / name)
            against.update(gold, self.baseline(form, name, one, rest))
        kept = numbers["kept"]["miou"]
        return {"images": len(weak), "miou": numbers["miou"], "kept": kept, "baseline": against.mean_iou()}


def photograph(mask: str) -> str:
    return mask.replace(".png", PHOTOGRAPH)


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def street_fashion(data: Path, folder: Path) -> dict[str, Any]:
    data = data / "ccp"
    told = [json.loads(line) for line in (data / "tags.jsonl").read_text().splitlines()]
    counts = Counter(tag for one in told for tag in one["tags"])
    names = [name for name, _ in counts.most_common(TOP)]
    known = (data / "labels.txt").read_text().split("\n")
    table = np.array([names.index(name) + 1 if name in names else 0 for name in known], np.uint8)
    gold = folder / "ccp-gold"
    gold.mkdir(exist_ok=True)
    for path in (data / "pixel-level").glob("*.png"):
        Image.fromarray(table[read(path)]).save(gold / path.name)
    classes = folder / "ccp.yaml"
    classes.write_text(yaml.safe_dump({"classes": [{"id": i + 1, "name": name} for i, name in enumerate(names)]}))
    weak = {}
    for one in told:
        tags = [{"class": name, "present": name in one["tags"]} for name in names]
        weak[one["photo"]] = {"tags": tags, "tags_complete": True}
    file, output = lines(folder / "ccp.jsonl", weak), folder / "ccp"
    done = job(
        "label_corpus.py", "--corpus", data / "photos", "--classes", classes, "--weak-file", file, "--output", output,
        "--report.images", 20,
    )  # fmt: skip
    numbers = job("evaluate.py", "--labels", output, "--gold.uri", gold, "--gold.classes", classes)
    prior = numbers["baselines"]["centre_prior"]["miou"]
    found = {"images": numbers["images"], "miou": numbers["miou"], "kept": numbers["kept"]["miou"], "baseline": prior}
    return {**found, "heat": numbers["baselines"]["heat"]["miou"], "report": done["report"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", default=["camvid", "ccp"], help="which ones (default: both)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="folder for everything that is made; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measures: dict[str, Callable[[], dict[str, Any]]] = {}
        if "camvid" in options.corpora:
            camvid = CamVid(options.data, folder)
            for form in ("click", "scribbles", "boxes", "before"):
                measures[f"camvid {form}"] = lambda form=form: camvid.measure(form)
        if "ccp" in options.corpora:
            measures["ccp tags"] = lambda: street_fashion(options.data, folder)
        result = {}
        for name, measure in measures.items():
            kept = folder / f"{name.replace(' ', '-')}.json"
            if not kept.exists():
                kept.write_text(json.dumps(measure()))
            row = result[name] = json.loads(kept.read_text())
            print(
                f"{name:<18} mIoU {row['miou']:.3f}, kept {row['kept']:.3f}; baseline {row['baseline']:.3f}", flush=True
            )
        print(json.dumps(result))


if __name__ == "__main__":
    main()
