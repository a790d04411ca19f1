"""Does each method do what it is said to do, on photographs? Directions, "A better than B", on CamVid train frames.

    python tests/benchmarks/bench_directions.py [ROW ...] [--data ../shared/data] [--keep FOLDER]

Runs the real `pipelines/label_corpus.py` on every third frame of CamVid train, with tags from the masks, and then
decides again from the stored evidence; tags are known to all methods and to what they are measured against. Settings
are the modules' own, none is chosen here. One direction of row 1 needs background: VOC's gold100, without tags. Rows
are those of the methods' design: 1 ExCEL, 8 MARS, 9 DTH-CP, 10 P2Seg, 14 LMS-Net, 19 AutoWS, 31 CoSOD, 35 LogicSeg,
42 GPRN, 45 GenSAM, 46 ReCo. Nothing is trained, and val is not read.

The pocket CLIP hardly knows the words of streets: labels from tags alone have an mIoU near 0.05 here, so that what
builds on its heat is told apart by little more than noise. Where a method may begin from clicks or from one frame with
a mask instead, that is measured too.

A line for each direction, with what it is measured by, both numbers, and in how many frames, or pairs of frames and
classes, it is so. Prints one JSON object on its last line; the same command goes on where --keep has results.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from bench_other_corpora import ROOT, VOID, job, lines, photograph, read

sys.path.insert(0, str(ROOT))

import directions as things
import directions_groups as groups
from directions import Frame, Line, Tally, skipped, wins

from models.checks import Rules, infer, logic_scores
from models.decide.config import HEAT_ONLY, HEAT_PAR, DecideConfig
from models.decide.decide import decide, heat_to_ask, look
from models.decide.patches import START_TEMPERATURE, patch_affinity
from models.decide.source_votes import source_votes
from models.decide.types import WeakArrays
from models.label_model import LabelModel, few_shot_regression, majority_vote
from models.metrics import Confusion
from models.refine.grids import resize_nearest
from models.refine.mumford_shah import MumfordShahConfig, mumford_shah
from pipelines.class_builtins import CAMVID
from pipelines.classes import ClassSet
from pipelines.corpus.simulate import simulate
from pipelines.evaluation.cases import Cases, load, open_source
from pipelines.evaluation.config import GoldConfig
from pipelines.references import resolve
from pipelines.stages.observe import limit_threads
from pipelines.text import text_bank

EVERY = 3
PARENTS = {"car": "vehicle", "bicyclist": "vehicle", "road": "flat", "pavement": "flat"}
BUDGET, PIXELS = 100, 200
"""Pixels whose class is known, and pixels of a frame that are voted on."""


def tagged(present: np.ndarray) -> WeakArrays:
    return replace(WeakArrays.none(len(present)), present=present, absent=~present)


def camvid(data: Path, folder: Path) -> tuple[list[Frame], list[str]]:
    """Frames with their masks and tags, and the names of the classes."""
    output, photos = folder / "camvid", folder / "camvid-photos"
    names = {entry.id: entry.name for entry in ClassSet.load("camvid").classes}
    if not (output / "labels").exists():
        photos.mkdir(exist_ok=True)
        told = {}
        for path in sorted((data / "trainannot").glob("*.png"))[::EVERY]:
            name = photograph(path.name)
            (photos / name).unlink(missing_ok=True)
            (photos / name).symlink_to((data / "train" / name).resolve())
            mask = read(path)
            told[name] = simulate(np.where(mask == VOID, -1, mask), names, name, ["tags"])
        weak = lines(folder / "camvid.jsonl", told)
        job(
            "label_corpus.py", "--corpus", photos, "--classes", "camvid", "--weak-file", weak, "--output", output,
            "--report.images", 0,
        )  # fmt: skip
    cases = loaded(output, GoldConfig(uri=str(data / "trainannot"), classes="camvid", ignore=VOID))
    frames = []
    for case in cases.items:
        present = np.array([(case.gold == row).any() for row in range(len(cases.names))])
        photo, weak = data / "train" / case.asset, tagged(present)
        told = simulate(np.where(case.gold < VOID, case.gold, -1).astype(np.int32), names, case.asset, ["points"])
        at = np.array([(one["x"], one["y"]) for one in told["points"]], np.float32)
        of = np.array([cases.names.index(one["class"]) for one in told["points"]], np.int32)
        clicked = replace(weak, points=at, point_classes=of)
        frames.append(Frame(photo, case.evidence, case.gold, present, weak, clicked, cases.text, cases.classes))
    return frames, list(cases.names)


def loaded(output: Path, gold: GoldConfig) -> Cases:
    source = open_source(str(output), None, gold)
    cases = load(source, source.rows)
    return replace(cases, text=replace(cases.text, head=None))


# Row 1: text heat, its refinement, background words.


def heat_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    refined, heat = Tally("heat and PAR", len(names)), Tally("heat alone", len(names))
    for frame in frames:
        refined.add(frame.gold, frame.decided(**HEAT_PAR))
        heat.add(frame.gold, frame.decided(**HEAT_ONLY))
    yield refined.line(1, "mIoU from tags", heat)


def word_lines(data: Path, folder: Path) -> Iterator[Line]:
    """How much of the photographs gets classes that are not in them, with background words and without."""
    what = "share of VOC's gold100 called classes that are not in the photograph, no tags"
    if not data.exists():
        yield skipped(1, what, f"there is no {data}")
        return
    output = folder / "voc"
    if not (output / "labels").exists():
        job(
            "label_corpus.py", "--corpus", f"voc:{data}", "--split", "gold100", "--weak", "none", "--output", output,
            "--report.images", 0,
        )  # fmt: skip
    cases = loaded(output, GoldConfig(uri=f"voc:{data}", split="gold100"))
    shares: dict[str, list[float]] = {}
    for name, weight in (("with words", DecideConfig().background_words_weight), ("without", 0.0)):
        config = replace(DecideConfig(), **HEAT_PAR, background_words_weight=weight)
        shares[name] = []
        for case in cases.items:
            weak = WeakArrays.none(len(cases.classes.ids))
            label = cases.index_of[decide(case.evidence, cases.text, cases.classes, weak, config).class_map]
            false = (label != 0) & ~np.isin(label, np.unique(case.gold))
            shares[name].append(float(false.mean()))
    a, b = (float(np.mean(values)) for values in shares.values())
    note = wins(shares["without"], shares["with words"])
    yield Line(1, what, "with background words", a, "without", b, a < b, note)


# Row 14: Mumford-Shah.

TURNS = {
    "Mumford-Shah": MumfordShahConfig(),
    "one-shot prototypes": MumfordShahConfig(steps=1, smoothness=0.0, anchor=0.0),
    "their start": MumfordShahConfig(steps=0),
}


def piecewise_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    """Prototypes from text heat; and from the masks of one other frame, the first of those with the most classes."""
    tallies = {name: Tally(name, len(names)) for name in TURNS}
    for frame in frames:
        rows, heat = heat_to_ask(frame.evidence, frame.text, frame.classes, frame.weak, DecideConfig())
        add_turns(tallies, frame, rows, shares(heat / START_TEMPERATURE))
    for other in ("one-shot prototypes", "their start"):
        yield tallies["Mumford-Shah"].line(14, "mIoU, prototypes from text heat, tags known", tallies[other])

    support = max(frames, key=lambda frame: int(frame.present.sum()))
    looks = support.evidence.features.astype(np.float32)
    shown = resize_nearest(support.gold, looks.shape[:2])
    prototypes = {row: looks[shown == row].mean(0) for row in range(len(names)) if (shown == row).any()}
    rows = np.array(list(prototypes))
    tallies = {name: Tally(name, len(names)) for name in TURNS if name != "one-shot prototypes"}
    for frame in frames:
        if frame is not support:
            features = frame.evidence.features.astype(np.float32)
            away = np.stack([np.square(features - one).sum(-1) for one in prototypes.values()])
            variance = float(np.square(features - features.mean((0, 1))).sum(-1).mean())
            start = shares(-away / (MumfordShahConfig().temperature * variance))
            add_turns(tallies, frame, rows, start)
    ours, start = tallies.values()
    start.name = "one-shot prototypes"
    yield ours.line(14, f"mIoU, prototypes of {len(rows)} classes from one frame's mask, no tags", start)


def add_turns(tallies: dict[str, Tally], frame: Frame, rows: np.ndarray, start: np.ndarray) -> None:
    smoother = patch_affinity(frame.scene.frame, frame.evidence, "color")
    for name, tally in tallies.items():
        masks, _ = mumford_shah(frame.evidence.features, start, smoother, TURNS[name])
        tally.add(frame.gold, rows[frame.enlarged(masks).argmax(0)])


def shares(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(0))
    return np.asarray(odds / odds.sum(0), np.float32)


# Row 19: a label model.


def vote_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    rng = np.random.default_rng(0)
    votes, truth, looks = [], [], []
    for frame in frames:
        size = frame.scene.size
        gold = resize_nearest(frame.gold, size).ravel()
        chosen = rng.permutation(np.flatnonzero(gold < len(names)))[:PIXELS]
        # Vote 0 is background, which these classes do not have.
        votes.append(np.maximum(source_votes(frame.scene)[chosen] - 1, -1))
        truth.append(gold[chosen])
        features = frame.evidence.features
        patch = resize_nearest(np.arange(features[..., 0].size).reshape(features.shape[:2]), size).ravel()[chosen]
        looks.append(features.reshape(-1, features.shape[-1])[patch])
    said, gold, seen = np.concatenate(votes), np.concatenate(truth).astype(int), np.concatenate(looks)
    known = rng.permutation(len(gold))[:BUDGET]
    judged = np.setdiff1d(np.arange(len(gold)), known)
    told = known, gold[known]
    found = {
        "majority vote": majority_vote(said, len(names)),
        "label model": LabelModel.fit(said, len(names)).predict(said),
        f"label model, {BUDGET} known": LabelModel.fit(said, len(names), told).predict(said),
        f"logistic regression, {BUDGET} known": few_shot_regression(seen, told, len(names)),
    }
    accuracy, miou = {}, {}
    for name, proba in found.items():
        confusion = Confusion(len(names), len(names))
        confusion.update(gold[judged], proba.argmax(1)[judged])
        accuracy[name], miou[name] = confusion.accuracy(), confusion.mean_iou()
    covered = float((said >= 0).any(1).mean())
    vote, model, taught, regression = accuracy
    for name, other in ((model, vote), (taught, vote), (taught, regression)):
        a, b = accuracy[name], accuracy[other]
        note = f"mIoU {miou[name]:.4f} and {miou[other]:.4f}; {len(judged)} pixels, {covered:.0%} covered"
        yield Line(19, "accuracy of sampled pixels", name, a, other, b, a > b, note)


# Row 35: a hierarchy.


def hierarchy_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    upper = [{"id": len(names), "name": "vehicle"}, {"id": len(names) + 1, "name": "flat", "prompts": ["ground"]}]
    classes = ClassSet.from_dict({**CAMVID, "classes": [*CAMVID["classes"], *upper]})
    arrays, text = classes.arrays(), text_bank(str(resolve("pocket:clip").path), classes)
    rules = Rules.of(arrays.names, arrays.ids.tolist(), PARENTS)
    top = np.flatnonzero(rules.parent < 0)
    rates: dict[str, list[float]] = {"before": [], "after": []}
    sums: dict[str, float] = {"before": 0.0, "after": 0.0}
    tallies = {(when, how): Tally(f"{when}", len(names)) for when in rates for how in ("leaves", "top down")}
    for frame in frames:
        above = [frame.present[rules.children(len(names) + n)].any() for n in range(len(upper))]
        weak, config = tagged(np.append(frame.present, above)), DecideConfig()
        scene = look(frame.scene.frame, frame.evidence, text, arrays, weak, config)
        scores = np.zeros((len(arrays.ids), *scene.size), np.float32)
        scores[scene.rows] = scene.heat
        for when, now in (("before", scores), ("after", infer(scores, rules))):
            rates[when].append(violations(now, rules))
            sums[when] += sum(logic_scores(now, rules).values()) / len(frames)
            tallies[when, "leaves"].add(frame.gold, resize_nearest(now[: len(names)].argmax(0), frame.gold.shape))
            best = top[now[top].argmax(0)]
            for parent in range(len(names), len(arrays.ids)):
                children = rules.children(parent)
                best = np.where(best == parent, children[now[children].argmax(0)], best)
            tallies[when, "top down"].add(frame.gold, resize_nearest(best, frame.gold.shape))
    a, b = float(np.mean(rates["after"])), float(np.mean(rates["before"]))
    note = f"{wins(rates['before'], rates['after'])}; soft rules {sums['after']:.4f} and {sums['before']:.4f}"
    yield Line(35, "share of pixels that break a rule at 0.5", "after inference", a, "before", b, a < b, note)
    for how in ("leaves", "top down"):
        yield tallies["after", how].line(35, f"mIoU not down, winner by {how}", tallies["before", how], True)


def violations(scores: np.ndarray, rules: Rules) -> float:
    """Share of pixels where a child goes without its parent, a parent without a child, or siblings together."""
    on, broken = scores > 0.5, np.zeros(scores.shape[1:], bool)
    for parent in np.unique(rules.parent[rules.parent >= 0]):
        children = on[rules.children(int(parent))].sum(0)
        broken |= ((children > 0) != on[parent]) | (children > 1)
    return float(broken.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=int, help="which rows (default: all)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="folder for everything that is made; default: a temporary one")
    options = parser.parse_args()
    limit_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-directions-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        there: list[tuple[list[Frame], list[str]]] = []

        def on_frames(measure: Callable[..., Iterable[Line]], *more: str) -> Callable[[], Iterable[Line]]:
            def run() -> Iterable[Line]:
                if not there:
                    there.append(camvid(options.data / "camvid", folder))
                return measure(*there[0], *more)

            return run

        measures = {
            "1": on_frames(heat_lines),
            "1 words": lambda: word_lines((options.data / "voc").resolve(), folder),
            "8": on_frames(groups.bias_lines),
            "9": on_frames(things.threshold_lines),
            "10": on_frames(things.instance_lines),
            "14": on_frames(piecewise_lines),
            "19": on_frames(vote_lines),
            "31": on_frames(groups.frequency_lines),
            "35": on_frames(hierarchy_lines),
            "42": on_frames(things.point_lines, str(resolve("pocket:sam").path)),
            "45": on_frames(things.round_lines, str(resolve("pocket:sam").path)),
            "46": on_frames(groups.reference_lines),
        }
        result = []
        for name, measure in measures.items():
            if options.rows and not {int(word) for word in name.split() if word.isdigit()} & set(options.rows):
                continue
            kept = folder / f"row-{name.replace(' ', '-')}.json"
            if not kept.exists():
                kept.write_text(json.dumps([asdict(line) for line in measure()]))
            for told in json.loads(kept.read_text()):
                print(Line(**told), flush=True)
                result.append(told)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
