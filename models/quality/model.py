"""Predicted IoU of a label, with an interval, and the threshold above which labels are accepted unseen."""

import dataclasses
import io
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.quality.config import QualityConfig
from models.quality.conformal import group_weights, interval_margin, risk_threshold
from models.quality.features import FEATURES
from models.quality.regress import Regressor, fit_regressor

VERSION = 1
Numbers = npt.NDArray[np.floating]


def image_miou(gold: npt.NDArray[np.integer], label: npt.NDArray[np.integer], ignore: int = 255) -> float:
    """Mean IoU of one image over the classes that gold or label have in it, background included; NaN if all is ignored.

    gold, label: class ids [H, W]. A class that is only in one of them counts with 0.
    """
    if gold.shape != label.shape:
        raise ValueError(f"gold covers {gold.shape} pixels, the label {label.shape}")
    judged = gold != ignore
    a, b = gold[judged].astype(np.int64), label[judged].astype(np.int64)
    size = int(max(a.max(initial=0), b.max(initial=0))) + 1
    both = np.bincount(a[a == b], minlength=size)
    union = np.bincount(a, minlength=size) + np.bincount(b, minlength=size) - both
    return float((both[union > 0] / union[union > 0]).mean()) if (union > 0).any() else float("nan")


@dataclass(frozen=True)
class QualityModel:
    """A fitted model. names: of the features, in order.

    unseen, truth: float64 [n], predictions of the records it was fitted on by models that saw none of their images, and
    what was true; groups: int64 [n], their images. margin: half width of the interval.
    """

    config: QualityConfig
    names: tuple[str, ...]
    regressor: Regressor
    unseen: npt.NDArray[np.float64]
    truth: npt.NDArray[np.float64]
    groups: npt.NDArray[np.int64]
    margin: float

    @classmethod
    def fit(
        cls,
        features: Numbers,
        miou: Numbers,
        groups: npt.NDArray[np.integer],
        config: QualityConfig | None = None,
        names: tuple[str, ...] = FEATURES,
        together: npt.NDArray[np.integer] | None = None,
    ) -> "QualityModel":
        """features: [n, F]; miou: [n], 0..1; groups: int [n], the image of each record (several labelers label it).
        together: int [n], what must be in one fold, such as the frames of a video; None: nothing but each image.

        The interval is cross-conformal (Vovk, "Cross-conformal predictors", 2015): every image is predicted by a model
        of the other folds, so that all of the gold is used for both. What holds of those models holds approximately of
        the one that predicts, which is fitted on all images. Raises ValueError for fewer images than folds, and what
        `fit_regressor` does.
        """
        config = config or QualityConfig()
        features, truth = np.asarray(features, np.float64), np.asarray(miou, np.float64)
        if features.shape[1] != len(names):
            raise ValueError(f"{features.shape[1]} features for {len(names)} names")
        index = np.unique(groups, return_inverse=True)[1]
        units, unit = np.unique(groups if together is None else together, return_inverse=True)
        if config.folds < 2 or len(units) < config.folds:
            raise ValueError(
                f"{len(units)} images cannot be cut into {config.folds} folds of one at least, two or more"
            )
        weight = group_weights(groups)
        fold = np.random.default_rng(config.seed).permutation(len(units)) % config.folds
        unseen = np.zeros(len(truth))
        for number in range(config.folds):
            out = fold[unit] == number
            model = fit_regressor(features[~out], truth[~out], weight[~out], config)
            unseen[out] = np.clip(model(features[out]), 0, 1)
        regressor = fit_regressor(features, truth, weight, config)
        margin = interval_margin(np.abs(unseen - truth), index, config.coverage)
        return cls(config, tuple(names), regressor, unseen, truth, index.astype(np.int64), margin)

    def predict(self, features: Numbers) -> npt.NDArray[np.float32]:
        """features [n, F] to float32 [n, 3]: the expected IoU, and the ends of its interval, all in 0..1."""
        expected = np.clip(self.regressor(features), 0, 1)
        ends = np.clip(np.stack([expected - self.margin, expected + self.margin], 1), 0, 1)
        return np.concatenate([expected[:, None], ends], 1).astype(np.float32)

    def accept_threshold(self, bad_below: float, risk: float = 0.05) -> float:
        """Predicted IoU from which labels are accepted: approximately at most `risk` of all labels are accepted and
        truly worse than bad_below. Infinite where nothing can be accepted under that promise. See `risk_threshold`."""
        return risk_threshold(self.unseen, self.truth < bad_below, self.groups, risk)

    def to_bytes(self) -> bytes:
        """An .npz file, readable without pickle; equal for equal models."""
        about = {"version": VERSION, "config": dataclasses.asdict(self.config), "names": self.names}
        numbers = {f.name: np.asarray(getattr(self.regressor, f.name)) for f in dataclasses.fields(Regressor)}
        own = {"unseen": self.unseen, "truth": self.truth, "groups": self.groups, "margin": np.asarray(self.margin)}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, about=np.asarray(json.dumps(about)), **numbers, **own)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "QualityModel":
        """Raises ValueError for a model of another version."""
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            if about["version"] != VERSION:
                raise ValueError(f"a quality model of version {about['version']}; this reads {VERSION}")
            numbers = {f.name: held[f.name] for f in dataclasses.fields(Regressor)}
            numbers["intercept"] = float(numbers["intercept"])
            return cls(
                QualityConfig(**about["config"]),
                tuple(about["names"]),
                Regressor(**numbers),
                held["unseen"],
                held["truth"],
                held["groups"],
                float(held["margin"]),
            )
