"""Settings: where they come from, which wins, and what a person is told who got one wrong."""

import dataclasses
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from models.decide.config import DecideConfig
from models.observe_config import ObserveConfig
from pipelines.config import LabelConfig, config_digest, parse
from pipelines.config_schema import MISSING
from pipelines.config_schema import settings as all_settings

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ["--corpus", "photos", "--output", "out"]


def label(*flags: str, env: dict[str, str] | None = None) -> LabelConfig:
    return parse(LabelConfig, [*NEEDED, *flags], env or {}, "label_corpus.py", "Label.")


def refused(
    capsys: pytest.CaptureFixture[str], *flags: str, env: dict[str, str] | None = None, needed: bool = True
) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(LabelConfig, [*(NEEDED if needed else ()), *flags], env or {}, "label_corpus.py", "Label.")
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_are_those_of_the_dataclasses() -> None:
    config = label()
    assert config.decide == DecideConfig() and config.observe == ObserveConfig()
    assert isinstance(config.decide, DecideConfig)
    assert (config.corpus, config.output, config.classes, config.weak) == ("photos", "out", None, None)


def test_flags_win_over_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "decide: {mask_top: 4, grid_px: 64, par_iterations: 3}\nlimit: 7\n")
    env = {"MASKSTREAM_DECIDE__MASK_TOP": "5", "MASKSTREAM_DECIDE__GRID_PX": "65", "HOME": "/x"}
    config = label("--config", file, "--decide.mask_top", "6", env=env)
    assert (config.decide.mask_top, config.decide.grid_px, config.decide.par_iterations) == (6, 65, 3)
    assert config.limit == 7


def test_every_type_is_spelled_as_people_do(tmp_path: Path) -> None:
    config = label(
        "--strict", "--tracking.enabled", "false", "--dry-run=true", "--weak", "tags, points", "--budget", "1h30m",
        "--observe.clip.scales", "0.5,1", "--images.max_pixels", "50M", "--execution.actors=3", "--classes", "a, b",
        "--split", "none", "--decide.similarity", "cosine",
    )  # fmt: skip
    assert (config.strict, config.tracking.enabled, config.dry_run) == (True, False, True)
    assert (config.weak, config.budget_seconds, config.split) == (("tags", "points"), 5400.0, None)
    assert config.observe.clip.scales == (0.5, 1.0) and config.images.max_pixels == 50_000_000
    assert (config.execution.actors, config.classes, config.decide.similarity) == (3, "a, b", "cosine")
    assert label("--weak", "none").weak == ()
    nested = label("--config", write(tmp_path, 'classes: [cat, "salt, pepper"]\nweak: [tags]\nbudget: 2h\n'))
    assert nested.classes == ["cat", "salt, pepper"] and nested.weak == ("tags",) and nested.budget == 7200
    assert label("--config", write(tmp_path, "decide.mask_top: 2\ndry-run: yes\ndecide:\n")).decide.mask_top == 2


def test_a_stored_config_can_be_given_back(tmp_path: Path) -> None:
    config = label("--decide.mask_weight", "0.25", "--budget", "30m", "--weak", "tags", "--execution.actors", "2")
    stored = {**config.model_dump(mode="json"), "digests": {"observe_id": "0"}}
    assert parse(LabelConfig, ["--config", write(tmp_path, yaml.safe_dump(stored))], {}) == config


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--decide.mask_wieght", "0.3"], "unknown setting 'decide.mask_wieght'; did you mean decide.mask_weight?"),
        (["--mask_weight", "0.3"], "did you mean decide.mask_weight?"),
        (["--splt", "val"], "did you mean split?"),
        (["--zzz"], "unknown setting 'zzz'"),
        (["--decide", "3"], "decide is a section, not a value; it has decide."),
        (["--limit", "many"], "--limit: 'many': should be a valid integer"),
        (["--limit", "0"], "--limit: 0 is not at least 1"),
        (["--decide.mask_weight", "1.5"], "--decide.mask_weight: 1.5 is not in 0..1"),
        (["--decide.mask_weight", "nan"], "not a finite number"),
        (["--observe.clip.scales", "1,9"], "--observe.clip.scales: 9 is not in 0.25..4"),
        (["--observe.clip.scales", "1,x"], "should be a valid number"),
        (["--decide.similarity", "sine"], "should be 'dot' or 'cosine'"),
        (["--strict", "maybe"], "'maybe' stands alone"),
        (["--strict=maybe"], "should be a valid boolean"),
        (["--weak", "tags,point"], "'points'"),
        (["--budget", "soon"], "expected a duration such as 2h"),
        (["--execution.actors", "0"], "greater than or equal to 1"),
        (["--limit"], "--limit needs a value"),
        (["--split", "--strict"], "--split needs a value"),
        (["photos"], "'photos' stands alone"),
        (["--config", "/nowhere.yaml"], "there is no file /nowhere.yaml"),
    ],
)
def test_a_wrong_flag_ends_with_2_and_says_what_to_write(capsys, flags: list[str], message: str) -> None:
    assert message in refused(capsys, *flags)


