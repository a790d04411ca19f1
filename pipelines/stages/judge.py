"""What is said of a finished label beside it: how good it probably is, and which rules of the classes it breaks."""

from dataclasses import dataclass, field
from typing import Any

from models.checks import CheckConfig, Rules, check_areas
from models.decide.types import ClassArrays, Label, TextBank, WeakArrays
from models.evidence import Evidence
from models.quality.features import class_areas
from models.quality.predictor import Predictor


@dataclass(frozen=True)
class Judge:
    """predictor, rules: None where nobody asked. digest: of the predictor, "" for none."""

    predictor: Predictor | None = None
    digest: str = ""
    rules: Rules | None = None
    checks: CheckConfig = field(default_factory=CheckConfig)

    def columns(
        self, label: Label, evidence: Evidence, weak: WeakArrays, classes: ClassArrays, text: TextBank
    ) -> dict[str, Any]:
        """Columns of the label's row; what nobody asked for is None."""
        found = dict.fromkeys(("predicted_miou", "predicted_low", "predicted_high", "accepted", "violations"))
        told: dict[str, Any] = {**found, "quality_digest": self.digest}
        if self.predictor is not None:
            predicted = self.predictor(label, evidence, classes, text)
            told["predicted_miou"], told["accepted"] = predicted.miou, predicted.accepted
            told["predicted_low"], told["predicted_high"] = predicted.low, predicted.high
        if self.rules is not None:
            broken = check_areas(class_areas(label, classes), self.rules, weak.present, weak.absent, self.checks)
            told["violations"] = [one.message for one in broken]
        return told
