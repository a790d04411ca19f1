"""How often each source of the labels is right (text, masks, students, noisy maps, tags), and what it should weigh.

    python pipelines/weigh_sources.py --labels out/voc --gold.uri voc:VOC2012 --gold.split train --gold.list gold100.txt
    python pipelines/weigh_sources.py --labels out/photos
    python pipelines/label_corpus.py --config out/voc/runs/RUN/config.yaml --config out/voc/weights/NAME/weights.yaml

Every source of a sample of images votes, from stored evidence, on pixels, on segments of the mask bank, and on which
classes are in an image; where it is not sure it abstains. A label model (Dawid and Skene, 1979; AutoWS-Bench-101,
NeurIPS 2022) learns from the votes alone who is right how often, and once more with gold where there is some. What it
is worth stands beside what it must be better than: the plain majority vote, a few-shot logistic regression on patch
features from the same gold, and the labels as they are. Everything is judged on gold that it was not fitted on (two
halves, swapped). Without gold, all that can be told is how often each says what the published label says.

Sources that err together are believed too much without gold: text and both readings of the mask bank begin at the same
heat. weights.yaml holds what the accuracies come to as settings of *decide*, and says whether gold was decided better
with them; nothing uses it unless it is given to --config.

Left in --output: weights.yaml, weights.json, weights.md, and what was decided: the same command again gives the same
and is quicker. The last line on stdout is one JSON object. Exit codes: 0 weighed, whatever came out; 1 failed; 2 bad
usage; 130 and 143 stopped by SIGINT and SIGTERM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals
from pipelines.weighing.config import WeighConfig

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = parse(WeighConfig, arguments, prog="weigh_sources.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    try:
        # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
        from pipelines.weighing.job import weigh

        summary = weigh(config, arguments)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except (RunFailed, ValueError, OSError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: the same command begins anew, but for what was decided")
        return error.exit_code
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
