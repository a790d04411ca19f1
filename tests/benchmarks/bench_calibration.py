"""How many gold masks a calibration of the confidence needs, measured on all photographs that it was not fitted on.

    python tests/benchmarks/bench_calibration.py --labels out/voc-train --gold voc:../shared/data/voc --split train \\
        --from ../shared/data/voc/ImageSets/Segmentation/gold100.txt
    python tests/benchmarks/bench_calibration.py --labels out/bench/ccp --gold out/bench/ccp-gold \\
        --classes out/bench/ccp.yaml

The second one reads what `bench_other_corpora.py ccp --keep out/bench` leaves. What tuning/calibrate.py fits is fitted
on so many images (--images), drawn with each seed among those that --from names (default: all), and the calibration
error is that of the pixels of all images that --from does not name (default: that were not drawn). Prints mean and
standard deviation over seeds, and one JSON object on its last line.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.evaluation.cases import open_source  # noqa: E402
from pipelines.evaluation.config import GoldConfig  # noqa: E402
from pipelines.evaluation.gold import read_names  # noqa: E402
from pipelines.stages.observe import limit_threads  # noqa: E402
from tuning.calibration_job import FITS, count, error_of, through  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, help="the output folder of label_corpus.py")
    parser.add_argument("--snapshot", type=int, help="version of the label table; default: the newest")
    parser.add_argument("--gold", required=True, help="voc:PATH, or a folder of PNG masks")
    parser.add_argument("--split", help="voc: a name in ImageSets/Segmentation")
    parser.add_argument("--classes", help="what the masks' ids mean; default: voc, or the labels'")
    parser.add_argument("--from", dest="fit_list", help="file of names: gold that may be fitted on")
    parser.add_argument("--images", type=int, nargs="+", default=[10, 25, 50, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    limit_threads(1)
    source = open_source(
        options.labels, options.snapshot, GoldConfig(uri=options.gold, split=options.split, classes=options.classes)
    )
    counts, _ = count(source, replace(source.base, confidence_table=()), 10.0)
    names = [Path(row["asset"]).stem for row in source.rows]
    chosen = set(names) if options.fit_list is None else set(read_names(options.fit_list))
    may_fit = np.flatnonzero([name in chosen for name in names])
    result = {}
    for kind, fit in FITS.items():
        for number in options.images:
            before, after = [], []
            for seed in options.seeds:
                drawn = np.random.default_rng(seed).permutation(may_fit)[:number]
                rest = np.setdiff1d(np.arange(len(names)), drawn if options.fit_list is None else may_fit)
                table = fit(*counts[drawn].sum(0))
                before.append(error_of(np.sum([through(one, source.base.confidence_table) for one in counts[rest]], 0)))
                after.append(error_of(np.sum([through(one, table) for one in counts[rest]], 0)))
            row = {"before": mean(before), "after": mean(after), "spread": stdev(after), "judged": len(rest)}
            result[f"{kind} {number}"] = {name: round(value, 4) for name, value in row.items()}
            print(f"{kind:<12} {number:>4} images: {row['before']:.4f} -> {row['after']:.4f} ± {row['spread']:.4f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
