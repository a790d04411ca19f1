"""What each method of the labeler is worth: its labels with the method off, and with it alone, against gold masks.

    python pipelines/ablate.py --labels out/voc --gold.uri voc:VOC2012 --gold.split train --gold.list gold100.txt
    python pipelines/ablate.py --config ablation.yaml --methods masks,regions,head --seeds 0,1,2
    python pipelines/ablate.py --labels out/voc --gold.uri masks/ --methods flip,tiles
    python pipelines/ablate.py --labels out/voc --gold.uri masks/ --methods words,concepts,presence --weak none

Labels are decided again from stored evidence, about 20 ms each; no model sees an image, but for the methods that are
about observing (--observe, or named). `gain` is the mean IoU with a method minus that without it, everything else as
the labels have it; `alone` is its gain on top of text heat and what it builds on. Both with a 95 % interval: the same
images drawn again for both sides (paired bootstrap). What a corpus teaches is fitted once for each seed, on the corpus'
tags and no mask, and shown with its spread; methods of text (descriptions, concepts, templates) leave it as it is.
`--weak none` decides as if nothing were known of the images, `--weak tags` as if no more than their tags were. A method
belongs into the defaults where the interval of its gain lies above zero; the table marks those of which that is not so,
and those that are off and should be on.

The more gold images, the narrower the intervals; choose methods on gold of the training split, and report on another.
A method is one entry in pipelines/ablation/methods.py. Left in --output: ablation.md and ablation.json, of the last
command, and what was decided: a run that was killed goes on with the same command, and a new method costs no more than
itself.

The last line on stdout is one JSON object: `on_unproven` and `off_would_help` name the defaults to think about. Exit
codes: 0 compared, whatever came out; 1 failed; 2 bad usage; 130 and 143 stopped by SIGINT and SIGTERM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.ablation.config import AblateConfig
from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import end_ray, keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = parse(AblateConfig, arguments, prog="ablate.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    try:
        # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
        from pipelines.ablation.job import ablate

        summary = ablate(config, arguments)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except (RunFailed, ValueError, OSError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: what was decided is kept; the same command goes on from here")
        return error.exit_code
    end_ray()
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
