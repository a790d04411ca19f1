"""Classes as piecewise constant features with short borders: a Mumford-Shah model, minimised by turns.

After LMS-Net (2025), which unrolls the same two steps (prototypes, masks) as network layers; the prior here is not
learned: borders cost what the affinity says, little along the picture's edges (the length term of Esedoglu and Otto's
threshold dynamics, 2015, with an edge-aware kernel). The energy of masks u_k and prototypes c_k,

    E = mean over x of  sum_k u_k (|f - c_k|^2 / V - anchor * log p_k)
                      + smoothness * sum_k u_k (1 - W u_k)  +  temperature * sum_k u_k log u_k,

never rises: the best prototypes for given masks are weighted means, and the border term is concave for a W without
negative eigenvalues, so that the masks that are best against its tangent lower it as well.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.refine.affinity import Affinity

Maps = npt.NDArray[np.float32]
SURE = 1e-3
"""Least probability of the start: what it rules out may still win by its features."""


@dataclass(frozen=True)
class MumfordShahConfig:
    """steps: turns of prototypes and masks (0: the start comes back). temperature > 0: softness of the masks, in shares
    of the features' variance V. smoothness >= 0: cost of a border. anchor >= 0: pull to the start."""

    steps: int = 5
    temperature: float = 0.2
    smoothness: float = 0.3
    anchor: float = 0.2


def mumford_shah(
    features: Maps, start: Maps, smoother: Affinity, config: MumfordShahConfig
) -> tuple[Maps, npt.NDArray[np.float64]]:
    """Masks float32 [K, h, w] that sum to 1 in each place, and the energy after each turn, float64 [steps].

    Args:
        features: float [h, w, D], any scale. start: float32 [K, h, w], probabilities that sum to 1.
        smoother: on the same grid; it is made symmetric, balanced and squared, which the descent needs.

    Raises ValueError if the grids differ.
    """
    if features.shape[:2] != start.shape[1:] or smoother.size != features.shape[:2]:
        raise ValueError(f"features {features.shape[:2]}, start {start.shape[1:]}, smoother {smoother.size} differ")
    if config.steps == 0 or not len(start):
        return start, np.zeros(0)
    flat = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
    flat = flat - flat.mean(0)
    flat /= np.sqrt(max(float(np.square(flat).sum(1).mean()), 1e-12))  # |f|^2 is 1 in the mean: V is taken in.
    walk = smoother.sinkhorn().power(2)
    pull = -config.anchor * np.log(np.maximum(start.reshape(len(start), -1).astype(np.float64), SURE))
    masks = start.reshape(len(start), -1).astype(np.float64)
    energies = []
    for _ in range(config.steps):
        costs = _distances(flat, masks) + pull
        # The tangent of the border term at the masks: u (1 - 2 W u) up to a constant.
        logits = -(costs - 2 * config.smoothness * _smooth(walk, masks, start.shape)) / config.temperature
        masks = np.exp(logits - logits.max(0))
        masks /= masks.sum(0)
        energies.append(energy(flat, masks, pull, walk, start.shape, config))
    return masks.reshape(start.shape).astype(np.float32), np.array(energies)


def _distances(flat: npt.NDArray[np.float64], masks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Squared distance [K, N] of every place to the mean feature of each mask [K, N]."""
    centres = masks @ flat / np.maximum(masks.sum(1, keepdims=True), 1e-9)
    squared = np.square(flat).sum(1)[None] + np.square(centres).sum(1)[:, None] - 2 * centres @ flat.T
    return np.maximum(squared, 0)


def _smooth(walk: Affinity, masks: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return walk.apply(masks.reshape(shape).astype(np.float32)).reshape(len(masks), -1).astype(np.float64)


def energy(
    flat: npt.NDArray[np.float64],
    masks: npt.NDArray[np.float64],
    pull: npt.NDArray[np.float64],
    walk: Affinity,
    shape: tuple[int, ...],
    config: MumfordShahConfig,
) -> float:
    """E of masks [K, N] with the prototypes that suit them best; see the head of this file."""
    data = masks * (_distances(flat, masks) + pull)
    border = config.smoothness * masks * (1 - _smooth(walk, masks, shape))
    mixing = config.temperature * masks * np.log(np.maximum(masks, 1e-300))
    return float((data + border + mixing).sum(0).mean())
