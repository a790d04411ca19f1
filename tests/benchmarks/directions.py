"""What `bench_directions.py` measures of things in frames, by themselves and by asking SAM; and how it is told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from models.decide.config import DecideConfig
from models.decide.decide import decide, frame_of, fuse, heat_to_ask, look
from models.decide.instances import instances
from models.decide.patches import START_TEMPERATURE
from models.decide.scene import Scene
from models.decide.types import ClassArrays, TextBank, WeakArrays
from models.evidence import Evidence, MaskBank
from models.metrics import Confusion
from models.observe_config import HeatPromptConfig, ObserveConfig
from models.prompts.distance import distance_points
from models.prompts.dual_threshold import dual_threshold
from models.refine.grids import resize_maps, resize_nearest
from models.sam.heat_prompts import answer_bank, heat_prompts
from models.sam.observer import SamInput, SamObserver
from models.sam.progressive import progressive
from models.sam.prompts import Prompts

THINGS = ("pole", "sign", "car", "pedestrian", "bicyclist")
STUFF = -1
EVERY_SPLIT, EVERY_SAM = 3, 6
"""One frame in so many is divided into instances, or SAM asked about it: both take long."""
Maps = np.ndarray
Ids = np.ndarray


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame with its mask. gold: int16 [H, W], class ids, -1 where nobody judged. weak: its tags,
    clicked: and a click in every connected part."""

    photo: Path
    evidence: Evidence
    gold: Ids
    present: np.ndarray
    weak: WeakArrays
    clicked: WeakArrays
    text: TextBank
    classes: ClassArrays

    @cached_property
    def scene(self) -> Scene:
        """Text heat, refined, on the grid of decisions; nothing of it was learned."""
        config = DecideConfig(head_weight=0.0)
        return look(frame_of(self.evidence, config), self.evidence, self.text, self.classes, self.weak, config)

    def decided(self, weak: WeakArrays | None = None, **settings: object) -> Ids:
        config = replace(DecideConfig(), **{"head_weight": 0.0, **settings})
        return decide(self.evidence, self.text, self.classes, weak or self.weak, config).class_map.astype(np.int32)

    def enlarged(self, maps: Maps) -> Maps:
        return resize_maps(np.ascontiguousarray(maps, np.float32), self.gold.shape)


@dataclass
class Line:
    """A direction: `better` should be better than `other`. holds: None where it could not be measured."""

    row: int
    what: str
    better: str
    value: float
    other: str
    against: float
    holds: bool | None
    note: str = ""
    more: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.holds = None if self.holds is None else bool(self.holds)  # NumPy's own bools are no JSON.

    def __str__(self) -> str:
        said = {True: "holds", False: "DOES NOT HOLD", None: "skipped"}[self.holds]
        numbers = f": {self.better} {self.value:.4f}, {self.other} {self.against:.4f}" if self.holds is not None else ""
        return f"row {self.row:>2}  {said:<13}  {self.what}{numbers}" + (f" ({self.note})" if self.note else "")


def skipped(row: int, what: str, reason: str) -> Line:
    return Line(row, what, "", 0.0, "", 0.0, None, reason)


@dataclass
class Tally:
    """Class maps of a method against the masks, frame by frame."""

    name: str
    classes: int
    frames: list[Confusion] = field(default_factory=list)

    def add(self, gold: Ids, found: Ids) -> None:
        self.frames.append(Confusion(self.classes))
        self.frames[-1].update(gold, found)

    def miou(self) -> float:
        total = Confusion(self.classes)
        for one in self.frames:
            total.merge(one)
        return total.mean_iou()

    def line(self, row: int, what: str, other: "Tally", equal: bool = False) -> Line:
        """mIoU over all frames' pixels, and in how many frames its own is higher. equal: a draw will do."""
        mine, its = ([one.mean_iou() for one in tally.frames] for tally in (self, other))
        note, value, against = wins(mine, its), self.miou(), other.miou()
        return Line(
            row, what, self.name, value, other.name, against, value > against or (equal and value == against), note
        )


