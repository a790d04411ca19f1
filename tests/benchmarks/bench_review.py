"""What corrections by people are worth: labels, and students of them, before and after; in ranked and in random order.

    python tests/benchmarks/bench_review.py [--budget 50] [--seeds 0 1 2] [--students 0 1 2] [--keep FOLDER]

Labels voc val from its tags, sends `--budget` images out with `pipelines/review.py export --to coco`, draws them as
their true masks say (void pixels stay as they were labeled), imports, and labels again. For the ranked order, and for a
random one by seed:

    pixels        corrected
    seconds       of a person, simulated: 20 s to look through an image (Bearman et al., "What's the point", ECCV 2016)
                  and 79 s for each region of at least 100 pixels that had to be drawn (Lin et al., COCO, ECCV 2014)
    miou          of the labels of all images; gained: against the labels before
    others        of the labels of images that nobody saw: a correction of one image decides nothing in another, so any
                  gain there has to come through a student
    student       with --students: lite0 trained on all labels, by seed; its own mIoU on the images that nobody saw in
                  any of the orders, and the same of a student of the labels before

The same command goes on where --keep has results. Prints one JSON object on its last line.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.tables.labels import LabelTable  # noqa: E402
from pipelines.tables.pictures import read_png  # noqa: E402

LOOK_SECONDS, DRAW_SECONDS, REGION_PX = 20.0, 79.0, 100
VOID = 255


def job(script: str, *flags: object) -> dict[str, Any]:
    """A job in a process of its own; its result line. Ends this process if the job fails."""
    command = [sys.executable, str(ROOT / "pipelines" / script), *map(str, flags)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}; its messages are above")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


class Bench:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.gold = ("--gold.uri", f"voc:{options.data}", "--gold.split", "val")
        self.before = folder / "before"

    def label(self, output: Path) -> None:
        flags = ("--split", "val", "--weak", "tags", "--report.images", 0, "--tracking.enabled", "false")
        job("label_corpus.py", "--corpus", f"voc:{self.options.data}", *flags, "--output", output)

    def evaluate(self, output: Path, without: list[str] | None = None) -> float:
        flags: list[object] = ["--baselines", "false", "--tracking.enabled", "false"]
        if without is not None:
            flags += ["--exclude", self._list(without)]
        return float(job("evaluate.py", "--labels", output, *self.gold, *flags)["miou"])

    def _list(self, assets: list[str]) -> Path:
        file = self.folder / "without.txt"
        file.write_text("\n".join(Path(asset).stem for asset in assets) + "\n")
        return file

    def correct(self, output: Path, order: str, seed: int) -> dict[str, Any]:
        """Send out, draw, take back in, label again."""
        review = output.with_name(output.name + "-review")
        job(
            "review.py", "export", "--labels", output, "--to", "coco", "--budget", self.options.budget,
            "--order", order, "--seed", seed, "--output", review,
        )  # fmt: skip
        sent = json.loads((review / "annotations/instances_default.json").read_text())
        assets = [image["asset"] for image in sent["images"]]
        regions = self._draw(sent, output)
        file = review / "drawn.json"
        file.write_text(json.dumps(sent))
        back = job("review.py", "import", "--review", review, "--file", file, "--annotator", "script",
                   "--empty", "background")  # fmt: skip
        self.label(output)
        seconds = LOOK_SECONDS * len(assets) + DRAW_SECONDS * regions
        return {"assets": assets, "pixels": back["pixels"], "regions": regions, "seconds": seconds}

    def _draw(self, sent: dict[str, Any], output: Path) -> int:
        """Put the true masks into a COCO file; returns how many regions differ from the labels."""
        from pycocotools import mask as coco

        wanted = {image["asset"] for image in sent["images"]}
        batches = LabelTable(str(output / "labels")).newest(["asset", "class_map"])
        labels = {r["asset"]: r["class_map"] for b in batches for r in b.to_pylist() if r["asset"] in wanted}
        regions, sent["annotations"] = 0, []
        for image in sent["images"]:
            label = read_png(labels[image["asset"]])
            true = self.options.data / "SegmentationClassAug" / (Path(image["asset"]).stem + ".png")
            mask = np.asarray(Image.open(true))
            drawn = np.where(mask == VOID, label, mask)
            for class_id in np.unique(drawn[drawn != 0]):
                rle = coco.encode(np.asfortranarray(drawn == class_id, np.uint8))
                shape = {"size": rle["size"], "counts": rle["counts"].decode()}
                number = len(sent["annotations"]) + 1
                sent["annotations"].append(
                    {"id": number, "image_id": image["id"], "category_id": int(class_id), "segmentation": shape}
                )
            for class_id in np.unique(drawn):
                found, count = ndimage.label((drawn == class_id) & (label != class_id))
                regions += int((np.bincount(found.ravel(), minlength=count + 1)[1:] >= REGION_PX).sum())
        return regions

    def student(self, labels: Path, seed: int, without: list[str]) -> float:
        """mIoU of a student of these labels on the images that nobody saw."""
        output = labels.with_name(f"{labels.name}-student-{seed}")
        job(
            "train_student.py", "--labels", labels, "--output", output, "--seed", seed, "--student.name", "lite0",
            "--optim.lr", "3e-3", "--optim.backbone_lr_factor", 0, "--optim.steps", self.options.steps,
            "--optim.batch_images", 16, "--data.size_px", 160, "--data.validation_share", 0, "--workers", 1,
            "--tracking.enabled", "false",
        )  # fmt: skip
        flags = ("--exclude", self._list(without), "--page_images", 0, "--tracking.enabled", "false")
        return float(job("evaluate.py", "--model", output, *self.gold, *flags)["miou"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "voc")
    parser.add_argument("--budget", type=int, default=50, help="images that a person sees")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the random order")
    parser.add_argument("--students", type=int, nargs="*", default=[], help="seeds of students; none: no student")
    parser.add_argument("--steps", type=int, default=300, help="of a student's training, 16 images each")
    parser.add_argument("--keep", type=Path, help="folder for everything; default: a temporary one")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="bench-review-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options, folder)

    def once(name: str, make: Any) -> Any:
        file = folder / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(make()))
        return json.loads(file.read_text())

    def first() -> float:
        bench.label(bench.before)
        return bench.evaluate(bench.before)

    def corrected(name: str, order: str, seed: int) -> dict[str, Any]:
        output = folder / name
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(output.with_name(name + "-review"), ignore_errors=True)
        shutil.copytree(bench.before, output)
        told = bench.correct(output, order, seed)
        sides = {"before": bench.before, "after": output}
        others = {side: bench.evaluate(where, told["assets"]) for side, where in sides.items()}
        return {**told, "miou": bench.evaluate(output), "others": others}

    before = once("miou-before", first)
    arms = [("ranked", "ranked", 0), *((f"random-{seed}", "random", seed) for seed in options.seeds)]
    found = {name: once(f"arm-{name}", lambda a=(name, *rest): corrected(*a)) for name, *rest in arms}
    seen = sorted({asset for told in found.values() for asset in told["assets"]})
    students: dict[str, list[float]] = {}
    for name in ("before", *found) if options.students else ():
        students[name] = [
            once(f"student-{name}-{seed}", lambda a=(folder / name, seed, seen): bench.student(*a))
            for seed in options.students
        ]
    result = {"before": before, "arms": {}, "students_on_unseen": students, "unseen_excludes": len(seen)}
    for name, told in found.items():
        del told["assets"]
        gained = told["miou"] - before
        rates = {"per_megapixel": gained / told["pixels"] * 1e6, "per_hour": gained / told["seconds"] * 3600}
        result["arms"][name] = {**told, "gained": gained, **rates}
    random = [arm["gained"] for name, arm in result["arms"].items() if name != "ranked"]
    result["random_gained"] = {"mean": statistics.mean(random), "sd": statistics.pstdev(random)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
