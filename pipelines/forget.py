"""Forget images: remove them from an output of label_corpus.py, history included, and leave them out from then on.

    python pipelines/forget.py --output out/photos --asset 2024/jane.jpg --dry-run
    python pipelines/forget.py --output out/photos --asset 2024/jane.jpg,2024/jane-2.jpg
    python pipelines/forget.py --output s3://bucket/labels --uri s3://bucket/photos/2024/jane.jpg --also s3://bucket/coco

Rows go from the manifest, the evidence of every kind, the labels in every snapshot, the quarantine and all other
tables, their logs and statistics included; cards and lines from pages, records from exports, files that are called
after the image, what MLflow is still to be told. Images with the same bytes under other names are the same image, and
are forgotten too. Snapshots keep their numbers and stay readable, without the image.

Then everything is searched again, and what could not be removed is named. What lies outside cannot be reached, and is
listed: students that learned from a snapshot with the image, MLflow's copies, the photograph itself. In the output
stays a keyed hash, from which no name can be read, so that later runs leave the image out while its file is there.

A run that was killed goes on with the same command, or with --output alone. Give every image of a request in one go.

The last line on stdout is one JSON object. Exit codes: 0 nothing is left; 1 something is, and is named; 2 bad usage;
5 another run is at work on this output; 130 and 143 stopped by SIGINT and SIGTERM.
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
from pipelines.forgetting.config import ForgetConfig


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(ForgetConfig, argv, prog="forget.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    from pipelines.forgetting.job import forget
    from pipelines.lock import Held

    try:
        summary = forget(config)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except Held as error:
        say(f"another run is at work: {error}")
        return 5
    except RunFailed as error:
        say(f"error: {error}")
        return 1
    except Interrupted as error:
        say(f"stopped by {error}: the same command goes on from here")
        return error.exit_code
    _tell(summary)
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 0


def _tell(summary: dict[str, object]) -> None:
    removed = summary["removed"]
    assert isinstance(removed, dict)
    verb = "would be removed" if summary["dry_run"] else "removed"
    told = ", ".join(f"{count:,} in {kind}" for kind, count in removed.items()) or "nothing"
    say(f"{summary['images']} images, {verb}: {told}")
    unreachable = summary["unreachable"]
    assert isinstance(unreachable, list)
    say("out of reach:")
    for line in unreachable:
        say(f"  - {line}")


if __name__ == "__main__":
    sys.exit(main())
