"""Why a label is not what it was: found from what both rows say that they were decided from."""

from collections.abc import Mapping
from typing import Any

NEW_IMAGE, NEW_EVIDENCE, NEW_DECISION, HUMAN = "new image", "new evidence", "new decision", "human"
# The row says that it was decided from the same as before, and its pixels are others.
NO_CAUSE = "no cause"

COLUMNS = ("digest", "evidence_key", "label_key", "class_set_digest", "decide_digest", "weak_digest", "cause")
INPUTS = {
    "image bytes": "digest",
    "class set": "class_set_digest",
    "decide-config": "decide_digest",
    "weak labels": "weak_digest",
}


def cause(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(cause, inputs that differ) of a label that is not the row it was; rows with COLUMNS."""
    inputs = [name for name, column in INPUTS.items() if (old[column] or "") != (new[column] or "")]
    observed = old["evidence_key"] != new["evidence_key"]
    if observed and "image bytes" not in inputs:
        inputs.append("what observed it")
    if old["label_key"] != new["label_key"] and not inputs:
        # What is left of a label's key: the labelers that know classes, and what people corrected.
        if new["cause"] == HUMAN:
            return HUMAN, ["corrections"]
        inputs.append("labelers")
    if observed:
        return NEW_EVIDENCE, inputs
    return (NEW_DECISION, inputs) if inputs else (NO_CAUSE, inputs)
