"""The search space: what the fields' metadata says, what a restriction may and may not, what hangs on what."""

import dataclasses
import typing

import optuna
import pytest

from models.decide.config import PARTS, DecideConfig, Given
from pipelines.config import UsageError
from pipelines.config_schema import settings
from tuning.config import TuneLabelsConfig
from tuning.labels_space import LabelSpace as Space
from tuning.labels_space import build_space
from tuning.objectives import parse_objective
from tuning.space import read_restriction

ALL = typing.get_args(Given)
FIELDS = {field.name: field for field in dataclasses.fields(DecideConfig)}


def space(*objectives: str, given: typing.Collection[str] = ALL, **restriction: typing.Any) -> Space:
    return build_space(DecideConfig(), [parse_objective(name) for name in objectives], given, restriction)


def names(found: Space) -> set[str]:
    return {one.name for one in found.dimensions}


@pytest.mark.parametrize("name", FIELDS)
def test_metadata_can_be_searched(name: str) -> None:
    told = FIELDS[name].metadata
    annotation = typing.get_type_hints(DecideConfig)[name]
    assert told["part"] in PARTS
    assert told.get("needs") in (None, *ALL)
    if "range" in told:
        low, high = told["search"]
        assert told["range"][0] <= low < high <= told["range"][1]
        if annotation in (int, float):
            assert low <= getattr(DecideConfig(), name) <= high, "the default itself must be worth trying"
        assert low > 0 or not told["log"]
    if "when" in told:
        other, values = told["when"]
        assert set(values) <= set(typing.get_args(typing.get_type_hints(DecideConfig)[other]))
        assert FIELDS[other].metadata.get("when") is None  # one level of conditions


def test_only_what_the_objective_depends_on_and_the_images_have() -> None:
    plain = names(space("miou", given=()))
    assert {"mask_weight", "grid_px", "similarity", "background_threshold"} <= plain
    assert not plain & {"par_dilations", "box_weight", "seed_weight", "noisy_weight", "presence_threshold"}
    assert not plain & {"keep_policy", "confidence_temperature", "dynamic_base"}, "no map changes with them"
    assert names(space("miou@coverage=0.8", given=())) - plain >= {"keep_policy", "dynamic_base", "keep_threshold"}
    assert names(space("miou", given=("boxes",))) - plain == {"box_weight", "box_min_share", "box_ellipse_share"}
    assert plain - names(space("agreement", given=())) == {"mask_weight"}
    assert names(space("miou", "precision@coverage=0.5", given=())) == names(space("miou@coverage=0.8", given=()))


def asked(found: Space, count: int = 60) -> list[dict[str, typing.Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    trials = []
    for _ in range(count):
        trial = study.ask()
        found(trial)
        trials.append(trial.params)
    return trials


def test_conditional_fields_are_asked_for_where_they_mean_something() -> None:
    found = space("miou@coverage=0.8")
    policies = set()
    for values in asked(found):
        policies.add(values["keep_policy"])
        assert ("keep_threshold" in values) == (values["keep_policy"] == "fixed")
        assert ("dynamic_slope" in values) == (values["keep_policy"] == "dynamic")
        assert ("softmax_temperature" in values) == (values["heat_scale"] == "softmax")
        assert ("background_words_weight" in values) == (values["heat_scale"] != "softmax")
        config = found.config(values)
        for (name,), setting in settings(DecideConfig).items():
            assert setting.parse(getattr(config, name)) == getattr(config, name)  # within range, of the right type
            assert name in values or getattr(config, name) == getattr(DecideConfig(), name)
    assert policies == {"fixed", "dynamic", "per-class"}


def test_a_log_scale_spends_as_much_on_small_values() -> None:
    drawn = [values["guided_epsilon"] for values in asked(space("miou", fields=["guided_epsilon"]), 200)]
    below = sum(value < 1e-3 for value in drawn) / len(drawn)  # half of 1e-5..1e-1 on a log scale, 1 % on a linear one
    assert 0.4 < below < 0.6


def test_a_restriction_chooses_narrows_and_fixes() -> None:
    found = space(
        "miou@coverage=0.8",
        fields=["mask_top", "keep_policy", "dynamic_base", "keep_threshold"],
        ranges={"mask_top": [2, 5], "keep_policy": ["fixed"], "grid_px": [32, 128]},
        fixed={"mask_weight": 0.25, "par_dilations": [1, 3]},
    )
    # dynamic_base is asked for, and would mean nothing under the only policy that is left.
    assert names(found) == {"mask_top", "keep_policy", "keep_threshold", "grid_px"}
    by_name = {one.name: one for one in found.dimensions}
    assert (by_name["mask_top"].low, by_name["mask_top"].high, by_name["mask_top"].kind) == (2, 5, "int")
    assert by_name["keep_policy"].choices == ("fixed",)
    assert (by_name["grid_px"].low, by_name["grid_px"].high) == (32, 128), "wider than is tried by default"
    config = found.config({"mask_top": 4})
    assert (config.mask_weight, config.par_dilations, config.mask_top) == (0.25, (1, 3), 4)
    assert found.start() is None, "the default's policy is outside"
    assert space("miou", fields=["mask_top"]).start() == {"mask_top": 3}


@pytest.mark.parametrize(
    ("restriction", "message"),
    [
        ({"fields": ["mask_wieght"]}, "did you mean mask_weight?"),
        ({"fixed": {"grid": 64}}, "did you mean grid_px?"),
        ({"feilds": []}, "unknown key 'feilds'; known: fields, ranges, fixed"),
        ({"ranges": {"mask_weight": [0.5, 1.5]}}, "mask_weight: 1.5 is not in 0..1"),
        ({"ranges": {"mask_weight": [0.9, 0.5]}}, "0.9 is above 0.5"),
        ({"ranges": {"mask_weight": 0.5}}, "[low, high]"),
        ({"ranges": {"keep_policy": ["fixd"]}}, "fixed"),
        ({"fixed": {"mask_top": 40}}, "mask_top: 40 is not in 1..16"),
        ({"fields": ["box_weight"]}, "none of the images has what it is about (boxes)"),
        ({"fields": ["keep_threshold"]}, "the objective does not depend on it"),
        ({"fields": ["par_dilations"]}, "it is a list"),
        ({"fields": ["mask_top"], "fixed": {"mask_top": 2}}, "mask_top is both fixed and searched"),
        ({"fields": ["softmax_temperature"]}, "nothing is left to search"),
        ({"fields": "mask_top"}, "fields is a list"),
    ],
)
def test_a_wrong_restriction_says_what_to_mend(restriction: dict[str, typing.Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        space("miou", given=(), **restriction)
    assert message in str(caught.value)


def test_restriction_file(tmp_path: typing.Any) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("fields: [mask_top]\nfixed: {grid_px: 48}\n")
    assert read_restriction(str(path)) == {"fields": ["mask_top"], "fixed": {"grid_px": 48}}
    path.write_text("- mask_top\n")
    with pytest.raises(UsageError, match="expected a mapping"):
        read_restriction(str(path))
    with pytest.raises(UsageError, match="absent"):
        read_restriction(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (("agreement", "miou"), "stands alone"),
        (("miou", "miou"), "two different"),
        (("mIoU",), "did you mean miou"),
        (("miou@coverage=1.5",), "at most 1"),
        (("precision",), "precision@coverage"),
    ],
)
def test_objectives_that_cannot_be(objective: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneLabelsConfig(labels="out", objective=objective)