def test_all_mistakes_are_told_at_once(capsys) -> None:
    told = refused(capsys, "--limit", "x", "--splt", "y", env={"MASKSTREAM_OUTPT": "z"})
    assert all(text in told for text in ("--limit", "did you mean split?", "did you mean output?"))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"MASKSTREAM_DECIDE__MASK_WIEGHT": "1"},
            "environment variable MASKSTREAM_DECIDE__MASK_WIEGHT: unknown setting",
        ),
        ({"MASKSTREAM_LIMIT": "x"}, "environment variable MASKSTREAM_LIMIT: 'x': should be a valid integer"),
        ({"MASKSTREAM_DECIDE": "1"}, "decide is a section"),
    ],
)
def test_a_wrong_environment_variable_is_not_passed_over(capsys, env: dict[str, str], message: str) -> None:
    assert message in refused(capsys, env=env)


def test_variables_that_are_none_of_its_business_are_left_alone() -> None:
    assert label(env={"MASKSTREAM_REQUIRE": "data", "MASKSTREAM_SPLIT": "", "PATH": "x"}) == label()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit: 3\ndecide:\n  mask_wieght: 1\n", "line 3: unknown setting 'decide.mask_wieght'; did you mean"),
        ("decide: 3\n", "line 1: decide is a section"),
        ("decide:\n  mask_weight: yes\n", "line 2: decide.mask_weight: True is not NUMBER"),
        ("split: 2007\n", "line 1: split: 2007: should be a valid string"),
        ("limit: 1\nlimit: 2\n", "line 2: 'limit' is given twice"),
        ("- a\n", "expected a mapping of settings, not list"),
        ("limit: [\n", "line 2"),
        ("limit: {a: 1}\n", "line 1: limit"),
    ],
)
def test_a_wrong_file_names_its_line(capsys, tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(capsys, "--config", write(tmp_path, text))


def test_what_must_be_given_is_named(capsys) -> None:
    told = refused(capsys, needed=False)
    assert "--corpus is missing" in told and "--output is missing" in told


def test_help_lists_every_setting_with_default_range_and_section(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(LabelConfig, ["--help"], {}, "label_corpus.py", "Label a corpus.")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert shown.startswith("usage: label_corpus.py --corpus TEXT --output TEXT") and "Label a corpus." in shown
    for path, setting in all_settings(LabelConfig).items():
        assert f"--{setting.name} " in shown or f"--{setting.name}\n" in shown, path
        assert setting.help, f"{setting.name} has no help"
    assert "MASKSTREAM_" in shown and "default 200,000,000" in shown and "in 1..256" in shown
    assert max(map(len, shown.splitlines())) <= 140
    with pytest.raises(SystemExit):
        parse(LabelConfig, ["--help", "tracking"], {}, "label_corpus.py")
    shown = capsys.readouterr().out
    assert "--tracking.uri" in shown and "--decide" not in shown


def test_every_default_is_valid_itself() -> None:
    for setting in all_settings(LabelConfig).values():
        if setting.default is not MISSING:
            assert setting.parse(setting.default) == setting.default, setting.name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (45, "45s"), (120, "2m"), (5400, "1h30m"), (2592000.0, "30d"), (90061.5, "1d1h1m1.5s")],
)
def test_durations_are_shown_as_they_are_given(seconds: float, text: str) -> None:
    lease = all_settings(LabelConfig)["lock", "lease"]
    assert lease.shown(seconds) == text and (not seconds or lease.parse(text) == seconds)


def test_help_shows_durations_and_names_methods_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.nightly.config import NightlyConfig
    from pipelines.training.config import TrainConfig

    told = {}
    for model in (NightlyConfig, TrainConfig):
        with pytest.raises(SystemExit):
            parse(model, ["--help"], {})
        told[model] = " ".join(capsys.readouterr().out.split())
    night = told[NightlyConfig]
    assert "never. The published one stays [at least 0; default 30d]" in night
    assert (
        "renewed while it lives [at least 1s; default 2m]" in night
        and "give up at once [at least 0; default 0]" in night
    )
    assert not re.search(r"\brow \d", "".join(told.values()), re.IGNORECASE)
    with pytest.raises(SystemExit):
        parse(NightlyConfig, ["--lock.lease", "0.5s"], {})
    assert "--lock.lease: 0.5s is not at least 1s" in capsys.readouterr().err


