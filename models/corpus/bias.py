"""Removal of what always comes with a class but is not it, such as the rails under trains: MARS (Jo et al., ICCV 2023).

One image cannot tell a train from its rails. Others can: rails are also in the background of images without a train,
trains are not. Every image is mapped to a few centroids of its background and of its classes' regions; these are
reduced, in any order, to banks; and a part of a class's heat that is as close to backgrounds of images without the
class as to other images' regions of the class is taken away.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models.corpus.clusters import clusters, unit

Floats = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
BACKGROUND = -1


@dataclass(frozen=True)
class BiasConfig:
    """How biased parts are found.

    parts: clusters of a class's region in one image. background_parts: clusters of an image's background. bank: the
    centroids that are kept of backgrounds, class_bank: of the regions of each class. votes: nearest centroids of a bank
    that its closeness is the mean over. margin: how much closer to the class than to backgrounds a part must be to stay
    (cosine); what is under the class in every image is as close to both, and only goes with more than 0, which costs
    good parts of labels that have no such bias. floor: closeness to backgrounds from which a part is suspected at all.
    hot: share of a heat map's maximum above which it is the class's region. max_share: where more than this share of
    the region would go, nothing does. min_images: images with and without the class that are needed.
    """

    parts: int = 6
    background_parts: int = 6
    bank: int = 4096
    class_bank: int = 512
    votes: int = 5
    margin: float = 0.0
    floor: float = 0.5
    hot: float = 0.4
    max_share: float = 0.6
    min_images: int = 5


@dataclass(frozen=True)
class Bank:
    """Centroids, ordered by rank. rank: uint64 [M], a hash that decides who stays. centroids: float32 [M, D].
    image: uint64 [M], whose it is. present: bool [M, C], the classes that may be in that image."""

    rank: npt.NDArray[np.uint64]
    centroids: Floats
    image: npt.NDArray[np.uint64]
    present: BoolArray

    def merged(self, others: Iterable["Bank"], limit: int) -> "Bank":
        """The `limit` centroids of lowest rank among all, whatever the order: an unbiased draw that can be added up."""
        banks = [self, *others]
        rank = np.concatenate([bank.rank for bank in banks])
        _, first = np.unique(rank, return_index=True)
        keep = first[:limit]
        return Bank(
            rank[keep],
            np.concatenate([bank.centroids for bank in banks])[keep],
            np.concatenate([bank.image for bank in banks])[keep],
            np.concatenate([bank.present for bank in banks])[keep],
        )


@dataclass(frozen=True, eq=False)
class BiasStats:
    """What one image, or a corpus, knows of backgrounds and classes; compared by identity.

    background: centroids of backgrounds. classes: C banks of centroids of the classes' regions. total: float64 [D] and
    count: sum over patches of their unit features, and how many. images: int64 [C], images that may hold each class;
    without: int64 [C], images that do not.
    """

    background: Bank
    classes: tuple[Bank, ...]
    total: npt.NDArray[np.float64]
    count: int
    images: npt.NDArray[np.int64]
    without: npt.NDArray[np.int64]


def image_key(embedding: Floats) -> str:
    """What an image is called in the stats: its global embedding, which *decide* knows as well as who maps it."""
    return embedding.astype("<f4").tobytes().hex()


def map_background(
    features: Floats, labels: npt.NDArray[np.integer], present: BoolArray, key: str, config: BiasConfig
) -> BiasStats:
    """The centroids of one image.

    features: float [h, w, D]. labels: int [h, w], class rows, BACKGROUND for none, other negatives to be left out.
    present: bool [C], the classes that are or may be in the image: those that are not known to be absent. key: the
    image's own, such as its digest.
    """
    flat, label = unit(features.reshape(-1, features.shape[-1])), labels.ravel()

    def bank(row: int, parts: int) -> Bank:
        centres = _centres(flat[label == row], parts)
        ranks = [_hash(f"{key} {row} {number}") for number in range(len(centres))]
        order = np.argsort(np.array(ranks, np.uint64))
        image = np.full(len(centres), _hash(key), np.uint64)
        return Bank(np.array(ranks, np.uint64)[order], centres[order], image, np.tile(present, (len(centres), 1)))

    return BiasStats(
        bank(BACKGROUND, config.background_parts),
        tuple(bank(row, config.parts) for row in range(len(present))),
        flat.sum(0, dtype=np.float64),
        len(flat),
        present.astype(np.int64),
        (~present).astype(np.int64),
    )


def reduce(stats: Iterable[BiasStats], config: BiasConfig) -> BiasStats:
    """The stats of some images, or of some partitions, as one: the same whatever the order and the partitions.

    Raises ValueError without any.
    """
    parts = list(stats)
    if not parts:
        raise ValueError("there is nothing to reduce")
    first, rest = parts[0], parts[1:]
    return BiasStats(
        first.background.merged([part.background for part in rest], config.bank),
        tuple(
            bank.merged([part.classes[row] for part in rest], config.class_bank)
            for row, bank in enumerate(first.classes)
        ),
        np.sum([part.total for part in parts], axis=0),
        sum(part.count for part in parts),
        np.sum([part.images for part in parts], axis=0),
        np.sum([part.without for part in parts], axis=0),
    )


def remove(
    features: Floats, heat: Floats, rows: npt.NDArray[np.integer], stats: BiasStats, config: BiasConfig, key: str = ""
) -> Floats:
    """Heat float32 [K, h, w] without the biased parts of each class's region; they become 0.

    features: float [h, w, D]. rows: int [K], class rows. key: the image's own, whose centroids have no say. A class
    stays as it is where too little is known of it, or where nearly all of its region would go.
    """
    cleaned = np.array(heat, np.float32)
    flat = unit(features.reshape(-1, features.shape[-1]))
    mean, looks, looks_of = _looks(stats)
    own = _hash(key) if key else None
    for index, row in enumerate(rows):
        if min(stats.images[row], stats.without[row]) < config.min_images:
            continue
        backgrounds = _others(stats.background, own) & ~stats.background.present[:, row]
        regions = _others(stats.classes[row], own)
        inside = np.flatnonzero(heat[index].ravel() > config.hot * heat[index].max())
        if not len(inside) or min(backgrounds.sum(), regions.sum()) < config.votes:
            continue
        centres, member = clusters(flat[inside] - mean, config.parts)
        outside = _closeness(centres, looks, backgrounds, config.votes)
        within = _closeness(centres, looks_of[row], regions, config.votes)
        biased = ((outside > config.floor) & (outside > within - config.margin))[member]
        if 0 < biased.mean() <= config.max_share:
            cleaned[index].ravel()[inside[biased]] = 0
    return cleaned


def to_arrays(stats: BiasStats) -> dict[str, npt.NDArray[np.generic]]:
    """The stats as named arrays, to be stored; `from_arrays` is the way back."""
    banks = [stats.background, *stats.classes]
    return {
        **{field.name: np.concatenate([getattr(bank, field.name) for bank in banks]) for field in fields(Bank)},
        "sizes": np.array([len(bank.rank) for bank in banks], np.int64),
        "total": stats.total,
        "count": np.array(stats.count, np.int64),
        "images": stats.images,
        "without": stats.without,
    }


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> BiasStats:
    ends = np.cumsum(arrays["sizes"])[:-1]
    cut = zip(*(np.split(arrays[field.name], ends) for field in fields(Bank)), strict=True)
    background, *classes = (Bank(*parts) for parts in cut)
    count = int(arrays["count"])
    return BiasStats(background, tuple(classes), arrays["total"], count, arrays["images"], arrays["without"])


def _centres(vectors: Floats, count: int) -> Floats:
    """Mean unit vectors float32 [k, D] of at most `count` clusters of what the vectors do not share."""
    if not len(vectors):
        return np.zeros((0, vectors.shape[1]), np.float32)
    _, member = clusters(vectors - vectors.mean(0), count)
    sums = np.zeros((int(member.max()) + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, member, vectors)
    return np.asarray(sums / np.bincount(member)[:, None], np.float32)


@lru_cache(maxsize=4)
def _looks(stats: BiasStats) -> tuple[Floats, Floats, tuple[Floats, ...]]:
    """The mean of all patches, float32 [D], and the unit centroids of all banks without it."""
    mean = (stats.total / max(stats.count, 1)).astype(np.float32)
    return mean, unit(stats.background.centroids - mean), tuple(unit(one.centroids - mean) for one in stats.classes)


def _others(bank: Bank, own: int | None) -> BoolArray:
    """Which of a bank's centroids are not of the image `own`, bool [M]."""
    return np.ones(len(bank.rank), bool) if own is None else bank.image != np.uint64(own)


def _closeness(centres: Floats, bank: Floats, among: BoolArray, votes: int) -> Floats:
    """Mean cosine of each unit centre [k, D] with the `votes` nearest among a bank [M, D], float32 [k]."""
    cosines = np.where(among, centres @ bank.T, -np.inf)
    return np.asarray(-np.partition(-cosines, votes - 1, axis=1)[:, :votes].mean(1), np.float32)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
