"""Promises about images that nobody judged, from predictions of images that somebody did.

Records of one image (its label by several labelers) stand or fall together, so it is images that are counted: every
image has the same weight, and a new image is one more of them. Both promises hold for images drawn like the judged
ones, on average over the draw of those, and approximately
where the predictions judged are those of cross-validation and a model fitted on everything makes the new ones.
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating]


def group_weights(groups: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Weight of each record, float64 [n], so that those of one group add up to 1."""
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / count[index], np.float64)


def interval_margin(residuals: Numbers, groups: npt.NDArray[np.integer], coverage: float) -> float:
    """Half width that covers the truth of a new record with probability `coverage`; infinite for too few groups.

    residuals: |truth - prediction| [n] of records that the predicting model did not learn from. groups: int [n].

    Lee, Barber and Willett, "Distribution-free inference with hierarchical data" (2023), which for one record an image
    is split conformal prediction (Papadopoulos et al., ECML 2002).
    """
    order = np.argsort(residuals, kind="stable")
    weight = group_weights(groups)
    reached = np.cumsum(weight[order]) / (weight.sum() + 1)
    enough = np.flatnonzero(reached >= coverage - 1e-9)
    return float(residuals[order[enough[0]]]) if len(enough) else float("inf")


def risk_threshold(
    predicted: Numbers, bad: npt.NDArray[np.bool_], groups: npt.NDArray[np.integer], risk: float
) -> float:
    """The least predicted quality at which new labels may be accepted, so that P(accepted and bad) <= risk.

    predicted: [n], by models that did not learn from the record; bad: bool [n]; groups: int [n]. The risk is a share of
    all labels, not of those accepted: it is the one that can only fall as the threshold rises, which the proof needs.
    Infinite where so few groups are known that nothing can be accepted (fewer than 1 / risk - 1), or all is bad.

    Angelopoulos et al., "Conformal Risk Control", ICLR 2024.
    """
    weight = group_weights(groups)
    images = weight.sum()
    order = np.argsort(-predicted, kind="stable")
    ranked = predicted[order]
    # Bad weight among the records that a threshold just at each one's prediction would accept, ties included.
    lost = np.cumsum((weight * bad)[order])[np.searchsorted(-ranked, -ranked, side="right") - 1]
    fine = np.flatnonzero((lost + 1) / (images + 1) <= risk + 1e-9)
    return float(ranked[fine[-1]]) if len(fine) else float("inf")
