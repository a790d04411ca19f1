"""What the surest share of all pixels is worth: mIoU of labels over the 80 % with the highest confidence.

    python tests/benchmarks/bench_coverage.py --labels out/voc --gold voc:../shared/data/voc --split val
    python tests/benchmarks/bench_coverage.py --labels out/voc-train --gold voc:../shared/data/voc --split train \\
        --without ../shared/data/voc/ImageSets/Segmentation/gold100.txt

One confidence for all images, the highest at which so many judged pixels are kept. Prints one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.metrics import Confusion, coverage_by_level, expand_quarter  # noqa: E402
from pipelines import storage  # noqa: E402
from pipelines.evaluation.cases import open_source  # noqa: E402
from pipelines.evaluation.config import GoldConfig  # noqa: E402
from pipelines.evaluation.gold import read_names  # noqa: E402
from pipelines.evaluation.score import VOC7  # noqa: E402
from pipelines.tables.labels import LabelTable  # noqa: E402
from pipelines.tables.pictures import read_png  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, help="the output folder of label_corpus.py")
    parser.add_argument("--gold", required=True, help="voc:PATH, or a folder of PNG masks")
    parser.add_argument("--split", help="voc: a name in ImageSets/Segmentation")
    parser.add_argument("--without", help="file of names to leave out")
    parser.add_argument("--coverage", type=float, default=0.8)
    options = parser.parse_args()
    source = open_source(options.labels, None, GoldConfig(uri=options.gold, split=options.split))
    assert source.gold is not None
    left_out, matching = set(read_names(options.without)), source.matching
    size = len(matching.names)
    counts = np.zeros((256, size, size + 1), np.int64)  # by level of confidence, gold, label
    table = LabelTable(storage.join(source.output, "labels"))
    images = 0
    for batch in table.newest(["asset", "class_map", "confidence"], version=source.snapshot, batch_rows=64):
        for row in batch.to_pylist():
            name = source.gold.name_of(row["asset"])
            if name is None or Path(row["asset"]).stem in left_out:
                continue
            gold = matching.gold(source.gold.read(name))
            label = matching.label(read_png(row["class_map"]))
            levels = expand_quarter(read_png(row["confidence"]), *gold.shape).astype(np.int64)
            judged = (gold >= 0) & (gold < size)
            given = np.where((label < 0) | (label >= size), size, label)[judged]
            flat = (levels[judged] * size + gold[judged]) * (size + 1) + given
            counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
            images += 1
    coverage = coverage_by_level(counts.sum((1, 2)))
    level = int(np.flatnonzero(coverage >= options.coverage)[-1])
    seven = [matching.names.index(one) for one in VOC7 if one in matching.names]
    result = {"images": images, "confidence": round(level / 255, 3), "coverage": round(float(coverage[level]), 4)}
    for what, part in (("all", counts), ("kept", counts[level:])):
        confusion = Confusion(size)
        confusion.counts = part.sum(0)
        result[what] = {"miou": round(confusion.mean_iou(), 4), "miou_voc7": round(confusion.mean_iou(seven), 4)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