def test_help_needs_no_heavy_import() -> None:
    script = (
        "import sys\nfrom pipelines.config import LabelConfig, parse\n"
        "try: parse(LabelConfig, ['--help'], {})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'pyarrow', 'transformers', 'scipy', 'mlflow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@dataclass(frozen=True)
class Tuning:
    """A section that is a plain dataclass."""

    steps: int = field(default=3, metadata={"help": "steps", "range": (1, 10)})
    mode: Literal["slow", "fast"] = "slow"
    sizes: tuple[int, ...] = field(default=(1, 2), metadata={"range": (0, None)})

    def __post_init__(self) -> None:
        if self.mode == "fast" and self.steps > 5:
            raise ValueError("fast takes at most 5 steps")


class Other(BaseModel):
    """Another job."""

    gold: str
    tuning: Tuning = Tuning()


def test_other_jobs_use_it_with_their_own_models(capsys) -> None:
    env = {"MASKSTREAM_CORPUS": "set for the labeling job", "MASKSTREAM_TUNING__SIZES": "4"}
    config = parse(Other, ["--gold", "x", "--tuning.mode", "fast"], env, "other.py", "Other.")
    assert config == Other(gold="x", tuning=Tuning(mode="fast", sizes=(4,)))
    for flags, message in [
        (["--tuning.steps", "11"], "11 is not in 1..10"),
        (["--tuning.sizes", "-1"], "-1 is not at least 0"),
        (["--tuning.mode", "fast", "--tuning.steps", "7"], "fast takes at most 5 steps"),
        (["--gold.uri", "x"], "unknown setting 'gold.uri'"),
    ]:
        with pytest.raises(SystemExit):
            parse(Other, ["--gold", "x", *flags], {}, "other.py")
        assert message in capsys.readouterr().err


def test_the_digest_follows_values_only() -> None:
    base = config_digest(label().decide)
    assert base == config_digest(DecideConfig()) == config_digest(label("--decide.mask_top", "3").decide)
    assert base != config_digest(dataclasses.replace(DecideConfig(), mask_top=4))
    assert config_digest(label().images) != config_digest(label("--images.read_threads", "9").images)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=12) | st.sampled_from(["--limit", "--decide.mask_top", "--config", "3"]), max_size=5))
def test_no_command_line_ends_in_a_traceback(arguments: list[str]) -> None:
    try:
        parse(LabelConfig, arguments, {})
    except SystemExit as stop:
        assert stop.code in (0, 2)


def test_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MASKSTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASKSTREAM_REPORT__IMAGES", "12")
    assert parse(LabelConfig, NEEDED).report.images == 12


def test_what_is_written_of_a_config_has_no_password() -> None:
    secret = "http://me:hunter@2@host:5000"
    config = label("--tracking.uri", secret)
    assert config.model_dump(mode="json")["tracking"]["uri"] == "http://me:***@host:5000"
    assert "hunter" not in config.model_dump_json()
    assert config.tracking.uri == pickle.loads(pickle.dumps(config)).tracking.uri == secret, "jobs and trials need it"
    assert label("--tracking.uri", "http://host:5000").model_dump(mode="json")["tracking"]["uri"] == "http://host:5000"


def test_a_config_that_was_written_without_its_password_asks_for_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(label("--tracking.uri", "http://me:secret@host").model_dump_json())
    assert "tracking.uri: http://me:***@host was written without its password" in refused(
        capsys, "--config", str(written)
    )
    again = label("--config", str(written), "--tracking.uri", "http://me:secret@host")
    assert again.tracking.uri == "http://me:secret@host"


def test_help_gives_no_default_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(LabelConfig, ["--help"], {}, "label_corpus.py", "Label.")
    shown = capsys.readouterr().out
    assert "default ]" not in shown and "default;" not in shown


def test_attention_that_adds_to_nothing_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "--observe.clip.extra_attention", "0.5")
    assert "attention is auto" in told and "qq+kk+vv" in told
    assert label("--observe.clip.extra_attention", "0.5", "--observe.clip.attention", "vv").observe.clip.extra_attention
