"""A search for training settings: its space, its share of a cluster, its names, what is kept, what a state takes on."""

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune

from models.losses.config import RECIPE_NAMES, LossesConfig
from pipelines.config import UsageError, parse
from pipelines.config_schema import settings
from pipelines.training.config import TrainConfig
from pipelines.training.learner import Learner
from pipelines.training.stream import Shape
from pipelines.training.worker import STATE_FILE, Best, Worker, WorkerSettings
from tuning import student_job, student_search
from tuning.files import write_yaml
from tuning.space import changed, value_at
from tuning.student_config import TuneStudentConfig, reusable
from tuning.student_job import keep_best, ranked, tune_student
from tuning.student_search import (
    HEAD,
    PROGRESS,
    NamedSearch,
    Search,
    Tried,
    first_points,
    first_rung,
    population,
    tried_in,
)
from tuning.student_share import Share, share
from tuning.student_space import StudentSpace, build_student_space
from tuning.student_trial import METRIC, PBT_METRIC, STEP, Common, Reports
from tuning.study import SEARCH, hold, open_storage, resume


def training(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"output": "out", "labels": "labels", **fields})


def space(scheduler: Any = "asha", restriction: dict[str, Any] | None = None, **fields: Any) -> StudentSpace:
    return build_student_space(training(**fields), scheduler, restriction)


def names(found: StudentSpace) -> set[str]:
    return {one.name for one in found.dimensions}


@pytest.mark.parametrize("path", [path for path in settings(TrainConfig) if path[0] in ("optim", "losses")])
def test_ranges_beside_the_fields_are_good_ones(path: tuple[str, ...]) -> None:
    setting = settings(TrainConfig)[path]
    if "search" in setting.hints:
        low, high = setting.hints["search"]
        assert setting.parse(low) < setting.parse(high), "both ends are in the field's own range"
        assert low <= setting.default <= high, "the default itself must be worth trying"
        assert low > 0 or not setting.hints["log"]
    if "when" in setting.hints:
        other, values = setting.hints["when"]
        assert set(values) <= {False, True} | set(
            typing.get_args(settings(TrainConfig)[("losses", *other.split("."))].annotation)
        )


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_a_search_tries_what_the_recipe_reads(recipe: Any) -> None:
    found = names(space(recipe=recipe, teachers=["somewhere"]))
    assert {"optim.lr", "optim.backbone_lr_factor", "optim.weight_decay"} <= found
    sections = {name.split(".")[1] for name in found if name.startswith("losses.")}
    assert sections <= LossesConfig().read_by(recipe) and len(sections) >= 2 - (recipe == "supervised")
    assert ("losses.supervised.dice" in found) == (recipe != "from_points")


def test_switches_open_and_close_sections() -> None:
    semi = names(space(recipe="semi_supervised"))
    assert "losses.cw_bass.confidence.dynamic_base" in semi and "losses.cw_bass.confidence.threshold" not in semi
    assert "losses.semi.threshold" not in semi and not any(name.startswith("losses.mgd") for name in semi)
    off = {"losses.semi.cw_bass": False, "losses.cw_bass.confidence.policy": "fixed"}
    plain = names(space(recipe="semi_supervised", restriction={"fixed": off}))
    assert "losses.semi.threshold" in plain and not any(name.startswith("losses.cw_bass") for name in plain)


def test_choices_and_others_where_they_are_named() -> None:
    told = {
        "fields": ["student.name", "optim.lr", "losses.semi.cutmix"],
        "ranges": {"student.name": ["ffnet-xs", "lite0"], "optim.ema_decay": [0.9, 0.99]},
        "fixed": {"optim.weight_decay": 0.05},
    }
    found = space(recipe="semi_supervised", restriction=told)
    assert names(found) == {"student.name", "optim.lr", "losses.semi.cutmix", "optim.ema_decay"}
    config = found.config({"student.name": "lite0", "losses.semi.cutmix": False, "optim.lr": 0.002})
    assert (config.student.name, config.losses.semi.cutmix, config.optim.lr) == ("lite0", False, 0.002)
    assert config.optim.weight_decay == 0.05 and config.losses.supervised == LossesConfig().supervised
    assert found.start() is None, "the training's own network is not among the choices"


