"""What students learn from labels, from few masks, noisy masks and clicks, against the same student on true masks.

    python tests/benchmarks/bench_students.py tags --labels out/voc --keep out/bench
    python tests/benchmarks/bench_students.py semi noisy points --keep out/bench --seeds 0 1 2
    python tests/benchmarks/bench_students.py scaling --keep out/bench --steps 1200
    python tests/benchmarks/bench_students.py second-round --labels out/voc --keep out/bench
    ... -- --optim.lr 2e-3 --student.name lite0        settings of every training come after two dashes

Runs the real `pipelines/train_student.py` for every arm and seed with the same steps, batch and picture size, then
`pipelines/evaluate.py --model` on photographs that no arm has seen. What is finished in --keep is not run again, so a
stopped benchmark goes on where it was.

    tags          voc, labels made from tags alone (--labels: the output of label_corpus.py on voc train; made if it
                  is not given), against the true masks of the same photographs; gold100 is in neither
    semi          camvid, every eighth frame labeled: each component alone, and one after the other; against all frames
    noisy         camvid, masks of the frame before with a fifth of their regions swapped: plain, and row 48
    points        camvid, one click a class and image: cross-entropy, and row 2
    scaling       images/s of one and two workers beside plain PyTorch processes, in turn, in one run
    second-round  labels of voc train before, and with the student of `tags` (seed 0) as a labeler

600 steps of 16 images at 192 px take ffnet-s about four minutes on two quiet cores (27 images a CPU second).
Prints one JSON line for each training, then mean and standard deviation over seeds and the difference to the first arm,
paired by seed; the last line is one JSON object.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_students_data as made
from bench_students_scaling import scaling

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("miou", "miou_voc7", "boundary_f", "calibration_error")
VALIDATIONS = 5  # points of a training's curve
SECOND_ROUND_LABELERS = "clip,sam,student:{model}"


@dataclass(frozen=True)
class Arm:
    """flags: of train_student.py, beside those that all arms share. teachers: an arm whose students teach this one."""

    name: str
    flags: tuple[str, ...]
    teachers: str = ""


@dataclass(frozen=True)
class Experiment:
    """arms: the first is what the others are compared with. gold: flags of evaluate.py."""

    name: str
    arms: tuple[Arm, ...]
    gold: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What the command line says. extra: flags of every training."""

    data: Path
    keep: Path
    labels: Path | None
    seeds: tuple[int, ...]
    steps: int
    size_px: int
    arms: tuple[str, ...]
    extra: tuple[str, ...]


