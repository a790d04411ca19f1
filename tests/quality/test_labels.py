"""Are the labels good? Bands on a few gold photographs with the shipped models: each part must earn its place.

The bands are below what was measured, by more than the spread between choices of photographs; the full measurement is
`pipelines/evaluate.py` on val.
"""

import numpy as np
import pytest

from models.decide.baselines import centre_prior, heat_only, heat_par
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.metrics import Calibration, Confusion, expand_quarter

VOC7 = (8, 10, 12, 13, 15, 17, 18)
"""cat, cow, dog, horse, person, sheep, sofa: the classes with ten or more images in val."""


def measure(gold, text, class_set, config, *forms):
    """(mean IoU over the classes that occur, mean IoU over VOC7) of labels from these weak forms."""
    confusion = Confusion(21)
    for one in gold:
        label = decide(one.evidence, text, class_set.arrays(), one.labels(class_set, *forms), config)
        confusion.update(one.mask, label.class_map)
    return np.array([confusion.mean_iou(), confusion.mean_iou(VOC7)])


@pytest.fixture(scope="module")
def nothing_known(gold, text, class_set):
    return measure(gold, text, class_set, DecideConfig())


@pytest.mark.parametrize("form", ["tags", "points", "scribbles", "boxes", "partial", "noisy"])
def test_each_weak_form_alone_beats_none(gold, text, class_set, nothing_known, form):
    got = measure(gold, text, class_set, DecideConfig(), form)
    print(f"{form}: miou {got[0]:.3f} voc7 {got[1]:.3f}; none: {nothing_known[0]:.3f} {nothing_known[1]:.3f}")
    assert got[0] > nothing_known[0] + 0.02


def test_forms_together_beat_each_alone(gold, text, class_set):
    both = measure(gold, text, class_set, DecideConfig(), "tags", "boxes", "scribbles")
    assert (both > measure(gold, text, class_set, DecideConfig(), "tags")).all()
    assert both[0] > measure(gold, text, class_set, DecideConfig(), "boxes")[0]
    assert both[0] > measure(gold, text, class_set, DecideConfig(), "scribbles")[0]


def test_with_tags_each_step_earns_its_place(gold, text, class_set):
    prior = Confusion(21)
    for one in gold:
        prior.update(one.mask, centre_prior(class_set.arrays(), one.labels(class_set, "tags"), *one.mask.shape))
    config = DecideConfig()
    rows = {
        "centre prior": np.array([prior.mean_iou(), prior.mean_iou(VOC7)]),
        "heat": measure(gold, text, class_set, heat_only(config), "tags"),
        "heat + PAR": measure(gold, text, class_set, heat_par(config), "tags"),
        "default": measure(gold, text, class_set, config, "tags"),
    }
    for name, (miou, voc7) in rows.items():
        print(f"{name}: miou {miou:.3f} voc7 {voc7:.3f}")
    assert (rows["heat"] > rows["centre prior"] + 0.03).all()
    # Over all of gold100 both means gain .04; over these 40 the mean of seven classes is that uncertain.
    assert rows["heat + PAR"][0] > rows["heat"][0]
    assert rows["heat + PAR"][1] > rows["heat"][1] - 0.03
    assert (rows["default"] > rows["heat"]).all()


def test_confidence_means_something(gold, text, class_set):
    """Calibrated within a tenth, and what the policy keeps is better than the whole."""
    whole, kept, calibration = Confusion(21), Confusion(21), Calibration()
    for one in gold:
        label = decide(one.evidence, text, class_set.arrays(), one.labels(class_set, "tags"), DecideConfig())
        confidence = expand_quarter(label.confidence, *one.mask.shape) / 255
        judged = one.mask != 255
        whole.update(one.mask, label.class_map)
        kept.update(one.mask, label.class_map, confidence >= label.keep_threshold)
        calibration.update(confidence[judged], (label.class_map == one.mask)[judged])
    print(f"calibration error {calibration.error():.3f}, kept {kept.counts.sum() / whole.counts.sum():.2f}")
    print(f"accuracy {whole.accuracy():.3f}, of kept pixels {kept.accuracy():.3f}")
    assert calibration.error() < 0.1
    assert kept.accuracy() > whole.accuracy() + 0.01
    assert 0.5 < kept.counts.sum() / whole.counts.sum() < 0.99
