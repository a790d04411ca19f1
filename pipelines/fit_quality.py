"""Learn from some gold masks how good a label is that nobody judged: its mean IoU, with an interval.

    python pipelines/fit_quality.py --labels out/voc --gold.uri voc:VOC2012 --gold.split train --gold.list gold100.txt
    python pipelines/label_corpus.py --config run.yaml --quality.use auto

The images with gold are decided again from stored evidence, by several labelers (settings with a part switched off), so
that there are better and worse labels of each; no model sees an image. What is fitted lies at LABELS/learned/quality/
with a card. Labels of runs with `quality.use` then say predicted_miou, its interval, and whether they are accepted:
so that, of all labels, at most a share `risk` is accepted and worse than `bad_below`. That holds for images like those
with gold: a hundred of them are a beginning.

The report judges labelers and images that were left out, and compares with mean entropy, which costs nothing: read its
verdict before you trust the numbers.

The last line on stdout is one JSON object. Exit codes: 0 fitted, whatever it is worth; 1 failed; 2 bad usage; 130 and
143 stopped by SIGINT and SIGTERM.
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
from pipelines.flow.stop import Interrupted, stop_on_signals
from pipelines.quality.config import FitQualityConfig

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(FitQualityConfig, argv, prog="fit_quality.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    try:
        # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
        from pipelines.quality.job import fit_quality

        summary = fit_quality(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: nothing was stored; the same command does it all again")
        return error.exit_code
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
