"""What one image has to say to a head: its patches, and how its own first label sees each of them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.corpus.head import BoolArray, HeadConfig, Maps, soft_targets
from models.decide.config import DecideConfig
from models.decide.decide import frame_of, fuse, look
from models.decide.types import ClassArrays, TextBank, WeakArrays
from models.evidence import Evidence
from models.refine.grids import resize_maps


@dataclass(frozen=True)
class Patches:
    """features: float16 [n, D]. targets: float16 [n, C+1], rows sum to 1, column 0 is the background. allowed: bool
    [n, C+1], what the image may hold."""

    features: npt.NDArray[np.float16]
    targets: npt.NDArray[np.float16]
    allowed: BoolArray


def patches_of(
    evidence: Evidence,
    text: TextBank,
    classes: ClassArrays,
    weak: WeakArrays,
    config: DecideConfig,
    head: HeadConfig,
    seed: int,
) -> Patches | None:
    """At most `head.patches` patches of an image, drawn by the seed, and the fused votes of text and masks for them.

    None of an image whose tags name no class: what is not known to be there teaches nothing.
    """
    if weak.present is None or not weak.present.any():
        return None
    # Only what is known to be there, no guesses of the presence gate.
    present = weak.present & ~weak.absent
    known = replace(weak, absent=~present)
    scene = look(frame_of(evidence, config), evidence, text, classes, known, config)
    votes, _, _ = fuse(scene, ())
    height, width, depth = evidence.features.shape
    strength: Maps = np.zeros((len(classes.ids), height, width), np.float32)
    strength[scene.rows] = resize_maps(votes.strength, (height, width))
    chosen = np.random.default_rng(seed).permutation(height * width)[: head.patches]
    allowed = np.zeros(len(classes.ids) + 1, bool)
    allowed[1:][scene.rows] = True
    allowed[0] = classes.background_id is not None
    spread = np.broadcast_to(allowed, (len(chosen), len(allowed))).copy()
    targets = soft_targets(strength.reshape(len(strength), -1).T[chosen], spread, head)
    features = evidence.features.reshape(-1, depth)[chosen]
    return Patches(features.astype(np.float16), targets.astype(np.float16), spread)
