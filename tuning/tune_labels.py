"""Search settings of *decide* that make better labels, from stored evidence and a few gold masks.

    python tuning/tune_labels.py --labels out/voc --gold.uri voc:VOC2012 --gold.split gold100 --trials 100
    python tuning/tune_labels.py --labels out/voc --gold.uri masks/ --objective precision@coverage=0.8 --space mine.yaml
    python tuning/tune_labels.py --labels out/photos --objective agreement
    python pipelines/label_corpus.py --config out/voc/tuning/.../decide.yaml --corpus ... --output ...

No image is read and no model sees one. Objectives: `miou` over all pixels; `miou@coverage=C` and `precision@coverage=C`
over the pixels that the policy keeps, which are to be the share C of all at least (missing ones count as wrong);
`agreement`, for when there is no gold, is WEAKER: it rewards labels that masks alone and text alone would both give and
that stay when the evidence is mirrored, which does not make them right. Two objectives with a comma between give a
front of trade-offs. The first trial is the default: the settings that the labels were made with.

Part of the images is held out (--holdout): the search never sees it, and it says what the winner is worth. A search
that was killed goes on with the same command, and repeats no trial. Left in --output: decide.yaml (for label_corpus.py
--config), result.json, study.journal. One trial at a time (--execution.concurrent 1), a seed gives the same trials; of
several at once, only the first ten, as the later depend on which ended first.

--space FILE.yaml restricts the search:  fields: [mask_weight, mask_top]   ranges: {mask_weight: [0.4, 0.9]}
fixed: {grid_px: 64}.  Fields and ranges: label_corpus.py --help decide.

The last line on stdout is one JSON object. Exit codes: 0 searched, whether the default was beaten or not; 1 failed;
2 bad usage; 130 and 143 stopped by SIGINT and SIGTERM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import end_ray, keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals
from pipelines.label_corpus import EXIT_FAILED, EXIT_USAGE
from tuning.config import TuneLabelsConfig


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(TuneLabelsConfig, argv, prog="tune_labels.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from tuning.labels_job import tune_labels

    try:
        summary = tune_labels(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except (RunFailed, ValueError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: the trials that ended are kept; the same command goes on from here")
        return error.exit_code
    end_ray()
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
