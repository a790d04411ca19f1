"""Label a corpus of photographs: pixel labels with confidence, a quarantine table, a report.

    python pipelines/label_corpus.py --corpus photos/ --classes "cat, dog, person" --output out/photos
    python pipelines/label_corpus.py --corpus voc:VOC2012 --split val --weak tags --output s3://bucket/labels
    ray job submit --working-dir . -- python pipelines/label_corpus.py --config run.yaml

What a rollback (snapshots.py) took back is not published again without --publish-anyway "reason".

The last line on stdout is one JSON object. Exit codes: 0 every readable image has a label in the published snapshot;
1 the run failed, or failed on some image; 2 bad usage; 3 the budget was used up and there is more to do; 5 another
run is at work on this output; 130 and 143 stopped by SIGINT and SIGTERM. The same command always goes on from where
the last one ended.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also as a submitted job on a cluster that has the packages and not the project.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import LabelConfig, UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import end_ray, keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals

EXIT_FAILED, EXIT_USAGE, EXIT_HELD = 1, 2, 5


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(LabelConfig, argv, prog="label_corpus.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.flow.job import label_corpus
    from pipelines.lock import Held

    try:
        outcome = label_corpus(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except Held as error:
        say(f"another run is at work: {error}")
        return EXIT_HELD
    except RunFailed as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: what is done is kept; the same command goes on from here")
        return error.exit_code
    end_ray()
    if outcome.summary is not None:
        print(json.dumps(outcome.summary), flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
