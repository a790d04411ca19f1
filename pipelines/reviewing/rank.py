"""Which images a person should see: one pass over the label rows, then a choice that is varied."""

import hashlib
import heapq
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.acquire import pick_regions, region_scores
from models.decide.types import PROVENANCE
from models.refine.grids import resize_nearest
from pipelines.exports.snapshot import Snapshot
from pipelines.flow.progress import Progress
from pipelines.reviewing.config import RankConfig, ReviewExportConfig
from pipelines.tables.pictures import read_png

COLUMNS = (
    "class_map", "confidence", "provenance", "height", "width", "mean_confidence", "disagreement", "areas", "digest",
    "evidence_key", "predicted_miou", "violations",
)  # fmt: skip
HUMAN = PROVENANCE.index("human")
STEP = 4
"""Confidence and regions are on every fourth pixel."""
PICTURES_AHEAD = 4
"""Pictures are compared of so many times the budget, the most valuable images."""
THUMBNAIL_PX = 16
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """An image and what it is worth, 0 and up. classes: the foreground ids in it."""

    asset: str
    digest: str
    evidence_key: str
    value: float
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """A part to look at, in pixels of the upright full-size image. score: 0..1."""

    x: int
    y: int
    width: int
    height: int
    score: float


def regions_of(row: Mapping[str, Any], config: RankConfig) -> list[Region]:
    """The regions of a label row that are most mixed and doubtful, best first; what people corrected is sure."""
    confidence = read_png(row["confidence"]).astype(np.float32) / 255
    confidence[read_png(row["provenance"]) == HUMAN] = 1
    classes = resize_nearest(read_png(row["class_map"]), (confidence.shape[0], confidence.shape[1]))
    radius = max(1, round(config.region_share * max(confidence.shape) / 2))
    found = pick_regions(region_scores(classes, confidence, radius), radius, config.regions)
    return [_full_size(place, radius, row["height"], row["width"]) for place in found]


def _full_size(place: tuple[int, int, float], radius: int, height: int, width: int) -> Region:
    row, column, score = place
    top, left = max(0, row - radius) * STEP, max(0, column - radius) * STEP
    bottom, right = min(height, (row + radius + 1) * STEP), min(width, (column + radius + 1) * STEP)
    return Region(left, top, right - left, bottom - top, score)


def candidates(snapshot: Snapshot, config: ReviewExportConfig, exclude: set[str]) -> list[Candidate]:
    """Every image of the snapshot with its value; a few numbers an image stay in memory."""
    background = snapshot.classes.background
    found = []
    progress = Progress("rank", len(snapshot.entries), config.progress_seconds)
    for row in snapshot.rows(COLUMNS):
        progress.add(1)
        if row["asset"] in exclude:
            continue
        shown = tuple(a["class_id"] for a in row["areas"] if background is None or a["class_id"] != background.id)
        value = _draw(row["asset"], config.seed) if config.order == "random" else value_of(row, config.rank)
        found.append(Candidate(row["asset"], row["digest"] or row["asset"], row["evidence_key"] or "", value, shown))
    progress.close()
    return found


def value_of(row: Mapping[str, Any], config: RankConfig) -> float:
    """What a look at the image is worth: its regions' mean score, its uncertainty, its sources' disagreement, how bad
    it is predicted to be, and whether it breaks a rule."""
    regions = regions_of(row, config)
    mixed = sum(region.score for region in regions) / max(1, config.regions)
    doubt = 1 - row["mean_confidence"]
    value = config.region * mixed + config.uncertainty * doubt + config.disagreement * row["disagreement"]
    if row["predicted_miou"] is not None:
        value += config.quality * (1 - row["predicted_miou"])
    return float(value + config.violations * bool(row["violations"]))


def _draw(asset: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/{asset}".encode()).digest()[:7], "big") / 2**56


def choose(found: Sequence[Candidate], snapshot: Snapshot, config: ReviewExportConfig) -> list[Candidate]:
    """The images of the budget, most wanted first. Deterministic, whatever the order of `found`."""
    ordered = sorted(found, key=lambda one: (-one.value, one.asset))
    if config.order == "random":
        return ordered[: config.budget]
    ahead = ordered[: PICTURES_AHEAD * config.budget]
    return vary(ordered, thumbnails(snapshot, ahead), config.budget, config.rank)


def vary(
    ordered: Iterable[Candidate], vectors: Mapping[str, Vector], budget: int, config: RankConfig
) -> list[Candidate]:
    """The most valuable images, each near-duplicate once, and no class again and again.

    vectors: of `thumbnails`, by asset. An image counts its value, divided for each class by the square root of how
    often that class was chosen, on average over its classes.
    """
    chosen: list[Candidate] = []
    taken: Counter[int] = Counter()
    digests: set[str] = set()
    kept: list[Vector] = []

    def worth(one: Candidate) -> float:
        classes = one.classes or (-1,)
        often = sum(1 / math.sqrt(1 + taken[c]) for c in classes) / len(classes)
        return one.value * (often if config.balance else 1.0)

    # What an image is worth only falls, so the top of the heap, once it is up to date, is the best there is.
    heap = [(-worth(one), number, one) for number, one in enumerate(ordered)]
    heapq.heapify(heap)
    while heap and len(chosen) < budget:
        before, number, one = heapq.heappop(heap)
        if one.digest in digests or _alike(vectors.get(one.asset), kept, config.duplicate):
            continue
        if (now := -worth(one)) > before:
            heapq.heappush(heap, (now, number, one))
            continue
        chosen.append(one)
        taken.update(one.classes or (-1,))
        digests.add(one.digest)
        kept += [vectors[one.asset]] if one.asset in vectors else []
    return chosen


def _alike(vector: Vector | None, kept: Sequence[Vector], cosine: float) -> bool:
    return vector is not None and any(float(vector @ other) >= cosine for other in kept)


def thumbnails(snapshot: Snapshot, wanted: Sequence[Candidate]) -> dict[str, Vector]:
    """The stored guide pictures, small and grey, as unit vectors without their mean, by asset; images whose evidence is
    gone are left out.

    Of 79,800 pairs of different VOC photographs none has a cosine above 0.90; 99 of 100 photographs have one above 0.94
    with themselves less a border of 2 %. (CLIP's global embedding is no measure of it: with the pocket model one pair
    of different photographs in a hundred has 0.988.)
    """
    assets: dict[str, list[str]] = {}
    for one in wanted:
        assets.setdefault(one.evidence_key, []).append(one.asset)
    shards = snapshot.run.shards
    places = sorted({(shards[key], key) for key in assets if key in shards})
    found = {}
    for row in snapshot.run.store.read(places, ["guide"]):
        vector = thumbnail(Image.open(io.BytesIO(row["guide"])))
        found.update(dict.fromkeys(assets[row["evidence_key"]], vector))
    return found


def thumbnail(picture: Image.Image) -> Vector:
    """A unit vector without mean, float32 [THUMBNAIL_PX ** 2]; zeros for a picture of one grey."""
    small = picture.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32).reshape(-1)
    grey = grey - grey.mean()
    return np.asarray(grey / max(float(np.linalg.norm(grey)), 1e-6), np.float32)
