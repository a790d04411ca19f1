"""Show people the labels that are worth a look, and take their corrections in for good.

    python pipelines/review.py export --labels out/photos --to label-studio --budget 50
    python pipelines/review.py import --review out/photos/reviews/... --file project-1.json
    python pipelines/label_corpus.py ...       as before: the corrections count from now on

export chooses images by how mixed and doubtful their regions are (RIPU), how unsure the label is and how much the
sources contradict each other; classes in turn, near-duplicates once. The labels come along as pre-annotations, and
boxes point out the regions. Parts of fewer than --min_area_px pixels are not shown, and stay in the labels as they are.
What is in the folder:

    label-studio  tasks.json (import), label_config.xml (Labeling Interface), images/ (serve them, see --image_url)
    cvat          annotations.xml ("CVAT for images 1.1"), images/
    coco          annotations/instances_default.json, images/
    fiftyone      labels.json and data/ (COCODetectionDataset, label_types="segmentations")
    all           review.json and sent/: what was sent out; import needs both

import compares what comes back with what was sent out. The pixels that a person changed (or vouches for, --accept)
become a partial map with annotator and time in OUTPUT/human, which every later label_corpus.py run paints last: no
relabel overwrites them. They belong to the bytes that the person saw; for other bytes they are kept, listed and not
used. Conflicts with earlier corrections are listed, and the later one counts. The same file twice changes nothing.
Where one of an image's shapes cannot be read, places without any say nothing; forgotten images are left out.

The last line on stdout is one JSON object. Exit codes: 0 done; 1 failed, images were left out, or something in the file
could not be used; 2 bad usage; 5 another run is at work on this output (import); 130 and 143 stopped by SIGINT and
SIGTERM. `review.py export --help` lists all settings.
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
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals
from pipelines.reviewing.config import ReviewExportConfig, ReviewImportConfig

COMMANDS = ("export", "import")


class AtWork(Exception):
    """Another run holds the lock of the output."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else ""
    if command in ("--help", "-h"):
        print(__doc__)
        return 0
    if command not in COMMANDS:
        print(f"review.py: error: say export or import first, not {command!r}; see --help", file=sys.stderr)
        return 2
    stop_on_signals()
    try:
        summary = _export(arguments) if command == "export" else _import(arguments)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except Interrupted as error:
        say(f"stopped by {error}: nothing was changed but files of the review itself")
        return error.exit_code
    except AtWork as error:
        say(f"another run is at work: {error}")
        return 5
    except (OSError, RunFailed) as error:
        say(f"error: {error}")
        return 1
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 1 if summary.get("skipped") or summary.get("problems") else 0


def _export(arguments: Sequence[str]) -> dict[str, Any]:
    config = parse(ReviewExportConfig, arguments, prog="review.py export", description=__doc__ or "")
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.reviewing.sending import send

    summary = send(config)
    say(f"{summary['images']:,} images and {summary['regions']:,} regions to look at: {summary['review']}")
    if specks := summary["specks_left_out"]:
        say(f"{specks:,} parts of fewer than {config.min_area_px} pixels are not shown; --min_area_px 1 shows them too")
    return summary


def _import(arguments: Sequence[str]) -> dict[str, Any]:
    config = parse(ReviewImportConfig, arguments, prog="review.py import", description=__doc__ or "")
    from pipelines.lock import Held
    from pipelines.reviewing.receiving import receive

    try:
        summary = receive(config)
    except Held as error:
        raise AtWork(str(error)) from error
    say(
        f"{summary['corrections']:,} corrections of {summary['images']:,} images, {summary['pixels']:,} pixels, "
        f"{summary['conflicts']:,} conflicts ({summary['listed']}); label_corpus.py uses them from its next run on"
    )
    return summary


if __name__ == "__main__":
    sys.exit(main())
