"""tune_labels.py as a user runs it, on photographs with gold masks: killed, resumed, tracked, and its result used."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobs import ROOT, Job, wait_until

from models.decide.config import DecideConfig
from pipelines.config import UsageError
from tuning.config import TuneLabelsConfig

IMAGES, TRIALS = 12, 12
SPLIT = "chosen"


@pytest.fixture
def layout(data: Path, tmp_path: Path) -> Path:
    """A VOC layout with one split: every eighth photograph of gold100."""
    voc, root, splits = data / "voc", tmp_path / "voc", Path("ImageSets") / "Segmentation"
    names = (voc / splits / "gold100.txt").read_text().split()[:: 100 // IMAGES][:IMAGES]
    (root / splits).mkdir(parents=True)
    (root / splits / f"{SPLIT}.txt").write_text("\n".join(names) + "\n")
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).symlink_to(voc / folder)
    return root


def finished(folder: Path) -> list[Any]:
    """Trials that ended, as the journal on disk has them."""
    import optuna

    from tuning.study import FINISHED, STUDY, open_storage

    if not (folder / "study.journal").exists():
        return []
    try:
        study = optuna.load_study(study_name=STUDY, storage=open_storage(folder))
    except KeyError:  # not yet begun
        return []
    return study.get_trials(states=FINISHED)


def start(job: Job, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "tuning" / "tune_labels.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=job.env)


def tune(job: Job, *arguments: object) -> tuple[int, dict[str, Any], str]:
    process = start(job, *arguments)
    out, err = process.communicate(timeout=300)
    lines = out.strip().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, err


def test_killed_resumed_tracked_and_used(job: Job, layout: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "out" / "voc", tmp_path / "search"
    corpus = ("--corpus", f"voc:{layout}", "--split", SPLIT, "--weak", "tags", "--output", output)
    labeled = job(*corpus, models=False)
    assert labeled.code == 0, labeled.err
    gold = ("--labels", output, "--gold.uri", f"voc:{layout}", "--gold.split", SPLIT)
    command = (
        *gold, "--trials", TRIALS, "--output", folder, "--execution.concurrent", 1,
        "--execution.progress_seconds", 0.5,
    )  # fmt: skip

    process = start(job, *command)
    try:
        assert wait_until(lambda: len(finished(folder)) >= 3 or process.poll() is not None, every=0.2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        _, err = process.communicate()
    before = finished(folder)
    assert 3 <= len(before) < TRIALS, err[-3000:]

    code, result, err = tune(job, *command)
    assert code == 0, err[-3000:]
    assert (result["trials"], result["resumed"]) == (TRIALS, len(before))
    assert f"{len(before)} trials of an earlier run" in err
    assert f"{TRIALS}/{TRIALS} trials" in err
    assert "ETA" in err
    after = finished(folder)
    assert [one.params for one in after[: len(before)]] == [one.params for one in before]
    assert len({json.dumps(one.params, sort_keys=True) for one in after}) == TRIALS, "a trial was repeated"
    stored = json.loads((folder / "result.json").read_text())
    assert (stored["search"]["images"], stored["holdout"]["images"]) == (6, 6)
    assert stored["all_trials"][0]["values"].items() <= vars(DecideConfig()).items(), "the default comes first"

    check_mlflow(output, stored)
    from tuning.labels_job import tune_labels

    told = {"labels": str(output), "gold": {"uri": f"voc:{layout}", "split": SPLIT}, "output": str(folder), "seed": 1}
    with pytest.raises(UsageError, match="holds another search"):
        tune_labels(TuneLabelsConfig.model_validate(told))
    check_the_numbers(job, corpus, output, folder, stored, layout)


def check_the_numbers(
    job: Job, corpus: tuple[object, ...], output: Path, folder: Path, stored: dict[str, Any], layout: Path
) -> None:
    """label_corpus.py takes the result, decides with it, and evaluate.py sees what the search promised."""
    from pipelines.evaluate import EvaluateConfig, evaluate

    section = yaml.safe_load((folder / "decide.yaml").read_text())["decide"]
    assert section == stored["decide"]
    dry = job(*corpus, "--config", folder / "decide.yaml", "--dry-run", models=False)
    assert dry.code == 0, dry.err
    other = {**section, "mask_weight": 0.2, "background_threshold": 0.6}
    (folder / "other.yaml").write_text(yaml.safe_dump({"decide": other}))
    from pipelines.evaluation.cases import load
    from tuning.cases import find_source
    from tuning.objectives import parse_objective
    from tuning.scoring import count_all

    told = {"uri": f"voc:{layout}", "split": SPLIT}
    source = find_source(TuneLabelsConfig.model_validate({"labels": str(output), "gold": told}))
    cases = load(source, source.rows)
    ours = parse_objective("miou").value(count_all(cases, cases.items, DecideConfig(**other)).sum(0))
    done = job(*corpus, "--config", folder / "other.yaml", models=False)
    assert (done.code, done.result["observed"], done.result["labeled"]) == (0, 0, IMAGES), done.err
    theirs = evaluate(EvaluateConfig.model_validate({"labels": str(output), "gold": told, "baselines": False}))
    assert ours == pytest.approx(theirs["miou"], abs=1e-5)
    check_calibration(output, told, other, theirs["calibration_error"])


def check_calibration(output: Path, gold: dict[str, str], labeled_with: dict[str, Any], error: float) -> None:
    """calibrate.py begins at the error that evaluate.py measures, and writes settings that bend confidence alone."""
    from tuning.calibration_job import calibrate
    from tuning.config import CalibrateConfig

    found = calibrate(CalibrateConfig.model_validate({"labels": str(output), "gold": gold, "folds": 3}))
    assert (found["images"], found["calibration_error"]["before"]) == (IMAGES, pytest.approx(error, abs=1e-4))
    section = yaml.safe_load(Path(found["yaml"]).read_text())["decide"]
    table = section.pop("confidence_table")
    assert len(table) > 2 and table == sorted(table)
    assert section == {name: value for name, value in labeled_with.items() if name != "confidence_table"}


def check_mlflow(output: Path, stored: dict[str, Any]) -> None:
    """One run of the search, and one within it for each trial."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output.parent}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name.startswith("voc")]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("job") == "tune_labels"]
    assert parent.data.metrics["search/default/miou"] == stored["search"]["default"]["miou"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == TRIALS
    by_name = {run.info.run_name: run for run in children}
    row = stored["all_trials"][-1]
    assert by_name[f"trial-{row['number']}"].data.metrics["miou"] == row["numbers"]["miou"]
    assert by_name[f"trial-{row['number']}"].data.params.keys() == row["values"].keys()