def wins(better: Sequence[float], other: Sequence[float]) -> str:
    pairs = list(zip(better, other, strict=True))
    return f"better in {sum(a > b for a, b in pairs)}, worse in {sum(a < b for a, b in pairs)} of {len(pairs)}"


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def parts_of(mask: np.ndarray) -> tuple[Ids, int]:
    """Connected parts that are no specks: int32 [H, W], 0 for none, else 1.., and how many."""
    parts, count = ndimage.label(mask)
    keep = np.bincount(parts.ravel(), minlength=count + 1) >= max(16, 0.001 * mask.size)
    keep[0] = False
    return (np.cumsum(keep) * keep)[parts].astype(np.int32), int(keep.sum())


# Row 9: two thresholds against one.


def threshold_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    config = {"two": (0.7, 0.25), "low alone": (0.25, 0.25), "high alone": (0.7, 0.7)}
    for name in ("car", "pedestrian"):
        row = names.index(name)
        located: dict[str, list[float]] = {kind: [] for kind in config}
        merged, holding = dict.fromkeys(config, 0), dict.fromkeys(config, 0)
        for frame in frames:
            parts, count = parts_of(frame.gold == row)
            heat = frame.scene.heat[frame.scene.rows == row]
            if not count or not len(heat):
                continue
            gold = [box_of(where) for where in ndimage.find_objects(parts)]
            scale = np.array([parts.shape[1] / heat.shape[2], parts.shape[0] / heat.shape[1]] * 2)
            for kind, (high, low) in config.items():
                boxes, ids = dual_threshold(heat[0], high, low)
                located[kind].append(
                    float(len(boxes) > 0 and max(box_iou(boxes[0] * scale, one) for one in gold) >= 0.5)
                )
                for held in held_parts(resize_nearest(ids, parts.shape), parts, count):
                    merged[kind] += held > 1
                    holding[kind] += held > 0
        corloc = {kind: float(np.mean(values)) for kind, values in located.items()}
        rate = {kind: merged[kind] / max(holding[kind], 1) for kind in config}
        for kind in ("low alone", "high alone"):
            note = f"{wins(located['two'], located[kind])} frames"
            yield Line(
                9,
                f"CorLoc of {name}",
                "two thresholds",
                corloc["two"],
                kind,
                corloc[kind],
                corloc["two"] > corloc[kind],
                note,
            )
            note = f"{merged['two']} of {holding['two']} against {merged[kind]} of {holding[kind]}"
            yield Line(
                9,
                f"merged instances of {name}",
                "two thresholds",
                rate["two"],
                kind,
                rate[kind],
                rate["two"] < rate[kind],
                note,
            )


def held_parts(found: Ids, parts: Ids, count: int) -> np.ndarray:
    """Of how many gold parts each instance holds at least half."""
    shared = np.bincount(
        found.ravel().astype(np.int64) * (count + 1) + parts.ravel(), minlength=(found.max() + 1) * (count + 1)
    )
    table = shared.reshape(-1, count + 1)
    return (table[1:, 1:] * 2 >= np.bincount(parts.ravel(), minlength=count + 1)[1:]).sum(1)


def box_of(where: tuple[slice, slice]) -> np.ndarray:
    return np.array([where[1].start, where[0].start, where[1].stop, where[0].stop], float)


def box_iou(one: np.ndarray, other: np.ndarray) -> float:
    size = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    both = float(size.prod())
    return both / float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - both)


# Row 10: instances from points.


@dataclass
class Quality:
    """Panoptic quality: pairs of one class that overlap by more than half, against what has no pair."""

    counts: dict[int, np.ndarray] = field(default_factory=dict)

    def update(self, gold: Ids, gold_class: Sequence[int], found: Ids, found_class: dict[int, int]) -> None:
        pairs, shared = np.unique(np.stack([gold.ravel(), found.ravel()]), axis=1, return_counts=True)
        size_g, size_f = np.bincount(gold.ravel()), np.bincount(found.ravel())
        for value in gold_class:
            self._of(value)[2] += 1
        for value in found_class.values():
            self._of(value)[1] += 1
        for (g, f), both in zip(pairs.T.tolist(), shared.tolist(), strict=True):
            overlap = both / (size_g[g] + size_f[f] - both)
            if g and f and overlap > 0.5 and gold_class[g - 1] == found_class[f]:
                self._of(gold_class[g - 1])[:] += (overlap, -1, -1, 1)

    def _of(self, value: int) -> np.ndarray:
        return self.counts.setdefault(value, np.zeros(4))

    def mean(self) -> float:
        return float(np.mean([s / max(tp + (fp + fn) / 2, 1) for s, fp, fn, tp in self.counts.values()]))


