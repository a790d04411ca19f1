"""Compare two or more runs, students or label snapshots: what was set differently, and what came of it.

    python tuning/compare.py out/voc@2 out/voc@3
    python tuning/compare.py out/voc@2 out/voc@3 --gold.uri voc:VOC2012 --gold.split val
    python tuning/compare.py out/student-0 out/student-1 out/large-0 out/large-1 --page students.html
    python tuning/compare.py 4f0c5e3a... 9b1d77e2... --tracking.uri http://mlflow:5000

The page (one file, no server) shows, in this order: the settings that differ; the numbers, where runs that differ by
their seed alone stand together as mean and spread; classes; coverage against precision (with gold; without it, coverage
by confidence); which class turned into which, pixel by pixel, and the cause; and the images that differ most, one
picture over the other. The first one named is what the others are measured against. With --gold.uri all are judged anew
on the same images; without it, the newest stored evaluation that they have in common is shown. Labels are streamed, and
only images whose label changed are opened.

The last line on stdout is one JSON object: `page`, `numbers` (a JSON file), `groups`, `settings`, `images`,
`changed_pixels`, `metrics`. Exit codes: 0 compared; 1 failed; 2 bad usage; 130 and 143 stopped by a signal.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import keep_stdout_for_results
from pipelines.flow.stop import Interrupted, stop_on_signals
from pipelines.label_corpus import EXIT_FAILED, EXIT_USAGE
from tuning.comparison.config import CompareConfig


def main(argv: Sequence[str] | None = None) -> int:
    stop_on_signals()
    keep_stdout_for_results()
    try:
        code, summary = run(list(sys.argv[1:] if argv is None else argv))
    except Interrupted as error:
        say(f"stopped by {error}: nothing was written")
        return error.exit_code
    if summary is not None:
        print(json.dumps(summary, ensure_ascii=False), flush=True)
    return code


def run(argv: list[str]) -> tuple[int, dict[str, Any] | None]:
    """(exit code, what the last line of stdout says)."""
    config = parse(CompareConfig, with_runs(argv), prog="compare.py", description=__doc__ or "")
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from tuning.comparison.job import compare

    try:
        return 0, compare(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE, None
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return EXIT_FAILED, None


def with_runs(arguments: list[str]) -> list[str]:
    """`A B --flag` is short for `--runs '["A", "B"]' --flag`."""
    count = next((n for n, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return [f"--runs={json.dumps(arguments[:count])}", *arguments[count:]] if count else arguments


if __name__ == "__main__":
    sys.exit(main())
