"""What one image has to teach: its patches, and how its own first label sees each of them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.corpus.bias import BACKGROUND, BiasConfig, BiasStats, image_key, map_background
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
    height, width, depth = evidence.features.shape
    strength, rows = _votes(evidence, text, classes, weak, weak.present & ~weak.absent, config)
    chosen = np.random.default_rng(seed).permutation(height * width)[: head.patches]
    allowed = np.zeros(len(classes.ids) + 1, bool)
    allowed[1:][rows] = True
    allowed[0] = classes.background_id is not None
    spread = np.broadcast_to(allowed, (len(chosen), len(allowed))).copy()
    targets = soft_targets(strength.reshape(len(strength), -1).T[chosen], spread, head)
    features = evidence.features.reshape(-1, depth)[chosen]
    return Patches(features.astype(np.float16), targets.astype(np.float16), spread)


def background_of(
    evidence: Evidence, text: TextBank, classes: ClassArrays, weak: WeakArrays, config: DecideConfig, bias: BiasConfig
) -> BiasStats | None:
    """What an image says of its background and its classes, by the fused votes of text and masks.

    None of an image whose tags name no class: what may be anything tells no background from a class.
    """
    if weak.present is None or not weak.present.any():
        return None
    strength, _ = _votes(evidence, text, classes, weak, weak.present & ~weak.absent, config)
    floor = config.background_threshold if classes.background_id is not None else -1.0
    labels = np.where(strength.max(0) > floor, strength.argmax(0), BACKGROUND)
    return map_background(evidence.features, labels, ~weak.absent, image_key(evidence.embedding), bias)


def _votes(
    evidence: Evidence,
    text: TextBank,
    classes: ClassArrays,
    weak: WeakArrays,
    present: BoolArray,
    config: DecideConfig,
) -> tuple[Maps, npt.NDArray[np.intp]]:
    """How strongly each class was voted for in each patch, float32 [C, h, w], and the rows that took part."""
    # Only what is known to be there, no guesses of the presence gate.
    known = replace(weak, absent=~present)
    scene = look(frame_of(evidence, config), evidence, text, classes, known, config)
    votes, _, _ = fuse(scene, ())
    height, width, _ = evidence.features.shape
    strength: Maps = np.zeros((len(classes.ids), height, width), np.float32)
    strength[scene.rows] = resize_maps(votes.strength, (height, width))
    return strength, scene.rows
