"""What a group of images has in common: how many of them show each kind of region (US/SS-CoSOD, 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.corpus.clusters import clusters, unit

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FrequencyConfig:
    """kinds: of regions that are told apart, at most. same: cosine from which two regions are of one kind; below, a
    region counts in proportion. alike: cosine from which all regions together are of one kind. min_area: share of an
    image that a kind must cover to count as shown."""

    kinds: int = 64
    same: float = 0.8
    alike: float = 0.99
    min_area: float = 0.01


def pool_regions(features: Floats, regions: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Unit mean feature float32 [R, D] and area float32 [R] (share of the image) of the regions of an image.

    features: float [h, w, D]. regions: int [h, w], 0..R-1; what is negative belongs to none.
    """
    number, depth = regions.ravel(), features.shape[-1]
    count = int(number.max(initial=-1)) + 1
    inside = number >= 0
    sums = np.zeros((count, depth), np.float32)
    np.add.at(sums, number[inside], unit(features.reshape(-1, depth))[inside])
    area = np.bincount(number[inside], minlength=count) / max(number.size, 1)
    return unit(sums), area.astype(np.float32)


def frequency(regions: Sequence[Floats], areas: Sequence[Floats], config: FrequencyConfig) -> list[Floats]:
    """How often the like of each region is seen over a group of images, float32 [R] for each image, 0..1.

    regions: n arrays [R, D]; areas: n arrays [R]. The regions of all images are clustered; a kind's frequency is the
    share of the images that show it on `min_area` of them: 1 for what is in every image, and never less than 1/n.
    """
    everything = np.concatenate(list(regions)) if regions else np.zeros((0, 1), np.float32)
    if not len(everything):
        return [np.zeros(0, np.float32) for _ in regions]
    shared = unit(unit(everything).mean(0)[None])[0]
    everywhere = all(float(area.sum()) >= config.min_area for area in areas)
    if everywhere and (unit(everything) @ shared).min() >= config.alike:
        return [np.ones(len(part), np.float32) for part in regions]
    # Without what all regions share, or all of them point the same way.
    centred = unit(everything) - unit(everything).mean(0) if len(everything) > 1 else everything
    centres, kind = clusters(centred, config.kinds, config.same)
    likeness = np.clip((unit(centred) * centres[kind]).sum(1) / config.same, 0, 1)
    image = np.repeat(np.arange(len(regions)), [len(part) for part in regions])
    covered = np.zeros((len(regions), len(centres)), np.float32)
    np.add.at(covered, (image, kind), np.concatenate(list(areas)))
    shown = (covered >= config.min_area).mean(0)
    scores = np.maximum(shown[kind] * likeness, 1 / len(regions)).astype(np.float32)
    return np.split(scores, np.cumsum([len(part) for part in regions])[:-1])


def cosalience(often: Floats, regions: npt.NDArray[np.integer], saliency: Floats) -> Floats:
    """What stands out and recurs, float32 [h, w], 0..1: saliency [h, w] 0..1 times its region's frequency `often` [R].

    What belongs to no region is 0.
    """
    recurring = np.where(regions >= 0, often[np.maximum(regions, 0)] if len(often) else 0, 0)
    return np.asarray(saliency * recurring, np.float32)
