"""A map that may be wrong: what it says of pixels, of what looks like them, and of the masks that hold them.

Old masks, those of the frame before, or another program's are right inside and wrong along the edges of what moved or
was drawn badly. So a class is also where patches look like most of its pixels in this image (a prototype of each
class, as in GPRN's matching), and where a mask holds mostly it; thin things, which the coarse grid cannot hold, stay as
the map has them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.decide.scene import Scene
from models.decide.seeds import BACKGROUND, NOTHING, ids_to_rows
from models.refine.grids import resize_maps
from models.refine.par import propagate

Maps = npt.NDArray[np.float32]
SHARPNESS = 0.1
"""Softmax temperature of cosines between patches and prototypes."""
PURITY_POWER = 4
"""A mask speaks by the share that its commonest class has of it, to this power."""


@dataclass(frozen=True)
class Noisy:
    """shares: float32 [K, h, w], 0..1, of the classes among what the map says. mass: float32 [h, w], 0..1, how much it
    says."""

    shares: Maps
    mass: Maps


def planes_of(scene: Scene, noisy: npt.NDArray[np.int32]) -> Maps:
    """One plane 0 or 1 for each class that takes part, and the background's last: float32 [K + 1, H, W]."""
    given = ids_to_rows(noisy, scene.classes)
    others = (given != NOTHING) & ~np.isin(given, scene.rows)
    return np.stack([given == row for row in scene.rows] + [others | (given == BACKGROUND)]).astype(np.float32)


def spread_noisy(scene: Scene, planes: Maps) -> Noisy:
    """What the map says on the coarse grid; planes: of `planes_of`."""
    config = scene.config
    said = resize_maps(planes, scene.size)
    if config.noisy_mask_share > 0 and len(scene.masks):
        said = _by_masks(scene, said, config.noisy_mask_share)
    if config.noisy_alike_share > 0 and len(scene.rows):
        # The background is no look of its own, and keeps what it has.
        share, classes = np.float32(config.noisy_alike_share), said[:-1]
        alike = classes.sum(0) * _alike(scene, planes[:-1])
        said = np.concatenate([(1 - share) * classes + share * alike, said[-1:]])
    said = propagate(said, scene.flow, config.noisy_iterations)
    mass = np.minimum(said.sum(0), 1)
    return Noisy(said[:-1] / np.maximum(said.sum(0), 1e-6), mass)


def _by_masks(scene: Scene, said: Maps, share: float) -> Maps:
    """The mean of what the masks that hold a pixel say of themselves, in the place of this share of what it says."""
    cover = (scene.masks.reshape(len(scene.masks), -1) > 0.5).astype(np.float32)
    inside = said.reshape(len(said), -1) @ cover.T / np.maximum(cover.sum(1), 1)
    weight = scene.quality * inside.max(0) ** PURITY_POWER
    total = weight @ cover
    votes = (inside * weight) @ cover / np.maximum(total, 1e-6)
    part = np.float32(share) * np.minimum(total, 1)
    return np.asarray((1 - part) * said.reshape(len(said), -1) + part * votes, np.float32).reshape(said.shape)


def _alike(scene: Scene, planes: Maps) -> Maps:
    """Softmax of the likeness of patches to the pixels of each plane, float32 [K, h, w]; of planes that cover half a
    patch at least."""
    features = scene.evidence.features
    height, width, depth = features.shape
    patches = features.reshape(-1, depth).astype(np.float32)
    patches = patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-8)
    patches = patches - patches.mean(0)
    patches /= np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-8)
    member = resize_maps(planes, (height, width)).reshape(len(planes), -1)
    prototypes = member @ patches
    prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-8)
    cosine = prototypes @ patches.T
    cosine[member.sum(1) < 0.5] = -np.inf
    if not np.isfinite(cosine).any():
        return resize_maps(planes, scene.size)
    odds = np.exp((cosine - cosine.max(0)) / SHARPNESS)
    return resize_maps((odds / odds.sum(0)).reshape(-1, height, width), scene.size)


def keep_noisy(scene: Scene, strength: Maps, planes: Maps) -> Maps:
    """Strengths float32 [K, gh, gw] at the guide's resolution with the map's own pixels in them: a share of all, and
    more of those that the coarse grid loses."""
    config, size = scene.config, (strength.shape[1], strength.shape[2])
    if config.noisy_own_share == 0 and config.noisy_thin_share == 0:
        return strength
    own = resize_maps(planes, size)
    lost = (own * (resize_maps(resize_maps(planes, scene.size), size) < 0.5)).sum(0)
    part = config.noisy_own_share * own.sum(0) + (config.noisy_thin_share - config.noisy_own_share) * lost
    return np.asarray((1 - part) * strength + part * own[:-1], np.float32)
