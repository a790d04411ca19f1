"""Train a small segmentation network on a label snapshot, on drawn masks, or on both.

    python pipelines/train_student.py --labels out/photos --output out/student
    python pipelines/train_student.py --labels out/voc --output s3://bucket/student --student ffnet-s --register voc
    python pipelines/train_student.py --gold.uri camvid/trainannot --gold.images camvid/train --gold.classes camvid \\
        --gold.every 8 --gold.rest-unlabeled --recipe semi_supervised --output out/semi
    ray job submit --working-dir . -- python pipelines/train_student.py --config /shared/train.yaml

OUTPUT/student holds the network (card.json, model.safetensors) and its ONNX file; `pipelines/predict.py` uses it. The
last line on stdout is one JSON object: `run_id`, `steps`, `miou` (validation), `images_per_second`, `student`, ...
Exit codes: 0 trained; 1 failed; 2 bad usage; 130 and 143 stopped by SIGINT and SIGTERM. The same command (without
--restart) goes on from the last checkpoint, and of a finished training only tells the result.
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
from pipelines.training.config import TrainConfig

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    arguments = short_names(list(sys.argv[1:] if argv is None else argv))
    config = parse(TrainConfig, arguments, prog="train_student.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.training.job import train_student

    try:
        summary = train_student(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except RunFailed as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        command = "the same command without --restart" if config.restart else "the same command"
        say(f"stopped by {error}: {command} goes on from the last checkpoint")
        return end_stopped(error.exit_code)
    end_ray()
    print(json.dumps(summary), flush=True)
    return 0


SHORT = {"--student": "--student.name", "--register": "--register_model"}


def short_names(arguments: list[str]) -> list[str]:
    """--student NAME is short for --student.name NAME, --register NAME for --register_model NAME."""
    split = [argument.partition("=") for argument in arguments]
    return [SHORT.get(name, name) + equals + value for name, equals, value in split]


if __name__ == "__main__":
    sys.exit(main())
