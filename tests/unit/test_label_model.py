"""The label model: who is right is learned, silence says nothing, and gold settles what votes cannot."""

import numpy as np
import pytest

from models.label_model import LabelModel, LabelModelConfig, few_shot_regression, majority_vote

CLASSES = 4
SYMMETRIC, BY_CLASS = LabelModelConfig(), LabelModelConfig(confusion="class")


def planted(accuracy: list[float], truth: np.ndarray, classes: int, coverage: float = 1.0, seed: int = 0) -> np.ndarray:
    """Votes of sources that are right this often and else say one of the other classes."""
    rng = np.random.default_rng(seed)
    votes = []
    for share in accuracy:
        wrong = (truth + rng.integers(1, classes, len(truth))) % classes
        said = np.where(rng.uniform(size=len(truth)) < share, truth, wrong)
        votes.append(np.where(rng.uniform(size=len(truth)) < coverage, said, -1))
    return np.stack(votes, 1).astype(np.int16)


def right(proba: np.ndarray, truth: np.ndarray) -> float:
    return float((proba.argmax(1) == truth).mean())


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(5).integers(0, CLASSES, 2000)


@pytest.mark.parametrize("config", [SYMMETRIC, BY_CLASS])
def test_one_perfect_source_is_followed(truth: np.ndarray, config: LabelModelConfig) -> None:
    votes = planted([1.0, 0.5, 0.5, 0.45], truth, CLASSES)
    model = LabelModel.fit(votes, CLASSES, config=config)
    assert right(majority_vote(votes, CLASSES), truth) < 0.9
    assert right(model.predict(votes), truth) > 0.99
    assert model.accuracy.argmax() == 0 and model.accuracy[0] > 0.9


@pytest.mark.parametrize("config", [SYMMETRIC, BY_CLASS])
def test_items_without_votes_keep_the_prior(truth: np.ndarray, config: LabelModelConfig) -> None:
    prior = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    votes = planted([0.8, 0.7, 0.6], truth, CLASSES, coverage=0.6)
    model = LabelModel.fit(votes, CLASSES, prior=prior, config=config)
    np.testing.assert_allclose(model.predict(np.full((3, 3), -1, np.int16)), np.tile(prior, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(majority_vote(np.full((1, 3), -1), CLASSES, prior)[0], prior, rtol=1e-5)
    proba = model.predict(votes)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    assert proba.dtype == np.float32


def test_accuracies_are_learned_and_silence_changes_none_of_them(truth: np.ndarray) -> None:
    real = [0.9, 0.7, 0.5, 0.6]
    for coverage in (1.0, 0.5):
        model = LabelModel.fit(planted(real, truth, CLASSES, coverage), CLASSES)
        np.testing.assert_allclose(model.accuracy, real, atol=0.05)
        np.testing.assert_allclose(model.coverage, coverage, atol=0.05)


def test_a_confusion_for_each_class_is_learned(truth: np.ndarray) -> None:
    """A source that always mistakes one class for another is useful once that is known."""
    votes = planted([0.85, 0.85, 0.85], truth, CLASSES)
    votes[:, 2] = np.where(truth == 1, 2, truth)
    model = LabelModel.fit(votes, CLASSES, config=BY_CLASS)
    assert model.confusion[2, 1].argmax() == 2 and model.confusion[2, 0].argmax() == 0
    assert 1 - right(model.predict(votes), truth) < 0.6 * (1 - right(majority_vote(votes, CLASSES), truth))


def test_gold_turns_around_a_majority_that_is_wrong() -> None:
    truth = np.random.default_rng(6).integers(0, 3, 600)
    good = planted([0.9], truth, 3)
    # Two sources copy each other and are mostly wrong: no count of votes can tell.
    bad = np.repeat(planted([0.35], truth, 3, seed=8), 2, axis=1)
    votes = np.concatenate([good, bad], 1)
    gold = (np.arange(100), truth[:100])
    blind = right(LabelModel.fit(votes, 3).predict(votes)[100:], truth[100:])
    told = LabelModel.fit(votes, 3, gold, config=LabelModelConfig(gold_weight=20))
    assert right(told.predict(votes)[100:], truth[100:]) > 0.85 > blind
    assert told.accuracy[0] > 0.8 > 0.5 > told.accuracy[1]


def test_a_source_that_votes_for_nothing_or_one_class_does_no_harm(truth: np.ndarray) -> None:
    votes = planted([0.9, 0.8, 0.7], truth, CLASSES)
    alone = right(LabelModel.fit(votes, CLASSES).predict(votes), truth)
    silent, stuck = np.full((len(truth), 1), -1, np.int16), np.zeros((len(truth), 1), np.int16)
    wider = np.concatenate([votes, silent, stuck], 1)
    assert right(LabelModel.fit(wider, CLASSES).predict(wider), truth) > alone - 0.01


def test_wrong_votes_gold_and_priors_are_told() -> None:
    votes = np.zeros((5, 2), np.int16)
    for bad in (votes + 3, votes - 2, votes[0]):
        with pytest.raises(ValueError, match="votes"):
            LabelModel.fit(bad, 3)
    with pytest.raises(ValueError, match="gold"):
        LabelModel.fit(votes, 3, (np.array([0]), np.array([3])))
    with pytest.raises(ValueError, match="prior"):
        LabelModel.fit(votes, 3, prior=np.ones(2))
    assert LabelModel.fit(votes[:0], 3).predict(votes).shape == (5, 3)


def test_digits_with_a_hundred_labels() -> None:
    """AutoWS-Bench-101's protocol: sources from 100 labels, beside the honest baselines (printed)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.target))
    x, truth = digits.data[order], digits.target[order]
    gold = (np.arange(100), truth[:100])
    # Each source sees a part of the picture and knows the mean of each class there; the parts tell unequally much.
    parts = [slice(16, 56), slice(0, 16), slice(48, 64), slice(0, 8), slice(56, 64), slice(0, 4)]
    votes = np.stack([nearest_mean(x[:, part], gold) for part in parts], 1)
    model = LabelModel.fit(votes, 10, gold, config=LabelModelConfig(confusion="class", gold_weight=5))
    regression = few_shot_regression(x, gold, 10)
    unseen = slice(100, None)
    found = {
        "majority vote": right(majority_vote(votes, 10)[unseen], truth[unseen]),
        "label model": right(model.predict(votes)[unseen], truth[unseen]),
        "logistic regression on the 100 labels": right(regression[unseen], truth[unseen]),
    }
    print(found)
    accuracies = (votes[unseen] == truth[unseen, None]).mean(0)
    assert np.ptp(accuracies) > 0.3, "the sources are unequal"
    assert found["label model"] > found["majority vote"] + 0.03
    assert found["logistic regression on the 100 labels"] > 0.8


def nearest_mean(x: np.ndarray, gold: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    items, truth = gold
    means = np.stack([x[items][truth == c].mean(0) for c in range(10)])
    return ((x[:, None] - means) ** 2).sum(2).argmin(1).astype(np.int16)
