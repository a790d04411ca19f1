"""Make the confidence of labels mean what it says: of pixels at 0.8, eight in ten should be right.

    python tuning/calibrate.py --labels out/photos --gold.uri masks/
    python tuning/calibrate.py --labels out/voc --gold.uri voc:VOC2012 --gold.split train --gold.list gold100.txt
    python pipelines/label_corpus.py --config out/photos/calibrations/.../decide.yaml --corpus ... --output ...

The gold images are decided again from stored evidence, some 20 ms each, and a rising curve is fitted from the
confidence that comes out to the share that is right (--kind isotonic), or one temperature (--kind temperature, which
needs less gold and can mend less). It changes no class of any pixel, and the order of pixels stays.

What it is worth is measured on images that the curve was not fitted on: each of --folds parts of the gold images is
judged by a curve of the others. `calibration_error` is the mean distance of confidence and share of right pixels, 0..1,
over 15 bins, before and after, with the 95 % interval of the gain over images drawn again. The curve that is written is
fitted on all of them. Which pixels are kept (decide.keep_policy) follows the confidence: look at `coverage`.

Left in --output: decide.yaml (for label_corpus.py --config) and result.json. The last line on stdout is one JSON
object. Exit codes: 0 fitted, whether it helps or not; 1 failed; 2 bad usage; 130 and 143 stopped by SIGINT and SIGTERM.
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
from pipelines.label_corpus import EXIT_FAILED, EXIT_USAGE
from tuning.config import CalibrateConfig


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(CalibrateConfig, argv, prog="calibrate.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    try:
        # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
        from tuning.calibration_job import calibrate

        summary = calibrate(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except (RunFailed, ValueError, OSError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: nothing was written; it takes some seconds from the beginning")
        return error.exit_code
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
