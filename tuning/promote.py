"""Make a student, or settings of *decide*, the champion of its name in the model registry, if it is better.

    python tuning/promote.py --model drive --run RUN_ID --gate gate.yaml
    python tuning/promote.py --model voc-decide --decide out/voc/tuning/.../decide.yaml
    python tuning/promote.py --model drive --rollback --reason "night images are worse"
    python pipelines/label_corpus.py --config models:/voc-decide@champion --corpus ... --output ...
    python pipelines/label_corpus.py --labelers clip,sam,student:models:/drive@champion ...

The version becomes `challenger`; where the gate opens it becomes `champion`. A gate is a YAML file:

    metric: miou                # the number that counts
    minimum_gain: 0.005         # above the champion's by at least this; below 0: how far it may fall
    no_class_worse_than: 0.02   # IoU of any class
    seeds_at_least: 3           # runs with the same settings but the seed; their means are compared too
    numbers: evaluation         # students: evaluate.py --model on the same gold; or validation, of the trainings
    gold: voc:VOC2012 val       # which gold, where several judged both

Settings of *decide* are compared on the hold-out of their search: with the settings that the labels were made with, if
those are the champion's, or else with the champion's own hold-out, if it was of the same images. Numbers that are about
different images, masks or classes are refused, never compared. Who, when, why, the gate and the numbers are tags of the
version; the champions of the past are a tag of the model, and --rollback goes back one by one.

The last line on stdout is one JSON object. Exit codes: 0 promoted or rolled back; 1 failed; 2 bad usage; 4 the gate
refused, for the `reasons` in the JSON.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.flow.progress import say
from pipelines.gates import EXIT_REFUSED
from tuning.promotion.config import PromoteConfig

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(PromoteConfig, argv, prog="promote.py", description=__doc__ or "")
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.tracking_names import first_line
    from tuning.promotion.job import promote, rollback

    try:
        summary = rollback(config) if config.rollback else promote(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except Exception as error:  # MLflow's stores have errors of their own kinds
        say(f"error: {first_line(error)}")
        return EXIT_FAILED
    print(json.dumps(summary), flush=True)
    return 0 if config.rollback or summary["promoted"] else EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
