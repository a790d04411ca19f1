"""Why a label is not what it was: found from what both rows say that they were decided from."""

from collections.abc import Mapping
from typing import Any

NEW_IMAGE, NEW_EVIDENCE, NEW_DECISION, HUMAN = "new image", "new evidence", "new decision", "human"
# The row says that it was decided from the same as before, and its pixels are others.
NO_CAUSE = "no cause"

INPUTS = {
    "image bytes": "digest",
    "class set": "class_set_digest",
    "decide-config": "decide_digest",
    "what the corpus taught": "head_digest",
    "what predicts quality": "quality_digest",
    "weak labels": "weak_digest",
    "corrections": "human_digest",
}
COLUMNS = (*INPUTS.values(), "evidence_key", "label_key", "cause")


def cause(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(cause, inputs that differ) of a label that is not the row it was; rows with COLUMNS."""
    inputs = [name for name, column in INPUTS.items() if (old[column] or "") != (new[column] or "")]
    if None in (old["human_digest"], new["human_digest"]) and "corrections" in inputs:
        inputs.remove("corrections")  # Older labels do not say which took part.
    observed = old["evidence_key"] != new["evidence_key"]
    if observed and "image bytes" not in inputs:
        inputs.append("what observed it")
    if old["label_key"] != new["label_key"] and not inputs:
        # What is left of a label's key: the labelers that know classes, what is checked, and, of older labels, what
        # people corrected.
        inputs.append("corrections" if new["cause"] == HUMAN else "labelers or checks")
    if observed:
        return NEW_EVIDENCE, inputs
    if inputs == ["corrections"]:
        return HUMAN, inputs
    return (NEW_DECISION, inputs) if inputs else (NO_CAUSE, inputs)
