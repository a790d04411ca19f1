"""Gates: which numbers open them, and what they say where they stay shut."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import UsageError
from pipelines.gates import QualityGate, above, below, class_reasons, gain_reasons, quality_reasons, read_gate

share = st.floats(0, 1)


@given(old=share, new=share, minimum=st.floats(-1, 1))
def test_a_gain_is_enough_or_is_told(old: float, new: float, minimum: float) -> None:
    reasons = gain_reasons("miou", new, old, minimum)
    if new - old > minimum + 1e-6:
        assert reasons == []
    if new - old < minimum - 1e-6:
        assert len(reasons) == 1 and "miou" in reasons[0]


def test_a_gain_of_exactly_the_minimum_is_enough_in_spite_of_rounding() -> None:
    assert 0.7 - 0.6 < 0.1
    assert gain_reasons("miou", 0.7, 0.6, 0.1) == []
    assert gain_reasons("miou", 0.6, 0.6, 0.0) == []


def test_reasons_name_numbers_and_limits() -> None:
    assert gain_reasons("miou", 0.61, 0.60, 0.02) == [
        "miou 0.6000 -> 0.6100 is a gain of +0.0100; at least +0.0200 is needed"
    ]
    assert gain_reasons("miou", 0.55, 0.60, -0.02) == [
        "miou 0.6000 -> 0.5500 is a gain of -0.0500; it may fall by 0.0200 at most"
    ]
    assert gain_reasons("miou", None, 0.6, 0.0) == ["miou was not measured (new value missing)"]
    assert gain_reasons("miou", 0.6, float("nan"), 0.0) == ["miou was not measured (old value missing)"]


def test_the_worst_class_comes_first_and_new_classes_cannot_fall() -> None:
    old = {"cat": 0.8, "dog": 0.7, "cow": 0.5, "bus": None, "gone": 0.2}
    new = {"cat": 0.75, "dog": 0.4, "cow": 0.5, "bus": 0.1, "boat": 0.0}
    assert class_reasons(new, old, 0.02) == [
        "class gone: IoU 0.2000 -> not measured",
        "class dog: IoU 0.7000 -> 0.4000 falls by 0.3000; 0.0200 at most",
        "class cat: IoU 0.8000 -> 0.7500 falls by 0.0500; 0.0200 at most",
    ]
    assert class_reasons({"cat": 0.5}, {"cat": 0.52}, 0.02) == []


def test_a_better_mean_does_not_excuse_a_class() -> None:
    classes = {"cat": 0.9, "dog": 0.4}, {"cat": 0.5, "dog": 0.5}
    assert quality_reasons(QualityGate(), 0.65, 0.5, *classes) == []
    assert len(quality_reasons(QualityGate(no_class_worse_than=0.05), 0.65, 0.5, *classes)) == 1
    assert len(quality_reasons(QualityGate(no_class_worse_than=0.05, minimum_gain=0.2), 0.65, 0.5, *classes)) == 2


def test_limits() -> None:
    assert below("coverage", 0.8, 0.8) == below("coverage", None, None) == above("churn", 0.1, 0.1) == []
    assert below("coverage", 0.7, 0.8) == ["coverage 0.7000 is below 0.8000"]
    assert below("seeds", 2, 3) == ["seeds 2 is below 3"]
    assert above("churn", None, 0.1) == ["churn (not measured) is above 0.1000"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("minimum_gian: 0.1", "did you mean minimum_gain"),
        ("minimum_gain: much", "minimum_gain: Input should be a valid number"),
        ("no_class_worse_than: 2", "no_class_worse_than"),
        ("- miou", "expected a mapping"),
        ("metric: [", "gate"),
    ],
)
def test_a_bad_file_is_told_with_its_key(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(UsageError, match="gate") as caught:
        read_gate(str(tmp_path / "gate.yaml"), QualityGate)
    assert told in str(caught.value) and "gate.yaml" in str(caught.value)


def test_a_gate_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("metric: boundary_f\nminimum_gain: 0.01\n")
    assert read_gate(str(tmp_path / "gate.yaml"), QualityGate) == QualityGate(metric="boundary_f", minimum_gain=0.01)
    with pytest.raises(UsageError, match="there is no file"):
        read_gate(str(tmp_path / "none.yaml"), QualityGate)
