"""A search that is killed and goes on is the search that was not: the same trials, none twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from models.decide.config import DecideConfig
from pipelines.config import UsageError
from tuning.labels_space import LabelSpace as Space
from tuning.labels_space import build_space
from tuning.objectives import parse_objective
from tuning.study import FINISHED, Progress, StudySearch, claim, hold, open_storage, resume, scheduler
from tuning.trial import rungs

IMAGES = 50
REPORTS = rungs(IMAGES, True)


@pytest.fixture
def space() -> Space:
    return build_space(DecideConfig(), [parse_objective("miou")], ("named",))


def score(values: dict[str, Any], images: int) -> float:
    """Something with one optimum; a part of the images tells less."""
    return 1 - abs(values["mask_weight"] - 0.4) - 0.3 * abs(values["background_threshold"] - 0.3) + 0.2 / images


class Killed(Exception):
    pass


def run(folder: Path, space: Space, trials: int, seed: int = 5, kill_at: tuple[int, int] = (-1, 0)) -> list[Any]:
    """What Tune does with one trial at a time, without its processes. kill_at: dies in this trial and step."""
    search = StudySearch(space, open_storage(folder), ["miou"], Progress("images", "images", IMAGES), seed)
    done = resume(search.study, space)
    asha = scheduler(search.study, "miou", "images", REPORTS[0], REPORTS[-1])
    for count in range(done, trials):
        name = f"tune-{count}"
        values = search.suggest(name)
        assert values is not None
        own = SimpleNamespace(trial_id=name)
        asha.on_trial_add(None, own)
        for step, images in enumerate(REPORTS, 1):
            if (count, step) == kill_at:
                raise Killed
            result = {"miou": score(values, images), "images": images, "training_iteration": step, "time_total_s": 1.0}
            if asha.on_trial_result(None, own, result) == "STOP" or images == IMAGES:
                asha.on_trial_complete(None, own, result)
                search.on_trial_complete(name, result)
                break
            search.on_trial_result(name, result)
    return search.study.get_trials(states=FINISHED)


def told(trials: list[Any]) -> list[Any]:
    return [(one.state, one.params, one.user_attrs["reports"]) for one in trials]


def test_a_killed_search_ends_like_one_that_was_not(tmp_path: Path, space: Space) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = run(tmp_path / "whole", space, 30)
    for moment in ((0, 2), (3, 1), (17, 1)):
        with pytest.raises(Killed):
            run(tmp_path / "broken", space, 30, kill_at=moment)
    broken = run(tmp_path / "broken", space, 30)
    assert len(broken) == 30
    assert told(broken) == told(whole)
    assert len({str(one.params) for one in broken}) == 30, "a trial was repeated"
    assert run(tmp_path / "broken", space, 30) == broken, "a search that is done does nothing"
    assert told(run(tmp_path / "broken", space, 33))[:30] == told(whole), "more trials go on from there"


def test_the_first_trial_is_the_default_and_seeds_differ(tmp_path: Path, space: Space) -> None:
    found = []
    for seed in (5, 5, 6):
        folder = tmp_path / f"{len(found)}"
        folder.mkdir()
        found.append(run(folder, space, 12, seed))
    assert space.config(found[0][0].params) == DecideConfig()
    assert told(found[0]) == told(found[1])
    assert told(found[0])[1:] != told(found[2])[1:]


def test_stopped_trials_are_told_as_such_and_the_search_gets_better(tmp_path: Path, space: Space) -> None:
    found = run(tmp_path, space, 60)
    stopped = [one for one in found if one.state == TrialState.PRUNED]
    assert 20 < len(stopped) < 58, "most trials are stopped early, and some are not"
    assert {one.user_attrs["reports"][-1]["images"] for one in stopped} <= set(REPORTS[:-1])
    whole = [one for one in found if one.state == TrialState.COMPLETE]
    assert all(one.user_attrs["reports"][-1]["images"] == IMAGES for one in whole)
    # A part of the images gives higher scores here; no trial wins by that.
    assert max(one.value for one in whole) > score(found[0].params, IMAGES)


def test_one_search_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(UsageError, match="another process searches in"):
        hold(tmp_path)
    hold(tmp_path).close()


def test_a_folder_belongs_to_one_search(tmp_path: Path) -> None:
    claim(tmp_path / "new", {"seed": 1, "space": ["a"]})
    claim(tmp_path / "new", {"seed": 1, "space": ["a"]})
    with pytest.raises(UsageError, match=r"holds another search \(seed differs"):
        claim(tmp_path / "new", {"seed": 2, "space": ["a"]})


def test_rungs() -> None:
    assert rungs(50, True) == [10, 25, 50]
    assert rungs(50, False) == [50]
    assert rungs(1, True) == [1]
    assert rungs(6, True) == [2, 3, 6]
