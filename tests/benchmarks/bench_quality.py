"""What predicted quality is worth on photographs that the model never saw: the promise, the interval, the ranking.

    python pipelines/fit_quality.py --labels out/voc-train --gold.uri voc:../shared/data/voc --gold.split train \\
        --gold.list ../shared/data/voc/ImageSets/Segmentation/gold100.txt
    python tests/benchmarks/bench_quality.py --labels out/voc-train --gold voc:../shared/data/voc --split train \\
        --without ../shared/data/voc/ImageSets/Segmentation/gold100.txt

Decides every photograph with gold that --without does not name as its label was decided, predicts its mean IoU with the
newest model of --model (default: --labels), and compares with the masks. Prints one JSON object on its last line.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.quality.features import ENTROPY_MEAN  # noqa: E402
from pipelines import storage  # noqa: E402
from pipelines.evaluation.cases import open_source  # noqa: E402
from pipelines.evaluation.config import GoldConfig  # noqa: E402
from pipelines.evaluation.gold import read_names  # noqa: E402
from pipelines.quality.cards import cards, load  # noqa: E402
from pipelines.quality.records import collect  # noqa: E402
from pipelines.quality.report import groups_of, kept_mean, within  # noqa: E402
from pipelines.stages.observe import limit_threads  # noqa: E402

REFUSED = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, help="the output folder of label_corpus.py")
    parser.add_argument("--model", help="the output folder of fit_quality.py; default: --labels")
    parser.add_argument("--gold", required=True, help="voc:PATH, or a folder of PNG masks")
    parser.add_argument("--split", help="voc: a name in ImageSets/Segmentation")
    parser.add_argument("--classes", help="what the masks' ids mean; default: voc, or the labels'")
    parser.add_argument("--without", help="file of names: what the model was fitted on")
    options = parser.parse_args()
    limit_threads(1)
    folder = storage.absolute(options.model or options.labels)
    card = cards(folder)[0]
    predictor = load(folder, card.digest)
    source = open_source(
        options.labels, None, GoldConfig(uri=options.gold, split=options.split, classes=options.classes)
    )
    seen = set(read_names(options.without))
    source = replace(source, rows=tuple(row for row in source.rows if Path(row["asset"]).stem not in seen))
    records = collect(source, ["run"], predictor.basis, predictor.model.config.folds, 10.0)
    told, truth = predictor.model.predict(records.features[0]), records.truth[0]
    predicted, low, high = told.astype(np.float64).T
    entropy = -records.features[0, :, ENTROPY_MEAN].astype(np.float64)
    bad, accepted = truth < card.bad_below, predicted >= predictor.threshold
    groups = groups_of(records.main, range(len(truth)))
    result = {
        "images": len(truth),
        "miou": truth.mean(),
        "bad": bad.mean(),
        "promised": card.risk,
        "accepted": accepted.mean(),
        "accepted_and_bad": (accepted & bad).mean(),
        "miou_of_accepted": truth[accepted].mean(),
        "interval_holds": ((low <= truth) & (truth <= high)).mean(),
        "rank_within_class": within(predicted[None], truth[None], groups),
        "rank_within_class_entropy": within(entropy[None], truth[None], groups),
        "kept": kept_mean(predicted[None], truth[None], REFUSED),
        "kept_entropy": kept_mean(entropy[None], truth[None], REFUSED),
    }
    print(json.dumps({name: round(float(value), 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