def tags(options: Options) -> Experiment:
    """Labels from tags against true masks, both without gold100, one tenth of the photographs kept for the curve."""
    voc = f"voc:{options.data / 'voc'}"
    without = ("--exclude", str(options.data / "voc/ImageSets/Segmentation/gold100.txt"))
    validated = ("--validate_every_steps", str(max(1, options.steps // VALIDATIONS)))
    labels = ("--labels", str(voc_labels(options)), "--recipe", "from_tags")
    masks = ("--gold.uri", voc, "--gold.split", "train", "--recipe", "supervised")
    arms = Arm("true-masks", (*masks, *without, *validated)), Arm("labels", (*labels, *without, *validated))
    return Experiment("tags", arms, ("--gold.uri", voc, "--gold.split", "val"))


def semi(options: Options) -> Experiment:
    """Each component alone, one after the other, and all frames. The teachers of row 16 are the supervised students."""
    few = (*camvid(options), "--gold.every", "8", "--gold.rest_unlabeled", "true", "--recipe", "semi_supervised")

    def arm(name: str, *on: str) -> Arm:
        switches = [
            text
            for part in ("ema", "cutmix", "cw_bass", "mgd")
            for text in (f"--losses.semi.{part}", str(part in on).lower())
        ]
        return Arm(name, (*few, *switches), "supervised" if "mgd" in on else "")

    supervised = (*camvid(options), "--gold.every", "8", "--recipe", "supervised")
    arms = (
        Arm("supervised", supervised),
        arm("ema-cutmix", "ema", "cutmix"),
        arm("cw-bass", "cw_bass"),
        arm("mgd", "mgd"),
        arm("ema-cutmix-cw-bass", "ema", "cutmix", "cw_bass"),
        arm("ema-cutmix-cw-bass-mgd", "ema", "cutmix", "cw_bass", "mgd"),
        Arm("all-frames", (*camvid(options), "--recipe", "supervised")),
    )
    return Experiment("semi", arms, camvid_val(options))


def noisy(options: Options) -> Experiment:
    """Masks that are late and partly swapped, the same for all seeds."""
    masks = made.noisy_masks(options.data, options.keep / "data" / "noisy", seed=0)
    print(f"noisy masks: {made.noise_rate(options.data, masks):.1%} of the pixels are wrong", file=sys.stderr)
    shared = (*camvid(options, masks), "--recipe", "from_noisy_maps", "--losses.noisy.selection")
    arms = Arm("plain", (*shared, "false")), Arm("row-48", (*shared, "true"))
    return Experiment("noisy", arms, camvid_val(options))


def points(options: Options) -> Experiment:
    """Clicks, the same for all seeds."""
    masks = made.clicked_masks(options.data, options.keep / "data" / "clicks", seed=0)
    shared = (*camvid(options, masks), "--recipe", "from_points", "--losses.points.agmm")
    arms = Arm("cross-entropy", (*shared, "false")), Arm("row-2", (*shared, "true"))
    return Experiment("points", arms, camvid_val(options))


def camvid(options: Options, masks: Path | None = None) -> tuple[str, ...]:
    """Training on frames of CamVid. Nothing validates: the last weights count, whatever masks an arm learns from."""
    folder = options.data / "camvid"
    where = ("--gold.uri", str(masks or folder / "trainannot"), "--gold.images", str(folder / "train"))
    return (*where, "--gold.classes", "camvid", "--gold.ignore", str(made.VOID), "--data.validation_share", "0")


def camvid_val(options: Options) -> tuple[str, ...]:
    folder = options.data / "camvid"
    where = ("--gold.uri", str(folder / "valannot"), "--gold.images", str(folder / "val"))
    return (*where, "--gold.classes", "camvid", "--gold.ignore", str(made.VOID))


def voc_labels(options: Options) -> Path:
    """Labels of voc train from its tags: those of --labels, or made here."""
    if options.labels is not None:
        return options.labels
    output = options.keep / "voc-labels"
    flags = ("--corpus", f"voc:{options.data / 'voc'}", "--split", "train", "--weak", "tags", "--output", str(output))
    run("label_corpus.py", *flags, "--tracking.enabled", "false")
    return output


def run(script: str, *flags: str, folder: str = "pipelines") -> dict[str, Any]:
    """A job of `folder` in a process of its own; its result line. Ends this process if the job fails."""
    command = [sys.executable, str(ROOT / folder / script), *flags]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MASKSTREAM_", "RAY_"))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with exit code {done.returncode}; its messages are above")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def shared_flags(options: Options) -> tuple[str, ...]:
    sizes = ("--optim.steps", str(options.steps), "--data.size_px", str(options.size_px))
    return (*sizes, "--tracking.enabled", "false", *options.extra)


def measure(options: Options, experiment: Experiment, arm: Arm, seed: int) -> dict[str, Any]:
    """Train and evaluate one arm with one seed, or what an earlier run has found."""
    folder = options.keep / experiment.name / arm.name / f"seed-{seed}"
    flags = (*arm.flags, "--seed", str(seed), *shared_flags(options))
    if arm.teachers:
        others = (options.keep / experiment.name / arm.teachers / f"seed-{other}/student" for other in options.seeds)
        flags += ("--teachers", ",".join(map(str, others)))
    result_file = folder / "bench.json"
    if result_file.exists():
        found: dict[str, Any] = json.loads(result_file.read_text())
        if found["flags"] != list(flags):
            sys.exit(f"{folder} was trained with other settings ({shlex.join(found['flags'])}): give another --keep")
        return found
    started = time.monotonic()
    trained = run("train_student.py", "--output", str(folder), *flags)
    seconds = time.monotonic() - started
    model = ("--model", str(folder / "student"), *experiment.gold, "--tracking.enabled", "false")
    judged = run("evaluate.py", *model, "--page", str(folder / "worst.html"))
    found = {
        "experiment": experiment.name,
        "arm": arm.name,
        "seed": seed,
        **{name: judged[name] for name in METRICS},
        "per_class_iou": judged["per_class_iou"],
        "last_fifth_gain": last_fifth_gain(folder / "metrics.jsonl", options.steps),
        "train_seconds": round(seconds, 1),
        "images_per_second": trained["images_per_second"],
        "flags": list(flags),
    }
    result_file.write_text(json.dumps(found, indent=2))
    return found


def last_fifth_gain(curve: Path, steps: int) -> float | None:
    """What the validation's mIoU gained in the last fifth of the steps; None for a training without validations."""
    lines = map(json.loads, curve.read_text().splitlines()) if curve.exists() else ()
    values = {line["step"]: line["validation/miou"] for line in lines if "validation/miou" in line}
    before = [value for step, value in sorted(values.items()) if step <= 0.8 * steps]
    return round(values[max(values)] - before[-1], 4) if before else None


def summarise(experiment: Experiment, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and of the differences to the first arm, by arm and metric."""
    summary: dict[str, Any] = {}
    by_arm = {arm.name: {row["seed"]: row for row in rows if row["arm"] == arm.name} for arm in experiment.arms}
    first = next(found for found in by_arm.values() if found)
    for name, found in by_arm.items():
        for metric in METRICS if found else ():
            values = {seed: row[metric] for seed, row in found.items() if row[metric] is not None}
            paired = [value - first[seed][metric] for seed, value in values.items() if seed in first]
            if values:
                summary.setdefault(name, {})[metric] = {**spread(list(values.values())), "difference": spread(paired)}
    return summary


def spread(values: list[float]) -> dict[str, float | int]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 4), "sd": round(deviation, 4), "n": len(values)}


def show(experiment: Experiment, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(f"\n{experiment.name}: mean ± standard deviation over seeds, and the difference to the first arm")
    for name, metrics in summary.items():
        cells = [
            f"{metric} {m['mean']:.4f} ± {m['sd']:.4f} ({m['difference']['mean']:+.4f} ± {m['difference']['sd']:.4f})"
            for metric, m in metrics.items()
        ]
        seconds = statistics.fmean(row["train_seconds"] for row in rows if row["arm"] == name)
        print(f"  {name:<24}{'; '.join(cells)}; {seconds:.0f} s a training")
    if experiment.name == "tags" and len(summary) == 2:
        masks, labels = summary["true-masks"], summary["labels"]
        ratios = [f"{metric} {labels[metric]['mean'] / masks[metric]['mean']:.3f}" for metric in METRICS[:2]]
        gains = [row["last_fifth_gain"] for row in rows if row["arm"] == "true-masks"]
        print(f"  labels / true masks: {', '.join(ratios)}; the true masks gained {gains} in their last fifth")


def compare(options: Options, experiment: Experiment) -> dict[str, Any]:
    """All arms and seeds of an experiment: an arm's teachers come before it."""
    rows: list[dict[str, Any]] = []
    for arm in experiment.arms:
        if options.arms and arm.name not in options.arms:
            continue
        for seed in options.seeds:
            rows.append(measure(options, experiment, arm, seed))
            print(json.dumps(rows[-1]), flush=True)
    if not rows:
        known = ", ".join(arm.name for arm in experiment.arms)
        sys.exit(f"--arms: {experiment.name} has none of these; its arms: {known}")
    summary = summarise(experiment, rows)
    show(experiment, summary, rows)
    return summary


def second_round(options: Options) -> dict[str, Any]:
    """Labels of voc train before and after the student joined, on copies, so that --labels stays as it is."""
    model = options.keep / "tags" / "labels" / f"seed-{options.seeds[0]}" / "student"
    if not model.exists():
        sys.exit(f"there is no student at {model}: run `tags` first, with the same --keep")
    before, after = voc_labels(options), options.keep / "second-round" / "labels"
    if not after.exists():
        shutil.copytree(before, after)  # its evidence is used again as far as it can be
    voc = f"voc:{options.data / 'voc'}"
    flags = (
        "--corpus",
        voc,
        "--split",
        "train",
        "--weak",
        "tags",
        "--output",
        str(after),
        "--tracking.enabled",
        "false",
    )
    run("label_corpus.py", *flags, "--labelers", SECOND_ROUND_LABELERS.format(model=model))
    exclude = ("--exclude", str(options.data / "voc/ImageSets/Segmentation/gold100.txt"))
    gold = ("--gold.uri", voc, "--gold.split", "train", *exclude, "--baselines", "false", "--tracking.enabled", "false")
    found = {}
    for name, output in (("before", before), ("after", after)):
        numbers = run("evaluate.py", "--labels", str(output), *gold)
        found[name] = {metric: numbers[metric] for metric in METRICS}
        print(json.dumps({"experiment": "second-round", "labels": name, **found[name]}), flush=True)
    return found


def parse() -> tuple[list[str], Options]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", choices=[*EXPERIMENTS, "scaling", "second-round"])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="with voc/ and camvid/")
    parser.add_argument("--keep", type=Path, required=True, help="folder for data, students and results")
    parser.add_argument("--labels", type=Path, help="output of label_corpus.py on voc train, from tags")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of every training")
    parser.add_argument("--size-px", type=int, default=192, help="longer side of the pictures")
    parser.add_argument("--arms", nargs="+", default=[], help="only these")
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = parser.parse_args(arguments[:end])
    labels = given.labels.resolve() if given.labels else None
    where = (given.data.resolve(), given.keep.resolve(), labels)
    size = (tuple(given.seeds), given.steps, given.size_px)
    return given.experiments, Options(*where, *size, tuple(given.arms), tuple(arguments[end + 1 :]))


EXPERIMENTS = {"tags": tags, "semi": semi, "noisy": noisy, "points": points}


def main() -> None:
    names, options = parse()
    results = {}
    for name in names:
        if name == "second-round":
            results[name] = second_round(options)
        elif name == "scaling":
            flags = (*camvid(options), "--recipe", "supervised", *shared_flags(options))
            results[name] = scaling(flags, options.keep / "scaling", len(options.seeds), run)
        else:
            results[name] = compare(options, EXPERIMENTS[name](options))
    print(json.dumps({"steps": options.steps, "size_px": options.size_px, "seeds": options.seeds, **results}))


if __name__ == "__main__":
    main()
