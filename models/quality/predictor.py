"""All that predicts how good a label is: a fitted model, what its corpus looks like, and from where on to accept."""

import io
from dataclasses import asdict, dataclass

import numpy as np

from models.decide.types import ClassArrays, Label, TextBank
from models.evidence import Evidence
from models.quality.features import FEATURES, QualityBasis, label_features
from models.quality.model import QualityModel


@dataclass(frozen=True)
class Prediction:
    """The IoU that is expected of a label, and the ends of its interval, all 0..1. accepted: whether it is at least
    what the promised share of bad labels asks for."""

    miou: float
    low: float
    high: float
    accepted: bool


@dataclass(frozen=True)
class Predictor:
    """threshold: predicted IoU from which labels are accepted; infinite where none can be."""

    model: QualityModel
    basis: QualityBasis
    threshold: float

    def __call__(self, label: Label, evidence: Evidence, classes: ClassArrays, text: TextBank) -> Prediction:
        row = label_features(label, evidence, classes, text, self.basis)
        miou, low, high = self.model.predict(row[None])[0].tolist()
        return Prediction(miou, low, high, miou >= self.threshold)

    def to_bytes(self) -> bytes:
        """An .npz file, readable without pickle; equal for equal predictors."""
        file = io.BytesIO()
        model = np.frombuffer(self.model.to_bytes(), np.uint8)
        np.savez(file, allow_pickle=False, model=model, threshold=np.asarray(self.threshold), **asdict(self.basis))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Predictor":
        """Raises ValueError for one of another version."""
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            arrays = dict(held)
        model = QualityModel.from_bytes(arrays.pop("model").tobytes())
        if model.names != FEATURES:
            raise ValueError("a quality model of other signs than a label has now: fit it anew")
        threshold = float(arrays.pop("threshold"))
        return cls(model, QualityBasis(**arrays), threshold)
