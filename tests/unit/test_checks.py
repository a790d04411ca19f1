"""Rules about classes: broken ones are told, coherent labels and scores are left alone."""

import numpy as np
import pytest

from models.checks import CheckConfig, Rules, check, infer, learn_lift, logic_scores
from pipelines.classes import ClassSet

SET = ClassSet.load(
    {"classes": [{"name": "animal"}, {"name": "cat", "parent": "animal"}, {"name": "dog", "parent": "animal"},
                 {"name": "kitten", "parent": "cat"}, {"name": "boat"}, {"name": "sofa"}]}
)  # fmt: skip
PARENTS = {entry.name: entry.parent for entry in SET.classes}
IDS = [entry.id for entry in SET.classes]


def rules(**given: object) -> Rules:
    return Rules.of(SET.names, IDS, PARENTS, **given)  # type: ignore[arg-type]


def label(**areas: int) -> np.ndarray:
    """100 pixels of which each class has so many, the rest background."""
    ids = [SET.classes[SET.index(name)].id for name, count in areas.items() for _ in range(count)]
    return np.array(ids + [0] * (100 - len(ids)), np.uint8).reshape(10, 10)


def tags(*names: str) -> np.ndarray:
    return np.isin(SET.names, names)


def told(*given: object, **more: object) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.name, one.classes) for one in check(*given, **more)]  # type: ignore[arg-type]


def test_a_label_that_makes_sense_breaks_nothing() -> None:
    present = tags("cat", "sofa")
    assert check(label(cat=20, sofa=30), rules(exclusive=[("boat", "sofa")]), present, ~present & ~tags("animal")) == []
    assert check(label(cat=20, dog=10), rules()) == [], "siblings may share an image, not a pixel"
    assert check(np.zeros((4, 4), np.uint8), rules()) == []


def test_each_rule_is_told_with_the_class_to_doubt_and_its_area() -> None:
    found = check(label(animal=5, kitten=20), rules())
    assert [(one.name, one.classes, one.area) for one in found] == [("hierarchy", ("animal", "kitten"), 0.05)]
    assert "kitten" in found[0].message
    assert told(label(boat=3, sofa=40), rules(exclusive=[("sofa", "boat")])) == [("exclusion", ("boat", "sofa"))]
    assert told(label(cat=9), rules(), None, tags("cat")) == [("absent", ("cat",))]
    assert told(label(kitten=9), rules(), None, tags("animal")) == [("absent", ("kitten", "animal"))]
    assert told(label(cat=9), rules(), tags("cat", "dog")) == [("missing", ("dog",))]
    assert told(label(kitten=9), rules(), tags("animal")) == [], "a kitten is an animal"
    assert told(label(kitten=9), rules(), tags("kitten"), ~tags("kitten")) == [], "and who tags it need not say so"


def test_specks_are_not_looked_at() -> None:
    assert check(label(boat=1, sofa=40), rules(exclusive=[("sofa", "boat")]), config=CheckConfig(min_area=0.02)) == []


def test_what_never_meets_is_learned_and_rare_classes_prove_nothing() -> None:
    rng = np.random.default_rng(0)
    seen = rng.uniform(size=(400, 6)) < 0.4
    seen[:, 4] &= ~seen[:, 5]  # Boats are never seen with sofas ..
    seen[:, 0] = rng.uniform(size=400) < 0.005  # .. and "animal" hardly at all.
    lift = learn_lift(seen, CheckConfig())
    assert lift[4, 5] == 0 and 0.7 < lift[1, 2] < 1.3
    assert np.isnan(lift[0]).all() and np.isnan(np.diag(lift)).all()
    assert told(label(boat=3, sofa=40), rules(seen=seen)) == [("co-occurrence", ("boat", "sofa"))]
    assert check(label(cat=3, sofa=40), rules(seen=seen)) == []


def test_inference_makes_scores_coherent_and_leaves_coherent_ones() -> None:
    scores = np.random.default_rng(1).uniform(size=(6, 8, 9)).astype(np.float32)
    before, once = logic_scores(scores, rules()), infer(scores, rules())
    after = logic_scores(once, rules())
    assert before["exclusion"] > 0.05 and after["exclusion"] < 1e-6
    assert after["composition"] < before["composition"]
    assert (once[0] >= once[1]).all() and (once[0] >= once[2]).all() and (once[1] >= once[3]).all()
    np.testing.assert_array_equal(once[4:], scores[4:], "classes without rules stay as they are")


def test_inference_is_idempotent_on_coherent_input() -> None:
    hard = np.zeros((6, 1, 4), np.float32)
    hard[[0, 1, 3], 0, 0] = hard[[0, 2], 0, 1] = hard[4, 0, 2] = 1
    np.testing.assert_array_equal(infer(hard, rules()), hard)
    assert logic_scores(hard, rules())["exclusion"] == logic_scores(hard, rules())["composition"] == 0
    for seed in range(20):
        once = infer(np.random.default_rng(seed).uniform(size=(6, 50)).astype(np.float32), rules())
        np.testing.assert_array_equal(infer(once, rules()), once)


def test_consistent_predictions_break_no_rule() -> None:
    leaf = np.zeros((6, 3), np.float32)
    leaf[[0, 1, 3], 0] = leaf[[0, 2], 1] = leaf[5, 2] = 1
    assert logic_scores(leaf, rules()) == {"composition": 0.0, "decomposition": 0.0, "exclusion": 0.0}


def test_rules_name_classes_only() -> None:
    with pytest.raises(ValueError, match="horse"):
        rules(exclusive=[("cat", "horse")])