def instance_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    things = [names.index(name) for name in THINGS]
    for inside in ("true masks", "labels from tags", "labels from tags and clicks"):
        ours, plain = Quality(), Quality()
        for frame in frames[::EVERY_SPLIT]:
            gold = np.zeros(frame.gold.shape, np.int32)
            of: list[int] = []
            points = []
            for row in things:
                parts, count = parts_of(frame.gold == row)
                gold[parts > 0] = parts[parts > 0] + len(of)
                of += [row] * count
                for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                    deepest, _ = distance_points(parts[rows, columns] == number, 1)
                    points.append(deepest[0] + (columns.start, rows.start))
            if not of:
                continue
            judged = frame.gold >= 0
            map_ = np.where(gold > 0, frame.gold, STUFF)
            if inside != "true masks":
                map_ = frame.decided(frame.clicked if "clicks" in inside else frame.weak)
            map_ = np.where(np.isin(map_, things), map_, STUFF)
            at, rows_of = np.asarray(points, np.float32), np.asarray(of)
            split = instances(map_, at, rows_of, STUFF, edges(frame), complete=True)
            for quality, found in ((ours, split), (plain, voronoi(map_, at, rows_of))):
                found = np.where(judged, found, 0)
                used, first = np.unique(found, return_index=True)
                classes = {int(i): int(map_.ravel()[n]) for i, n in zip(used, first, strict=True) if i}
                quality.update(gold, of, found, classes)
        a, b = ours.mean(), plain.mean()
        yield Line(
            10, f"PQ of things, a point each, inside {inside}", "ways around edges", a, "nearest point", b, a > b
        )


def edges(frame: Frame) -> Maps:
    """How strongly the picture changes at each pixel, float32 [H, W], 0..1."""
    grey = frame.enlarged(frame.evidence.guide.mean(-1)[None])[0]
    slope = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    return np.asarray(np.clip(slope / max(float(np.quantile(slope, 0.99)), 1e-6), 0, 1), np.float32)


def voronoi(map_: Ids, points: Maps, rows: Ids) -> Ids:
    """Each pixel of a class to the nearest of its points; a part of a class without any is an instance of its own."""
    out = np.zeros(map_.shape, np.int32)
    free = len(points) + 1
    for value in set(np.unique(map_).tolist()) - {STUFF}:
        mine, region = np.flatnonzero(rows == value), map_ == value
        if not len(mine):
            parts, count = ndimage.label(region)
            out[region], free = parts[region] + free - 1, free + count
            continue
        y, x = np.nonzero(region)
        away = (x[:, None] + 0.5 - points[mine, 0]) ** 2 + (y[:, None] + 0.5 - points[mine, 1]) ** 2
        out[region] = mine[away.argmin(1)] + 1
    return out


# Rows 42 and 45: SAM asked by masks and by heat.


@dataclass(frozen=True)
class Asked:
    """SAM and a frame that it has seen."""

    frame: Frame
    observer: SamObserver
    picture: SamInput
    embedding: torch.Tensor

    @classmethod
    def of(cls, frame: Frame, observer: SamObserver) -> "Asked":
        picture = observer.prepare(np.asarray(Image.open(frame.photo).convert("RGB")))
        with torch.inference_mode():
            return cls(frame, observer, picture, observer.encode([picture]))

    def masks(self, prompts: Sequence[Prompts]) -> Maps:
        """What SAM answers to the prompts of each class, as one mask a class, float32 [K, H, W], 0..1."""
        with torch.inference_mode():
            [decoded] = self.observer.decode([self.picture], self.embedding, [Prompts.concat(list(prompts))])
        bank, of = answer_bank(self.observer, decoded, [len(one) for one in prompts])
        return self._joined(bank, of, len(prompts))

    def by_heat(self, heat: Maps, turns: int) -> Maps:
        config = HeatPromptConfig(kind="heatmap", iterations=turns)
        with torch.inference_mode():
            [(bank, of)] = progressive(self.observer, [self.picture], self.embedding, [heat], config)
        return self._joined(bank, of, len(heat))

    def _joined(self, bank: MaskBank, of: Ids, count: int) -> Maps:
        probs = bank.probs.astype(np.float32) / 255
        none = np.zeros(probs.shape[1:], np.float32)
        return self.frame.enlarged(np.stack([probs[of == n].max(0) if (of == n).any() else none for n in range(count)]))

    def judged(self, masks: np.ndarray, rows: Ids, measure: Callable[[np.ndarray, np.ndarray], float]) -> list[float]:
        """A measure of the mask of each class row that is no speck."""
        gold = self.frame.gold
        ids = self.frame.classes.ids[rows]
        pairs = [(mask & (gold >= 0), gold == one) for mask, one in zip(masks, ids, strict=True)]
        return [measure(mask, thing) for mask, thing in pairs if thing.mean() >= 0.001]


