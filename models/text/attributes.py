"""Class embeddings enriched by attention over a bank of visual attributes (the text half of ExCEL, CVPR 2025).

    bank = attribute_bank(encoder.encode(sentences), clusters=40)
    classes = enrich(classes, bank, temperature=0.01, keep=0.9)

The published code attends without a temperature. Cosines of short texts lie so close together that its softmax is all
but a plain mean, which adds the same vector to every class; here the temperature is a setting.
"""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
ROUNDS = 50
"""k-means stops by itself long before on a few hundred sentences."""


def attribute_bank(sentences: Vectors, clusters: int, seed: int = 0) -> Vectors:
    """Sentence embeddings, unit float32 [A, D], to unit cluster centres, float32 [min(clusters, A), D].

    Spherical k-means, started as k-means++ does; the same sentences, in the same order, give the same bank. Raises
    ValueError for no sentence or no cluster.
    """
    if not len(sentences) or clusters < 1:
        raise ValueError(f"a bank needs sentences and clusters, not {len(sentences)} and {clusters}")
    rng = np.random.default_rng(seed)
    sentences = _unit(sentences)
    chosen = [int(rng.integers(len(sentences)))]
    while len(chosen) < min(clusters, len(sentences)):
        far = np.maximum(1 - (sentences @ sentences[chosen].T).max(1), 0).astype(np.float64)
        far[chosen] = 0
        # Sentences that are the same as a chosen one start no cluster of their own, while there are others.
        chosen.append(int(rng.choice(len(sentences), p=far / far.sum())) if far.sum() > 1e-6 else _left(chosen))
    centres, before = sentences[chosen], None
    for _ in range(ROUNDS):
        nearest = (sentences @ centres.T).argmax(1)
        if before is not None and (nearest == before).all():
            break
        before = nearest
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sentences)
        held = np.linalg.norm(sums, axis=1) > 1e-6
        centres = np.where(held[:, None], _unit(sums), centres)
    return centres


def attention(classes: Vectors, bank: Vectors, temperature: float, keep: float) -> Vectors:
    """How much each class takes of each attribute, float32 [C, K], rows sum to 1.

    classes: unit float32 [C, D]. bank: unit float32 [K, D]. temperature: of the softmax over cosines, above 0; a large
    one gives every attribute the same. keep: share 0..1 of the attributes, the closest to the class, that take part (at
    least one).
    """
    if not (temperature > 0 and 0 <= keep <= 1):
        raise ValueError(f"temperature {temperature} is not above 0, or keep {keep} not in 0..1")
    cosines = (classes @ bank.T).astype(np.float64)
    kept = max(1, round(keep * len(bank)))
    least = np.sort(cosines, axis=1)[:, -kept][:, None]
    weights = np.where(cosines >= least, np.exp((cosines - cosines.max(1, keepdims=True)) / temperature), 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def enrich(classes: Vectors, bank: Vectors, temperature: float = 0.01, keep: float = 0.9) -> Vectors:
    """norm(t + attention(t) . A): unit float32 [C, D] to the same."""
    return _unit(classes + attention(classes, bank, temperature, keep) @ bank)


def _left(chosen: list[int]) -> int:
    return min(set(range(len(chosen) + 1)) - set(chosen))


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8), np.float32)
