"""What a class looks like, from the images that its name retrieves: ReCo (Shin, Xie and Albanie, NeurIPS 2022).

For every patch, its best match in each of the other images: what all of them show has good matches everywhere. The
patch with the best ones is an image's seed, and the mean of the seeds is the class's reference, to be compared with any
image. Names retrieve context too (trains come with rails), so what looks like another concept counts less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.corpus.clusters import unit

Floats = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CosegmentConfig:
    """How references are found and used. The defaults are the paper's code's, except where said.

    text_scale: steepness of the attention that a patch pays to a text score. context_scale: the same for the nearest
    concept of the context; 0: no context elimination. near: cosine from which a concept is taken for the class itself
    and left out of its context (ours). reference_scale, reference_centre: steepness and middle of the sigmoid that
    cosines with the reference go through; the paper's code has 1 and 0, which spans only 0.5 to 0.73.
    """

    text_scale: float = 10.0
    context_scale: float = 10.0
    near: float = 0.9
    reference_scale: float = 10.0
    reference_centre: float = 0.5


@dataclass(frozen=True)
class Reference:
    """embedding: float32 [D], unit norm. mean: float32 [D], what was taken off all features before they were compared.
    seeds: intp [n], each image's seed as an index into its patches, row by row. support: float32 [n], 0..1, how well
    the seed is matched in the other images."""

    embedding: Floats
    mean: Floats
    seeds: npt.NDArray[np.intp]
    support: Floats


@dataclass(frozen=True, eq=False)
class References:
    """What the classes of a set look like. embeddings: float32 [C, D], unit norm. known: bool [C], which of them have
    one. mean: float32 [D], see `Reference`. centre: cosine in the middle between what is a class and what is not."""

    embeddings: Floats
    known: BoolArray
    mean: Floats
    centre: float


def context_of(target: int, classes: Floats, words: Floats, absent: BoolArray, near: float) -> Floats:
    """Embeddings of what surrounds a class but is not it, float32 [M, D]: background words, and absent classes.

    target: class row. classes: float32 [C, D], unit; words: float32 [B, D], unit. absent: bool [C], classes that are in
    none of the images looked at. Neither the target nor a concept whose cosine with it reaches `near` is ever among
    them, nor any class that is not absent, nor a word that close to one of those: what may be there is no context.
    """
    shown = ~absent
    shown[target] = True
    kept_words = words[(words @ classes[shown].T).max(1) < near] if len(words) else words
    others = classes[~shown]
    others = others[others @ classes[target] < near] if len(others) else others
    return np.concatenate([others, kept_words]).astype(np.float32)


def attention(scores: Floats, config: CosegmentConfig) -> Floats:
    """0..1 from text scores (cosines) of any shape."""
    return _sigmoid(config.text_scale * scores)


def not_context(features: Floats, context: Floats, config: CosegmentConfig) -> Floats:
    """How little each patch looks like the nearest concept, 0..1, float32 [h, w]. features: [h, w, D]; context: [M, D].

    1 everywhere without a context.
    """
    if not len(context) or config.context_scale == 0:
        return np.ones(features.shape[:-1], np.float32)
    nearest = (unit(features) @ context.T).max(-1)
    return 1 - _sigmoid(config.context_scale * nearest)


def affinities(features: Sequence[Floats], weights: Sequence[Floats]) -> list[Floats]:
    """How well each patch is matched by the other images of a group, float32 [h, w] for each: the mean over the others
    of its best cosine there, at least 0, times the weight of the patch that it matches.

    features: n arrays [h, w, D]. weights: n arrays [h, w], 0..1. A lone image is matched by nothing: 0.
    """
    flat = [unit(image.reshape(-1, image.shape[-1])) for image in features]
    sums = [np.zeros(len(image), np.float32) for image in flat]
    # One pair of images at a time: memory does not grow with the group.
    for this, mine in enumerate(flat):
        for other in range(this + 1, len(flat)):
            cosines = np.maximum(mine @ flat[other].T, 0)
            sums[this] += (cosines * weights[other].reshape(1, -1)).max(1)
            sums[other] += (cosines * weights[this].reshape(-1, 1)).max(0)
    others = max(len(flat) - 1, 1)
    pairs = zip(sums, features, strict=True)
    return [np.asarray(total / others, np.float32).reshape(image.shape[:2]) for total, image in pairs]


def reference(
    features: Sequence[Floats],
    text_scores: Sequence[Floats],
    context: Floats,
    config: CosegmentConfig,
    mean: Floats | None = None,
) -> Reference:
    """What a class looks like, from the n images that its name retrieved.

    features: n arrays float [h, w, D]. text_scores: n arrays float [h, w], cosines of the patches with the class's
    text. context: float32 [M, D], from `context_of`. mean: float32 [D], the mean of the corpus's unit features: CLIP's
    have so much in common that any two patches are alike until it is taken off; None takes nothing off. Of a lone image
    the patch that text and context favour is taken.
    Raises ValueError without an image.
    """
    if not features:
        raise ValueError("a reference needs at least one image")
    pairs = zip(features, text_scores, strict=True)
    weights = [attention(scores, config) * not_context(image, context, config) for image, scores in pairs]
    mean = np.zeros(features[0].shape[-1], np.float32) if mean is None else mean
    looks = [unit(image) - mean for image in features]
    matched = affinities(looks, weights) if len(features) > 1 else weights
    seeds = np.array([int(values.argmax()) for values in matched], np.intp)
    support = np.array([values.max() for values in matched], np.float32)
    seeded = np.stack([look.reshape(-1, look.shape[-1])[seed] for look, seed in zip(looks, seeds, strict=True)])
    return Reference(unit(unit(seeded).mean(0)), mean, seeds, support)


def apply(features: Floats, reference: Reference, text_scores: Floats, config: CosegmentConfig) -> Floats:
    """How much each patch of an image looks like a class, by its reference and its text: float32 [h, w], 0..1."""
    alike = cosines(features, reference.mean, reference.embedding)
    seen = _sigmoid(config.reference_scale * (alike - config.reference_centre))
    return np.asarray(seen * attention(text_scores, config), np.float32)


def cosines(features: Floats, mean: Floats, embedding: Floats) -> Floats:
    """Of each patch with a reference, float32 [h, w], once what all features share is taken off."""
    return np.asarray(unit(unit(features) - mean) @ embedding, np.float32)


def reference_heat(
    references: References, features: Floats, rows: npt.NDArray[np.integer], classes: Floats, heat: Floats
) -> Floats:
    """Heat float32 [K, h, w], 0..1, of what is hot and looks like its class' reference; as it is without one.

    features: float [h, w, D]. rows: int [K], class rows. classes: float32 [C, D], unit, embedded texts. heat: float32
    [K, h, w].
    """
    config = CosegmentConfig(reference_centre=references.centre)
    looks, found = unit(features), np.array(heat, np.float32)
    for index, row in enumerate(rows):
        if references.known[row]:
            one = Reference(references.embeddings[row], references.mean, np.zeros(0, np.intp), np.zeros(0, np.float32))
            found[index] *= apply(features, one, looks @ classes[row], config)
            found[index] /= max(float(found[index].max()), 1e-8)
    return found


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))), np.float32)
