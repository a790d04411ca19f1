"""Does each method do what it is said to do, on photographs? Directions, "A better than B", on CamVid train frames.

    python tests/benchmarks/bench_directions.py [ROW ...] [--data ../shared/data] [--keep FOLDER]

Runs the real `pipelines/label_corpus.py` on every third frame of CamVid train, with tags from the masks, and then
decides again from the stored evidence; tags are known to all methods and to what they are measured against. Settings
are the modules' own, none is chosen here. Rows are those of the methods' design: 1 ExCEL, 8 MARS, 9 DTH-CP, 10 P2Seg,
14 LMS-Net, 19 AutoWS, 31 CoSOD, 35 LogicSeg, 42 GPRN, 45 GenSAM, 46 ReCo. Nothing is trained, and val is not read.

The pocket CLIP hardly knows the words of streets: labels from tags alone have an mIoU near 0.05 here, so that what
builds on its heat is told apart by little more than noise. Where a method may begin from clicks, or from one frame with
a mask, that is measured too; and rows 1, 19, 42 and 45, which live on that heat, on VOC's gold100 as well.

A line for each direction, with what it is measured by, both numbers, and in how many frames, or pairs of frames and
classes, it is so. Prints one JSON object on its last line; the same command goes on where --keep has results.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from bench_other_corpora import ROOT, VOID, job, lines, photograph, read

sys.path.insert(0, str(ROOT))

import directions as things
import directions_groups as groups
from directions import Frame, Line, Tally, skipped, wins

from models.checks import Rules, infer, logic_scores
from models.decide.config import HEAT_ONLY, HEAT_PAR, DecideConfig
from models.decide.decide import heat_to_ask, look
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
from pipelines.evaluation.cases import load, open_source
from pipelines.evaluation.config import GoldConfig
from pipelines.references import resolve
from pipelines.stages.observe import limit_threads
from pipelines.text import text_bank

EVERY = 3
PARENTS = {"car": "vehicle", "bicyclist": "vehicle", "road": "flat", "pavement": "flat"}
BUDGET, PIXELS = 100, 200
"""Pixels whose class is known, and pixels of a frame that are voted on."""


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
    gold = GoldConfig(uri=str(data / "trainannot"), classes="camvid", ignore=VOID)
    return loaded(output, gold, data / "train")


def voc(data: Path, folder: Path) -> tuple[list[Frame], list[str]]:
    """The same of gold100; the first name is background's."""
    output = folder / "voc"
    if not (output / "labels").exists():
        job(
            "label_corpus.py", "--corpus", f"voc:{data}", "--split", "gold100", "--weak", "none", "--output", output,
            "--report.images", 0,
        )  # fmt: skip
    return loaded(output, GoldConfig(uri=f"voc:{data}", split="gold100"), data)


def loaded(output: Path, gold: GoldConfig, photos: Path) -> tuple[list[Frame], list[str]]:
    source = open_source(str(output), None, gold)
    cases = load(source, source.rows)
    text, names, ids = replace(cases.text, head=None), dict(enumerate(cases.names)), cases.classes.ids
    assert [names[id] for id in ids] == cases.classes.names, "the masks' classes are the labels', under the same ids"
    frames = []
    for case in cases.items:
        assert case.gold is not None
        mask = np.where(case.gold < len(names), case.gold, -1)
        present = np.array([(mask == id).any() for id in ids])
        weak = replace(WeakArrays.none(len(ids)), present=present, absent=~present)
        told = simulate(mask.astype(np.int32), names, case.asset, ["points"])["points"]
        at = np.array([(one["x"], one["y"]) for one in told], np.float32)
        of = [cases.classes.names.index(one["class"]) if one["class"] != "background" else -1 for one in told]
        clicked = replace(weak, points=at, point_classes=np.array(of, np.int32))
        photo = photos / case.asset
        frames.append(Frame(photo, case.evidence, mask, present, weak, clicked, text, cases.classes))
    return frames, list(cases.names)