@pytest.mark.parametrize(
    ("restriction", "message"),
    [
        ({"fields": ["optim.steps"]}, "same number of steps"),
        ({"fields": ["data.validation_share"]}, "it would change what trials are compared by"),
        ({"fields": ["losses.agmm.sigma"]}, "the recipe supervised does not read it"),
        ({"fields": ["optim.clip_norm"]}, "give one (ranges: {optim.clip_norm: [low, high]})"),
        ({"ranges": {"optim.lr": [0, 1]}}, "optim.lr: 0"),
        ({"ranges": {"optim.weight_decay": [0, 1]}}, "log scale"),
        ({"fields": ["optim.learning_rate"]}, "there is no field"),
        ({"fields": ["lr"]}, "did you mean optim.lr?"),
        ({"fields": ["losses.semi.cutmix_area"]}, "does not read it"),
    ],
)
def test_a_wrong_restriction_says_what_to_mend(restriction: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        space(restriction=restriction)
    assert message in str(caught.value)


def test_a_population_changes_broken_numbers_only() -> None:
    with pytest.raises(UsageError, match="pbt changes settings while the training goes on"):
        space("pbt", restriction={"fields": ["student.name"]})
    found = space("pbt")
    points = first_points(found, 5, 3)
    assert points[0] == found.start() and len({str(one) for one in points}) == 5
    assert points == first_points(found, 5, 3) != first_points(found, 5, 4)
    explore: Any = population(found, 10)._custom_explore_fn
    far = explore({"name": "trial-0", "values": {"optim.lr": 7.0, "optim.weight_decay": 0.0}})
    assert far["values"] == {"optim.lr": 0.01, "optim.weight_decay": 0.0001}


@pytest.mark.parametrize(
    ("told", "trials", "cluster", "expected"),
    [
        ({}, 20, (2, 0), (1, 2.0, 0.0)),
        ({}, 20, (16, 0), (8, 2.0, 0.0)),
        ({}, 3, (16, 0), (3, 16 / 3, 0.0)),
        ({"workers": 4}, 20, (16, 0), (3, 16 / 3, 0.0)),
        ({"workers": 8}, 20, (2, 0), (1, 2.0, 0.0)),
        ({"concurrent": 4}, 20, (8, 0), (4, 2.0, 0.0)),
        ({}, 20, (32, 8), (8, 4.0, 1.0)),
        ({}, 2, (32, 8), (2, 16.0, 4.0)),
        ({"workers": 3}, 20, (32, 8), (2, 16.0, 4.0)),
        ({"execution": {"device": "cpu"}}, 20, (4, 8), (2, 2.0, 0.0)),
    ],
)
def test_so_many_at_once_as_whole_trainings_fit(
    told: dict[str, Any], trials: int, cluster: tuple[int, int], expected: tuple[int, float, float]
) -> None:
    config = TuneStudentConfig.model_validate({"output": "out", "labels": "labels", **told})
    found = share(config, trials, *map(float, cluster))
    assert dataclasses.astuple(found) == expected


def test_more_at_once_than_gpus_is_refused() -> None:
    config = TuneStudentConfig(output="out", labels="labels", workers=2, concurrent=5)
    with pytest.raises(UsageError, match=r"--concurrent 5: .* 4 would"):
        share(config, 9, 32.0, 8.0)


def test_rungs_are_validations() -> None:
    assert first_rung(2000, 200) == 400
    assert first_rung(2000, 100) == 300
    assert first_rung(40, 100) == 40
    assert first_rung(40, 5) == 5


def ended(search: NamedSearch, tune_id: str, values: list[float], steps: int) -> None:
    """What Tune tells a search of one trial."""
    for number, value in enumerate(values, 1):
        result: dict[str, Any] = {STEP: 10 * number, METRIC: value, "training_iteration": number, "time_total_s": 1.0}
        if number == len(values):
            if 10 * number == steps:
                result["finished"] = 1.0
            search.on_trial_complete(tune_id, result)
        else:
            search.on_trial_result(tune_id, result)


def test_a_trial_that_is_tried_again_keeps_its_name(tmp_path: Path) -> None:
    def begin() -> NamedSearch:
        search = NamedSearch(space(), open_storage(tmp_path), [METRIC], PROGRESS, 5)
        resume(search.study, space())
        return search

    search = begin()
    asked = [search.suggest(name) for name in ("a", "b", "c")]
    assert [one and one["name"] for one in asked] == ["trial-0", "trial-1", "trial-2"]
    assert asked[0] and asked[0]["values"] == space().start(), "the training as it was told comes first"
    ended(search, "b", [0.2, 0.3, 0.4], 30)
    search.on_trial_result("a", {STEP: 10, METRIC: 0.1, "training_iteration": 1, "time_total_s": 1.0})
    # Here the search is killed, with two trials under way.
    search = begin()
    again = [search.suggest(name) for name in ("d", "e", "f")]
    assert again[:2] == [asked[0], asked[2]], "settings and folder"
    assert again[2] and again[2]["name"] not in {"trial-0", "trial-1", "trial-2"}
    ended(search, "d", [0.1, 0.6], 30)
    ended(search, "e", [0.2, 0.3, 0.5], 30)
    found = {one.name: one for one in tried_in(search.study)}
    assert {name: (one.whole, one.miou) for name, one in found.items()} == {
        "trial-0": (False, 0.6), "trial-1": (True, 0.4), "trial-2": (True, 0.5),
    }  # fmt: skip
    assert [one.name for one in ranked(list(found.values()))] == ["trial-2", "trial-1"], "stopped ones do not win"


def test_the_best_keep_their_students(tmp_path: Path) -> None:
    tried = [
        Tried(f"trial-{number}", whole, {}, {METRIC: miou}, 1.0, problem)
        for number, (miou, whole, problem) in enumerate(
            [(0.3, True, ""), (0.9, False, ""), (0.5, True, ""), (0.4, True, ""), (0.0, True, "no number")]
        )
    ]
    for number in range(6):
        for made in ("checkpoints", "student"):
            (tmp_path / f"trial-{number}" / made).mkdir(parents=True)
        (tmp_path / f"trial-{number}" / "metrics.jsonl").touch()
    keep_best(tmp_path, tried, 2)
    assert sorted(path.parent.name for path in tmp_path.glob("*/student")) == ["trial-2", "trial-3", "trial-5"]
    assert len(list(tmp_path.glob("*/checkpoints"))) == 3, "what is under way is left alone"
    assert len(list(tmp_path.glob("*/metrics.jsonl"))) == 6


def test_train_student_takes_the_winners_settings(tmp_path: Path) -> None:
    base = TuneStudentConfig(output="search", labels="labels", trials=7, recipe="semi_supervised").training()
    best = changed(base, {"optim.lr": 0.004, "losses.semi.ramp": 0.25, "student.name": "ffnet-xs"})
    write_yaml(tmp_path / "train.yaml", reusable(best), ["a comment"])
    again = parse(TrainConfig, ["--config", str(tmp_path / "train.yaml"), "--output", "elsewhere"], {})
    assert again == best.model_copy(update={"output": "elsewhere"})
    assert value_at(again, "losses.semi.ramp") == 0.25


def test_a_state_is_gone_on_from_with_other_settings() -> None:
    small = {"student": {"name": "ffnet-xs"}}
    first = Learner(training(optim={"lr": 0.001, "weight_decay": 0.01}, **small), 3, torch.device("cpu"))
    second = Learner(training(optim={"lr": 0.004, "weight_decay": 0.1}, **small), 3, torch.device("cpu"))
    with torch.no_grad():
        next(first.student.parameters()).add_(1.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(next(second.student.parameters()), next(first.student.parameters()))
    assert {group["base_lr"] for group in second.optimizer.param_groups} == {0.004}
    assert {group["weight_decay"] for group in second.optimizer.param_groups} == {0.1, 0.0}


def test_a_trial_that_goes_on_from_anothers_state_keeps_its_name() -> None:
    donor: Any = SimpleNamespace(config={"name": "trial-0", "values": {"optim.lr": 0.004}})
    trial: Any = SimpleNamespace(config={"name": "trial-1", "values": {"optim.lr": 0.001}})
    found, _ = population(space("pbt", restriction={"fields": ["optim.lr"]}), 10)._get_new_config(trial, donor)
    assert found["name"] == "trial-1", "its folder is not the donor's"
    assert found["values"] != trial.config["values"] and donor.config["name"] == "trial-0"


def test_what_a_state_of_other_settings_came_to_is_not_ones_own(tmp_path: Path) -> None:
    def worker(lr: float) -> Worker:
        config = training(optim={"lr": lr}, student={"name": "ffnet-xs"}, early_stopping={"patience": 3})
        sizes = Shape(1, 1, 4, 0, 64, 20, 10, 4)
        made = WorkerSettings(config, sizes, 3, None, 8, 1, None)  # type: ignore[arg-type]
        return Worker(made, Learner(config, 3, torch.device("cpu")), 0)

    donor = worker(0.001)
    donor.best, donor.stale, donor.stopped = Best(0.8, 10, np.zeros((3, 4), np.int64), {}), 3, True
    torch.save(donor.state(), tmp_path / STATE_FILE)
    same, other = worker(0.001), worker(0.004)
    same.restore(tmp_path)
    other.restore(tmp_path)
    assert same.best is not None and (same.best.miou, same.stale, same.stopped) == (0.8, 3, True)
    assert (other.best, other.stale, other.stopped) == (None, 0, False)


def test_a_training_that_an_earlier_process_finished_tells_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    Reports(30, 0, False).end(30, 0.6)
    both = Reports(30, 0, False)
    both.validation(30, {PBT_METRIC: 0.5, METRIC: 0.6})
    both.end(30, 0.6)
    assert [(one[PBT_METRIC], one[METRIC]) for one in told] == [(0.6, 0.6), (0.5, 0.6)]


def refuse(*args: Any) -> Any:
    raise UsageError("refused")


class Reached(Exception):
    """The search would begin."""


def reach(*args: Any, **named: Any) -> Any:
    raise Reached


def test_restart_removes_nothing_before_all_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "search"
    (folder / "mlflow-pending").mkdir(parents=True)
    (folder / "trials").mkdir()
    (folder / "result.json").write_text('{"trials": 20}')
    (folder / SEARCH).write_text('{"seed": "of another search", "snapshot": 7}')
    before = sorted(folder.iterdir())
    config = TuneStudentConfig(output=str(folder), labels="labels", restart=True)
    pinned: list[Any] = []

    def check(base: TrainConfig, snapshot: int | None) -> Any:
        pinned.append(snapshot)
        return SimpleNamespace(plan=SimpleNamespace(validation=[1], digest="d"), snapshot=8, corpus="photos")

    def left(error: type[Exception], **replaced: Callable[..., Any]) -> list[Path]:
        for name, by in replaced.items():
            monkeypatch.setattr(student_job, name, by)
        with pytest.raises(error):
            tune_student(config)
        return sorted(path for path in folder.iterdir() if path.name != "lock")

    assert left(UsageError, check=refuse) == before
    with hold(folder):
        assert left(UsageError, check=check) == before, "another process searches"
    assert left(UsageError, _start=refuse) == before
    assert left(Reached, _start=lambda *args: None, Tracker=reach) == [folder / SEARCH]
    assert pinned == [None] * 3, "the old search's snapshot is forgotten as well"
    assert "of another search" not in (folder / SEARCH).read_text()
    (folder / SEARCH).unlink()  # killed between the two: only the lock is left
    assert left(Reached) == [folder / SEARCH]


def test_trials_without_a_run_of_their_own_wait_with_the_search(tmp_path: Path) -> None:
    (tmp_path / "trial-2" / "mlflow-pending").mkdir(parents=True)
    rows = [
        {"name": f"trial-{number}", "output": str(tmp_path / f"trial-{number}"), "mlflow_run_id": run, "seconds": 2.0,
         "values": {"optim.lr": 0.1}, "numbers": {METRIC: 0.5}, "stopped_early": False}
        for number, run in enumerate(["known", "", ""])
    ]  # fmt: skip
    for name in ("train.yaml", "result.json"):
        (tmp_path / name).touch()
    numbers = dict.fromkeys(("trials", "resumed", "stopped_early", "miou", "default_miou", "search_seconds"), 0)
    result = {**numbers, "winner": "trial-1", "all_trials": rows, "snapshot": 1, "student": str(tmp_path / "student")}
    amended: list[str] = []
    children: list[Any] = []
    tracker: Any = SimpleNamespace(amend=lambda run, tags: amended.append(run), children=children.extend)
    for name in ("params", "tags", "metrics", "text", "snapshot", "model"):
        setattr(tracker, name, lambda *args: None)
    config = TuneStudentConfig(output=str(tmp_path), labels="labels")
    student_job._track(config, tracker, training(), result, tmp_path)
    assert amended == ["known"]
    (child,) = children
    assert (child.name, child.params, child.tags["winner"]) == ("trial-1", {"optim.lr": 0.1}, True)
    assert child.metrics == {METRIC: 0.5, "seconds": 2.0}, "trial-2 waits in its own folder"


def test_a_population_is_gone_on_with_where_it_has_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[dict[str, Any]] = []
    monkeypatch.setattr(student_search, "_beside_the_driver", lambda concurrent: {"CPU": 0.01})
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, **named: trainable)
    monkeypatch.setattr(tune.Tuner, "restore", lambda *args, **named: restored.append(named))
    monkeypatch.setattr(student_search, "fit", reach)
    config = TuneStudentConfig(output=str(tmp_path), labels="labels", scheduler="pbt", trials=3)
    common = Common(training(), None, Share(1, 2.0, 0.0), "", True)  # type: ignore[arg-type]
    memory = tmp_path / "tune" / "students"
    memory.mkdir(parents=True)
    (memory / "tuner.pkl").touch()
    search = Search(config, space("pbt"), common, tmp_path)
    with pytest.raises(Reached):
        search.run()
    assert not restored, "killed before there was a trial"
    (memory / "experiment_state-2026.json").touch()
    with pytest.raises(Reached):
        search.run()
    (told,) = restored
    assert set(told["param_space"]) == {"name", "values"}, "settings of trials that are not made yet"


def test_the_head_goes_by_no_address() -> None:
    head, other = {"node:10.0.0.1": 1.0, HEAD: 1.0}, {"node:10.0.0.2": 1.0}
    found = [student_search._machine(address, [head, other]) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3")]
    assert found == [HEAD, "node:10.0.0.2", HEAD]
