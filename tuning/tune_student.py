"""Search settings of a training that make a better student.

    python tuning/tune_student.py --labels out/photos --gold.uri masks/ --output out/search --trials 20
    python tuning/tune_student.py --gold.uri camvid/trainannot --gold.images camvid/train --gold.classes camvid \\
        --gold.ignore 11 --student ffnet-xs --data.size_px 160 --optim.steps 400 --output out/search --space mine.yaml
    python tuning/tune_student.py --config train.yaml --output out/search --scheduler pbt --trials 8

Everything that train_student.py takes says what is trained; each trial is such a training, with settings of its own,
and is compared by its validations. The first trial is the training as it was told. So many trials run at once as fit on
the cluster. asha stops poor trials early (Li et al. 2020); pbt puts changed copies of the better ones in their place
at each validation (Jaderberg et al. 2017). --early_stopping.patience ends a trial that gains no more.

By itself a search tries optim.lr, optim.backbone_lr_factor, optim.weight_decay and the losses of the --recipe.
--space FILE.yaml chooses, narrows or adds fields of optim, losses, student and augment, by dotted name:
    fields: [optim.lr, losses.supervised.dice, student.name]
    ranges: {optim.lr: [0.0005, 0.005], student.name: [ffnet-xs, ffnet-s]}
    fixed: {optim.weight_decay: 0.01}

A search that was killed goes on with the same command: trials that ended are not repeated, those under way go on from
their last checkpoint. Left in --output: train.yaml (for train_student.py --config), result.json, and a folder for each
trial, the best of which (--keep) have their student and checkpoints. MLflow has a run for the search, with the best
student as its model, and within it one with curves for each trial.

The last line on stdout is one JSON object. Exit codes: 0 searched; 1 failed; 2 bad usage; 130 and 143 stopped by SIGINT
and SIGTERM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import end_ray, keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals
from pipelines.train_student import EXIT_FAILED, EXIT_USAGE, short_names
from tuning.student_config import TuneStudentConfig


def main(argv: Sequence[str] | None = None) -> int:
    arguments = short_names(list(sys.argv[1:] if argv is None else argv))
    config = parse(TuneStudentConfig, arguments, prog="tune_student.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from tuning.student_job import tune_student

    try:
        summary = tune_student(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except (RunFailed, ValueError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: the trials that ended are kept; the same command goes on from here")
        return error.exit_code
    end_ray()
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
