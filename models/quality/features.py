"""What a finished label and the evidence behind it tell of how good the label is, as one row of numbers.

After RS-SQA, "Remote Sensing Semantic Segmentation Quality Assessment based on Vision Language Model" (2025): semantics
from CLIP's image tower beside low-level signs of the segmentation. The signs are our own. No gold mask is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.decide.masks import mask_quality, soft_iou
from models.decide.text_match import class_embeddings
from models.decide.types import PROVENANCE, ClassArrays, Label, TextBank
from models.evidence import Evidence
from models.refine.grids import resize_maps

DIRECTIONS = 4
STEP = 4  # Confidence and provenance are kept on a grid of this many pixels.
MIN_DEVIATION = 0.3
"""Least spread of a class's log area: a few labels that happen to agree do not make every other one strange."""
SIGNS = (
    "confidence_mean", "confidence_low", "confidence_median", "confidence_foreground",
    "entropy_mean", "entropy_high", "entropy_boundary", "entropy_inside", "boundary_share",
    "disagreement", "coverage", "classes", "foreground", "area_distance",
    "mask_fit", "mask_fit_least", "mask_quality", "bank_quality",
    "image_text", "image_text_least", "patch_contrast", "patch_contrast_least",
    "from_text", "from_mask", "from_tag",
)  # fmt: skip
FEATURES = (*SIGNS, *(f"image_{number}" for number in range(DIRECTIONS)))
"""Names of the columns of `label_features`."""
ENTROPY_MEAN = FEATURES.index("entropy_mean")
Row = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QualityBasis:
    """What a corpus looks like, learned without gold.

    center: float32 [D] and axes: float32 [DIRECTIONS, D], mean and leading directions of its image embeddings.
    log_area, deviation: float32 [C], mean and spread of the natural logarithm of each class's share of an image.
    """

    center: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]
    log_area: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, embeddings: npt.NDArray[np.float32], areas: npt.NDArray[np.float32]) -> "QualityBasis":
        """embeddings: float32 [N, D], of images. areas: float32 [N', C], share of each class in labels, 0: not there.

        A class that is in none of them is as large as all others are on average. Raises ValueError for no images.
        """
        if not len(embeddings) or not len(areas):
            raise ValueError("a basis needs one image and one label at least")
        center = embeddings.mean(0)
        _, _, axes = np.linalg.svd(embeddings - center, full_matrices=False)
        padded = np.zeros((DIRECTIONS, embeddings.shape[1]), np.float32)
        padded[: len(axes[:DIRECTIONS])] = axes[:DIRECTIONS]
        # The sign of a direction is arbitrary, and differs between libraries.
        padded *= np.where(padded.sum(1, keepdims=True) < 0, np.float32(-1), np.float32(1))
        log = np.where(areas > 0, np.log(np.maximum(areas, 1e-6)), np.nan)
        known = ~np.isnan(log)
        count = np.maximum(known.sum(0), 1)
        overall = float(np.nanmean(log)) if known.any() else 0.0
        mean = np.where(known.any(0), np.nansum(log, 0) / count, overall)
        spread = np.sqrt(np.nansum((log - mean) ** 2, 0) / count)
        deviation = np.where(known.sum(0) > 1, np.maximum(spread, MIN_DEVIATION), 1.0)
        return cls(center.astype(np.float32), padded, mean.astype(np.float32), deviation.astype(np.float32))


def class_areas(label: Label, classes: ClassArrays) -> Row:
    """Share of the image that each class has, float32 [C], 0 for those that are not there."""
    return np.array([label.areas.get(int(i), 0.0) for i in classes.ids], np.float32)


