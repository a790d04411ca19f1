"""Why a label is not what it was: found from what both rows say that they were decided from."""

import json
from collections.abc import Mapping
from typing import Any

NEW_IMAGE, NEW_EVIDENCE, NEW_DECISION, HUMAN = "new image", "new evidence", "new decision", "human"
# The row says that it was decided from the same as before, and its pixels are others.
NO_CAUSE = "no cause"

COLUMNS = ("digest", "evidence_key", "label_key", "class_set_digest", "decide_digest", "weak", "weak_digest")
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
        inputs.append("labelers")
    if corrections(new["weak"]) - corrections(old["weak"]):
        return HUMAN, inputs
    if observed:
        return NEW_EVIDENCE, inputs
    return (NEW_DECISION, inputs) if inputs else (NO_CAUSE, inputs)


def corrections(weak: str | None) -> set[str]:
    """What people said of an image after they saw its label: weak labels (canonical JSON) with an annotator."""
    if not weak or '"annotator"' not in weak:
        return set()
    items = [item for value in json.loads(weak).values() if isinstance(value, list) for item in value]
    return {json.dumps(item, sort_keys=True) for item in items if isinstance(item, dict) and item.get("annotator")}
