"""Text against patches: from the dense features to a heat map for each class that takes part."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.decide.config import DecideConfig
from models.decide.types import TextBank, WeakArrays
from models.evidence import Evidence

Maps = npt.NDArray[np.float32]
HOT_SHARE = 0.05
"""Share of the patches whose mean is a class's maximum heat: one patch alone is too easily wrong."""


@lru_cache(maxsize=4)
def class_embeddings(text: TextBank, num_classes: int) -> tuple[Maps, Maps]:
    """Unit embeddings of the classes, float32 [C, D] (mean of each class's prompts), and of background words [B, D].

    Raises ValueError for a class without a prompt: it could never be found.
    """
    sums = np.zeros((num_classes, text.emb.shape[1]), np.float32)
    named = text.class_of >= 0
    np.add.at(sums, text.class_of[named], text.emb[named])
    without = sorted(set(range(num_classes)) - set(text.class_of[named].tolist()))
    if without:
        raise ValueError(f"class rows {without} have no prompt")
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-8), text.emb[~named]


def patch_scores(evidence: Evidence, text: TextBank, num_classes: int, config: DecideConfig) -> tuple[Maps, Maps]:
    """Scores of every patch: float32 [C, h, w] for the classes, [h, w] for the best background word (0 without words).

    Dot products (any scale) or cosines (-1..1), as config.similarity says.
    """
    classes, words = class_embeddings(text, num_classes)
    height, width, depth = evidence.features.shape
    features = np.ascontiguousarray(evidence.features.reshape(-1, depth), dtype=np.float32)
    if config.similarity == "cosine":
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)
    scores = (classes @ features.T).reshape(num_classes, height, width)
    best_word = (words @ features.T).max(0) if len(words) else np.zeros(height * width, np.float32)
    return scores, best_word.reshape(height, width)


def presence(evidence: Evidence, text: TextBank, scores: Maps, config: DecideConfig) -> npt.NDArray[np.float32]:
    """How likely each class is in the image, float32 [C], relative to the likeliest one (which has 1).

    A blend of the global embedding's match and of the hottest patches' scores (the best HOT_SHARE of them).
    """
    classes, _ = class_embeddings(text, len(scores))
    flat = scores.reshape(len(scores), -1)
    hot = max(1, round(HOT_SHARE * flat.shape[1]))
    local = np.partition(flat, -hot, axis=1)[:, -hot:].mean(1)
    weight = config.presence_heat_weight
    return (1 - weight) * _relative(classes @ evidence.embedding, config) + weight * _relative(local, config)


def _relative(values: npt.NDArray[np.float32], config: DecideConfig) -> npt.NDArray[np.float32]:
    """Values as shares of the largest: of their positive parts, or of a softmax where a temperature is set.

    Cosines of OpenAI's CLIP all lie between 0.15 and 0.35; without a temperature every class would seem present.
    """
    if config.presence_temperature > 0:
        return np.asarray(np.exp((values - values.max()) / config.presence_temperature), np.float32)
    return np.asarray(np.maximum(values, 0) / max(float(values.max()), 1e-8), np.float32)


def candidates(
    likely: npt.NDArray[np.float32],
    weak: WeakArrays,
    marked: npt.NDArray[np.bool_],
    noted: npt.NDArray[np.bool_],
    gated: bool,
    config: DecideConfig,
) -> npt.NDArray[np.bool_]:
    """Which classes take part, bool [C].

    likely: presence() of each class. marked: classes of points, scribbles, boxes and partial maps; they always take
    part, and so do present tags. Classes that a tag says are absent never do, unless marked: who marks a place has
    looked closer than who tagged the image. noted: classes of a noisy map, which take part unless absent. The others
    compete through the presence gate (gated=False: all of them, for class sets without background).
    """
    present = weak.present if weak.present is not None else np.zeros_like(weak.absent)
    sure = present | marked | (noted & ~weak.absent)
    open_classes = ~weak.absent & ~sure
    if gated:
        threshold = config.presence_threshold_hinted if sure.any() else config.presence_threshold
        passing = open_classes & (likely >= threshold)
        if config.presence_max_classes:
            ranked = np.argsort(-np.where(passing, likely, -1.0), kind="stable")[: config.presence_max_classes]
            keep = np.zeros_like(passing)
            keep[ranked] = True
            passing &= keep
    else:
        passing = open_classes
    return sure | passing


def heat(scores: Maps, words: Maps, config: DecideConfig) -> Maps:
    """Scores [K, h, w] of the classes that take part to heat 0..1; words: [h, w], the best background word.

    max: ReLU over the maximum, which keeps the objectness that is in the size of a dot product. minmax: over the map's
    own range. softmax: over classes and background word, then over the maximum.
    """
    if not len(scores):
        return np.zeros_like(scores)
    if config.heat_scale == "softmax":
        stacked = np.concatenate([scores, words[None]]) / config.softmax_temperature
        stacked = np.exp(stacked - stacked.max(0))
        scores = np.asarray(stacked[:-1] / stacked.sum(0), np.float32)
    else:
        scores = np.asarray(scores - config.background_words_weight * np.maximum(words, 0), np.float32)
    if config.heat_scale == "minmax":
        scores = np.asarray(scores - scores.min((1, 2), keepdims=True), np.float32)
    return normalise(np.maximum(scores, 0))


def normalise(maps: Maps) -> Maps:
    """Divide each map [K, h, w] >= 0 by its maximum; maps that are zero stay zero."""
    return np.asarray(maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-8), np.float32)