def label_features(label: Label, evidence: Evidence, classes: ClassArrays, text: TextBank, basis: QualityBasis) -> Row:
    """One row float32 [len(FEATURES)], all finite. About 5 ms."""
    areas = class_areas(label, classes)
    rows = np.flatnonzero(areas > 0)
    ids = label.class_map[::STEP, ::STEP]
    planes = (ids[None] == classes.ids[rows][:, None, None]).astype(np.float32)
    signs = {
        **_confidence_signs(label, ids, planes),
        "disagreement": label.disagreement,
        "coverage": label.coverage,
        "classes": float(len(rows)),
        "foreground": float(areas.sum()),
        "area_distance": _mean(np.abs(np.log(areas[rows]) - basis.log_area[rows]) / basis.deviation[rows]),
        **_mask_signs(evidence, planes, areas[rows]),
        **_text_signs(evidence, planes, rows, text, len(classes.ids)),
        **{f"from_{s}": float((label.provenance == PROVENANCE.index(s)).mean()) for s in ("text", "mask", "tag")},
    }
    image = basis.axes @ (evidence.embedding - basis.center)
    return np.array([*(signs[name] for name in SIGNS), *image], np.float32)


def _confidence_signs(label: Label, ids: npt.NDArray[np.integer], planes: Row) -> dict[str, float]:
    confidence = label.confidence.astype(np.float32) / 255
    p = np.clip(confidence, 1e-6, 1 - 1e-6)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    edges = _near_boundary(ids)
    drawn = planes.any(0) if len(planes) else np.zeros(ids.shape, bool)
    low, median = np.quantile(confidence, (0.1, 0.5))
    return {
        "confidence_mean": float(confidence.mean()),
        "confidence_low": float(low),
        "confidence_median": float(median),
        "confidence_foreground": _mean(confidence[drawn]),
        "entropy_mean": float(entropy.mean()),
        "entropy_high": float(np.quantile(entropy, 0.9)),
        "entropy_boundary": _mean(entropy[edges]),
        "entropy_inside": _mean(entropy[~edges]),
        "boundary_share": float(edges.mean()),
    }


def _near_boundary(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Pixels with one of their four neighbours in another class, bool [h, w]; the frame itself is no boundary."""
    edges = np.zeros(ids.shape, bool)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = ids[first] != ids[second]
        edges[first] |= differ
        edges[second] |= differ
    return edges


def _mask_signs(evidence: Evidence, planes: Row, areas: Row) -> dict[str, float]:
    """How well the best mask of the bank fits each class's pixels, and what SAM itself thinks of those masks."""
    bank, quality = evidence.bank, mask_quality(evidence.bank)
    found = {"mask_fit": 0.0, "mask_fit_least": 0.0, "mask_quality": 0.0, "bank_quality": _mean(quality)}
    if len(planes) and len(bank.probs):
        size = (bank.probs.shape[1], bank.probs.shape[2])
        fit = soft_iou(resize_maps(planes, size), bank.probs.astype(np.float32) / np.float32(255))
        best = fit.max(1)
        found["mask_fit"] = float((best * areas).sum() / areas.sum())
        found["mask_fit_least"] = float(best.min())
        found["mask_quality"] = float((quality[fit.argmax(1)] * areas).sum() / areas.sum())
    return found


def _text_signs(
    evidence: Evidence, planes: Row, rows: npt.NDArray[np.intp], text: TextBank, num_classes: int
) -> dict[str, float]:
    """How well the names of the label's classes fit the image, and their own pixels better than the rest of it.

    A contrast is the difference of a class's mean patch score inside and outside its pixels, in standard deviations.
    """
    names, _ = class_embeddings(text, num_classes)
    whole = names[rows] @ evidence.embedding
    height, width, depth = evidence.features.shape
    scores = names[rows] @ np.ascontiguousarray(evidence.features.reshape(-1, depth), np.float32).T
    inside = resize_maps(planes, (height, width)).reshape(len(rows), -1) if len(rows) else np.zeros_like(scores)
    within = (scores * inside).sum(1) / np.maximum(inside.sum(1), 1e-3)
    beyond = (scores * (1 - inside)).sum(1) / np.maximum((1 - inside).sum(1), 1e-3)
    contrast = (within - beyond) / np.maximum(scores.std(1), 1e-6) if len(rows) else within
    return {
        "image_text": _mean(whole),
        "image_text_least": _least(whole),
        "patch_contrast": _mean(contrast),
        "patch_contrast_least": _least(contrast),
    }


def _mean(values: npt.NDArray[np.floating] | Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _least(values: npt.NDArray[np.floating]) -> float:
    return float(values.min()) if len(values) else 0.0