def point_lines(frames: Sequence[Frame], names: Sequence[str], sam_path: str) -> Iterator[Line]:
    """Row 42. The coarse masks know nothing of SAM."""
    observer = SamObserver(ObserveConfig(), sam_path, "cpu")
    config = replace(DecideConfig(), mask_weight=0.0, head_weight=0.0, seed_mask_share=0.0)
    for told in ("tags", "tags and clicks"):
        coarse, fused, spilled, without = [], [], [], []
        for frame in frames[::EVERY_SAM]:
            asked, weak = Asked.of(frame, observer), frame.weak if told == "tags" else frame.clicked
            scene = look(frame.scene.frame, frame.evidence, frame.text, frame.classes, weak, config)
            strength = fuse(scene, ())[0].strength
            rows = scene.rows
            if scene.floor is not None:
                strength = np.concatenate([strength, np.full_like(strength[:1], scene.floor)])
            odds = np.exp((strength - strength.max(0)) / START_TEMPERATURE)
            model = odds / odds.sum(0)
            masks = (model.argmax(0) == np.arange(len(rows))[:, None, None]).astype(np.float32)
            prompts = [heat_prompts(mask, HeatPromptConfig(kind="distance")) for mask in masks]
            positive = [
                replace(one, labels=np.where(one.labels == 0, -1, one.labels).astype(np.int8)) for one in prompts
            ]
            model, answer = frame.enlarged(model), asked.masks(prompts)
            own = model.argmax(0) == np.arange(len(rows))[:, None, None]
            model = model[: len(rows)]
            coarse += asked.judged(own, rows, iou)
            fused += asked.judged((answer + model) / 2 > 0.5, rows, iou)
            spilled += asked.judged(answer > 0.5, rows, spill)
            without += asked.judged(asked.masks(positive) > 0.5, rows, spill)
        a, b, note = float(np.mean(fused)), float(np.mean(coarse)), wins(fused, coarse)
        yield Line(42, f"mean IoU of classes, {told}", "mask and SAM fused", a, "coarse mask", b, a > b, note)
        a, b = float(np.nanmean(spilled)), float(np.nanmean(without))
        what = f"share of SAM's mask outside the class, {told}"
        yield Line(42, what, "negative points", a, "none", b, a < b, wins(without, spilled))


def round_lines(frames: Sequence[Frame], names: Sequence[str], sam_path: str) -> Iterator[Line]:
    """Row 45."""
    observer = SamObserver(ObserveConfig(), sam_path, "cpu")
    first: list[float] = []
    last: list[float] = []
    for frame in frames[::EVERY_SAM]:
        asked = Asked.of(frame, observer)
        rows, heat = heat_to_ask(frame.evidence, frame.text, frame.classes, frame.weak, DecideConfig())
        first += asked.judged(asked.by_heat(heat, 1) > 0.5, rows, iou)
        last += asked.judged(asked.by_heat(heat, 4) > 0.5, rows, iou)
    for what, measure in (("mean", np.mean), ("variance", np.var)):
        a, b = float(measure(last)), float(measure(first))
        holds, note = (a < b, "") if what == "variance" else (a >= b, wins(last, first))
        yield Line(45, f"{what} of the IoU of heat-prompted masks", "3 more rounds", a, "first answer", b, holds, note)


def spill(mask: np.ndarray, gold: np.ndarray) -> float:
    """NaN for an empty mask."""
    return float((mask & ~gold).sum() / mask.sum()) if mask.any() else float("nan")
