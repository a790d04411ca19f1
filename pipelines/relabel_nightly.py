"""Label what changed since last night, show what that changed, and publish it only if it is no worse.

    python pipelines/relabel_nightly.py --config night.yaml
    python pipelines/relabel_nightly.py --config night.yaml --dry-run
    python pipelines/relabel_nightly.py --config night.yaml --publish-anyway "the new camera, looked at by hand"
    ray job submit --working-dir . -- python pipelines/relabel_nightly.py --config /shared/night.yaml

The config is that of label_corpus.py, with the sections gold, gate, lock, retrain and keep. Photographs are known by
their content: new and changed ones are observed, vanished ones lose their label, and where classes, prompts, models,
settings or weak labels changed, only what depends on them is done again. What the gate refuses is kept as a candidate
under the run's name and the published snapshot stays; snapshots.py lists, compares, publishes and rolls back.

The last line on stdout is one JSON object with `outcome`: published, published anyway, refused or unchanged. Exit
codes: 0 the published snapshot is up to date; 1 the run failed, or failed on some image; 2 bad usage; 3 the budget was
used up; 4 the gate refused the labels; 5 another run is at work on this output; 130 and 143 stopped by SIGINT and
SIGTERM.
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
from pipelines.nightly.config import NightlyConfig

EXIT_FAILED, EXIT_USAGE, EXIT_HELD = 1, 2, 5


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(NightlyConfig, argv, prog="relabel_nightly.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.lock import Held
    from pipelines.nightly.job import relabel_nightly

    try:
        outcome = relabel_nightly(config)
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
        return end_stopped(error.exit_code)
    end_ray()
    if outcome.summary is not None:
        print(json.dumps(outcome.summary), flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
