"""Make the pocket models that ship with the project, or measure them.

    python pipelines/pretrain_pocket.py clip --data ../shared/data --output models/pocket/clip --minutes 60
    python pipelines/pretrain_pocket.py sam --data ../shared/data --output models/pocket/sam --resume
    python pipelines/pretrain_pocket.py evaluate --data ../shared/data --output models/pocket

Needs the training extra: pip install 'maskstream[pretrain]'. `--quick` is a training of about a minute that shows that
everything works; its weights are of no use. A training that was stopped goes on with `--resume` and the same --output
(and --cache). The last line on stdout is one JSON object.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.pocket.clip_config import ClipTrainConfig, quick_clip_config
from models.pocket.sam_config import SamTrainConfig, quick_sam_config

CONFIGS: dict[str, tuple[type[Any], Callable[..., Any], str]] = {
    "clip": (ClipTrainConfig, quick_clip_config, "train the pocket CLIP on photographs and image tags"),
    "sam": (SamTrainConfig, quick_sam_config, "train the pocket SAM on masks without classes"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pretrain_pocket.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    for name, (config, _, text) in CONFIGS.items():
        job = jobs.add_parser(name, help=text, description=text)
        job.add_argument("--quick", action="store_true", help="the one-minute variant; other options still apply")
        for field in dataclasses.fields(config):
            flag, text = f"--{field.name.replace('_', '-')}", f"{field.metadata['help']} (default: {field.default})"
            if isinstance(field.default, bool):
                job.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
            else:
                job.add_argument(flag, type=type(field.default), default=None, help=text)
    measure = jobs.add_parser("evaluate", help="measure the shipped models on VOC val; thresholds from gold100")
    measure.add_argument("--data", default="../shared/data", help="folder with voc/ (default: %(default)s)")
    measure.add_argument("--output", default="models/pocket", help="folder with clip/ and sam/ (default: %(default)s)")
    measure.add_argument("--only", choices=("clip", "sam"), help="measure one of the two")
    measure.add_argument("--limit", type=int, default=0, help="the first N photographs of each split; 0: all")
    return parser


def _say(start: float) -> Callable[[str], None]:
    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:7.1f} s] {line}", file=sys.stderr, flush=True)

    return say


def train(name: str, given: dict[str, Any], quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run one training; what it did, ready for JSON."""
    config_type, quick_config, _ = CONFIGS[name]
    settings = {key: value for key, value in given.items() if value is not None}
    config = quick_config(**settings) if quick else config_type(**settings)
    if name == "clip":
        from models.pocket import clip_train

        done = clip_train.train(config, say)
        losses = {phase: {"steps": len(v), "first": v[0], "last": v[-1]} for phase, v in done.losses.items() if v}
        return {"job": name, "weights": str(done.weights), "phases": losses}
    from models.pocket import sam_train

    result = dataclasses.asdict(sam_train.train(config, say))
    return {"job": name, **{key: str(v) if isinstance(v, Path) else v for key, v in result.items()}}


def evaluate(output: Path, data: Path, only: str | None, limit: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures of clip/ and sam/ in `output`."""
    result: dict[str, Any] = {"job": "evaluate"}
    if only != "sam":
        from models.pocket import clip_eval

        result["clip"] = clip_eval.evaluate(output / "clip", data, limit, say)
    if only != "clip":
        from models.pocket import sam_eval
        from models.sam.load import load_sam

        result["sam"] = sam_eval.evaluate(load_sam(output / "sam"), data / "voc", limit=limit)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    arguments = vars(_parser().parse_args(argv))
    say = _say(time.monotonic())
    job = arguments.pop("job")
    try:
        if job == "evaluate":
            paths = Path(arguments["output"]), Path(arguments["data"])
            result = evaluate(*paths, arguments["only"], arguments["limit"], say)
        else:
            result = train(job, arguments, arguments.pop("quick"), say)
    except (FileNotFoundError, ImportError) as error:
        print(f"pretrain_pocket.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