# Row 1: text heat, its refinement, background words.


def heat_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    refined, heat = Tally("heat and PAR", len(names)), Tally("heat alone", len(names))
    for frame in frames:
        refined.add(frame.gold, frame.decided(**HEAT_PAR))
        heat.add(frame.gold, frame.decided(**HEAT_ONLY))
    yield refined.line(1, "mIoU from tags", heat)


def word_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    """How much of the photographs gets classes that are not in them, with background words and without."""
    shares: dict[float, list[float]] = {DecideConfig().background_words_weight: [], 0.0: []}
    for frame in frames:
        nothing = WeakArrays.none(len(frame.present))
        for weight, found in shares.items():
            label = frame.decided(nothing, **HEAT_PAR, background_words_weight=weight)
            found.append(float(((label != 0) & ~np.isin(label, np.unique(frame.gold))).mean()))
    with_, without = shares.values()
    a, b = float(np.mean(with_)), float(np.mean(without))
    what = "share of the picture called a class that is not in it, no tags"
    yield Line(1, what, "with background words", a, "without", b, a < b, wins(without, with_))


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
    ours, one_shot = tallies.values()
    one_shot.name = "one-shot prototypes"
    yield ours.line(14, f"mIoU, prototypes of {len(rows)} classes from one frame's mask, no tags", one_shot)


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
        chosen = rng.permutation(np.flatnonzero(gold >= 0))[:PIXELS]
        said = source_votes(frame.scene)[chosen]
        # Vote 0 is background, which CamVid's classes do not have.
        votes.append(said if frame.classes.background_id == 0 else np.maximum(said - 1, -1))
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
        confusion = Confusion(len(names))
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
        present, config = np.append(frame.present, above), DecideConfig()
        weak = replace(WeakArrays.none(len(present)), present=present, absent=~present)
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
        corpora: dict[str, Callable[[], tuple[list[Frame], list[str]]]] = {
            "CamVid": cache(lambda: camvid((options.data / "camvid").resolve(), folder)),
            "VOC": cache(lambda: voc((options.data / "voc").resolve(), folder)),
        }
        sam = str(resolve("pocket:sam").path)
        measures: list[tuple[str, str, Callable[..., Iterable[Line]]]] = [
            ("1", "CamVid", heat_lines),
            ("1", "VOC", heat_lines),
            ("1 words", "VOC", word_lines),
            ("8", "CamVid", groups.bias_lines),
            ("9", "CamVid", things.threshold_lines),
            ("10", "CamVid", things.instance_lines),
            ("14", "CamVid", piecewise_lines),
            ("19", "CamVid", vote_lines),
            ("19", "VOC", vote_lines),
            ("31", "CamVid", groups.frequency_lines),
            ("35", "CamVid", hierarchy_lines),
            ("42", "CamVid", partial(things.point_lines, sam_path=sam)),
            ("42", "VOC", partial(things.point_lines, sam_path=sam)),
            ("45", "CamVid", partial(things.round_lines, sam_path=sam)),
            ("45", "VOC", partial(things.round_lines, sam_path=sam)),
            ("46", "CamVid", groups.reference_lines),
        ]
        result = []
        for name, corpus, measure in measures:
            if options.rows and int(name.split()[0]) not in options.rows:
                continue
            if not (options.data / corpus.lower()).exists():
                print(skipped(int(name.split()[0]), corpus, f"there is no {options.data / corpus.lower()}"))
                continue
            kept = folder / f"row-{name.replace(' ', '-')}-{corpus.lower()}.json"
            if not kept.exists():
                found = [replace(line, what=f"{corpus}, {line.what}") for line in measure(*corpora[corpus]())]
                kept.write_text(json.dumps([asdict(line) for line in found]))
            for told in json.loads(kept.read_text()):
                print(Line(**told), flush=True)
                result.append(told)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
