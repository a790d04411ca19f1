"""Train a localiser on the image tags of a labeled output: a small network that says where in an image its tags are.

    python pipelines/train_localiser.py --labels out/photos --output out/localiser
    python pipelines/label_corpus.py ... --labelers clip,sam,localiser:out/localiser

Its backbone is a frozen ImageNet network (pip install -e '.[pretrain]'), whose features are computed once an image and
kept in OUTPUT/features; OUTPUT/localiser holds the network (card.json, model.safetensors), which needs no extra. The
last line on stdout is one JSON object: `run_id`, `steps`, `mean_average_precision`, `localiser`, ... Exit codes: 0
trained; 1 failed; 2 bad usage; 130 and 143 stopped by SIGINT and SIGTERM. The same command (without --restart) goes on
where it was stopped, and of a finished training only tells the result.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also as a submitted job on a cluster that has the packages and not the project.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import end_ray, end_stopped, keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals
from pipelines.localising.config import LocaliserTraining

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(LocaliserTraining, argv, prog="train_localiser.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.localising.job import train_localiser

    try:
        summary = train_localiser(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except RunFailed as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: the same command without --restart goes on")
        return end_stopped(error.exit_code)
    end_ray()
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
