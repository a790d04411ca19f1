"""weigh_sources.py: what sources say at three levels, who is right how often, and settings for label_corpus.py."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import local_ray
import numpy as np
import pytest
import yaml
from decide_scene import CLASSES, make_world, weak
from pictures import write_crops
from PIL import Image
from small_models import write_clip, write_sam

from models import evidence as evidence_record
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.source_votes import SOURCES, bank_segments
from models.label_model import LabelModelConfig
from pipelines import weak as weak_labels
from pipelines import weigh_sources as script
from pipelines.ablation.variants import parts_of
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError, parse
from pipelines.evaluation.cases import Case, Cases, Source
from pipelines.evaluation.gold import match, open_gold
from pipelines.evaluation.runs import PastRun
from pipelines.flow.job import label_corpus
from pipelines.learned import by_kind
from pipelines.stages.decide import read_png
from pipelines.tables.labels import LabelTable
from pipelines.weighing import job, judge
from pipelines.weighing.collect import Collector, Level, joined
from pipelines.weighing.config import WeighConfig

WORLD = make_world()
TOLD = WeighConfig.model_validate({"labels": "x"})
IMAGES = 8


def collect(index_of: list[int], given: Any, gold: np.ndarray | None) -> dict[str, Level]:
    names = ("background", *CLASSES.names)
    case = Case("a", WORLD.evidence, given, (), gold)
    cases = Cases((case,), WORLD.text, CLASSES, names, np.array(index_of, np.int16))
    return Collector(cases, DecideConfig(), TOLD)(case, WORLD.truth.astype(np.uint8), 3)


def test_sources_are_asked_at_three_levels() -> None:
    gold = WORLD.truth.astype(np.int16)
    gold[:20] = 5  # not judged
    levels = collect([0, 1, 2, 3, 4], weak(tags=[0, 1, 2]), gold)
    pixels, segments, images = levels["pixels"], levels["segments"], levels["images"]
    text = SOURCES.index("text")
    for level in (pixels, segments):
        both = (level.truth >= 0) & (level.votes[:, text] >= 0)
        assert both.sum() >= 3 and (level.truth == level.votes[:, text])[both].mean() > 0.9
        assert level.allowed[0].tolist() == [True, True, True, True, False] and set(level.image) == {3}
        judged = level.truth >= 0
        assert (level.truth == level.published)[judged].mean() > 0.95
    assert len(pixels.truth) == TOLD.sample.pixels and (pixels.truth == -1).any()
    # The feature of a patch points at its class: dimension c - 1, the background's is the fifth.
    looks = pixels.features[pixels.feature, :5].argmax(1)
    found = np.where(looks == 4, 0, looks + 1)
    assert (found == pixels.published).mean() > 0.85
    assert images.truth.tolist() == images.published.tolist() == [1, 1, 1, 0]
    assert images.sources[-1] == "tags" and images.votes[:, -1].tolist() == [1, 1, 1, 0]
    nobody = collect([0, 1, 2, 3, 4], weak(), None)
    assert (nobody["images"].votes[:, -1] == -1).all() and (nobody["pixels"].truth == -1).all()
    # Who knows the tags knows too much: of whole images the other sources are asked without.
    assert nobody["images"].votes[:, :-1].tolist() == images.votes[:, :-1].tolist()


def test_classes_that_the_gold_does_not_tell_apart_are_one_in_the_votes() -> None:
    gold = np.where(WORLD.truth == 2, 1, np.minimum(WORLD.truth, 2)).astype(np.int16)
    levels = collect([0, 1, 1, 2, 5], weak(tags=[0, 1, 2]), gold)
    assert 2 not in levels["pixels"].votes and 2 not in levels["pixels"].truth
    assert not levels["pixels"].allowed[0, 2]
    assert levels["images"].truth.tolist() == [1, -1, 1, -1]


def test_segments_are_the_smallest_masks_of_the_bank() -> None:
    masks = np.zeros((3, 4, 6), np.float32)
    masks[0, :, :4] = masks[1, 1:3, 1:3] = masks[2, 0, 0] = 1
    found = bank_segments(masks).reshape(4, 6)
    assert len(np.unique(found)) == 4 and found[1, 1] == found[2, 2] != found[3, 3] == found[0, 1] != found[0, 0]
    assert (found[:, 4:] == found[3, 5]).all()
    assert bank_segments(masks[:0]).tolist() == [0] * 24


def planted(items: int = 1200, classes: int = 4) -> tuple[Level, np.ndarray]:
    """One source that is right, and two that copy each other and are mostly wrong; half of the images have gold."""
    random = np.random.default_rng(1)
    truth = random.integers(0, classes, items).astype(np.int16)

    def source(right: float) -> np.ndarray:
        wrong = (truth + random.integers(1, classes, items)) % classes
        return np.where(random.random(items) < right, truth, wrong).astype(np.int16)

    copied = source(0.4)
    votes = np.stack([source(0.95), copied, copied], 1)
    image = (np.arange(items) // 12).astype(np.int32)
    features = np.eye(classes, dtype=np.float32)[truth] + random.normal(0, 0.2, (items, classes)).astype(np.float32)
    allowed = np.ones((items, classes), bool)
    half = np.full(items // 12, -1, np.int8)
    half[: items // 24] = np.arange(items // 24) % 2
    known = np.where(half[image] >= 0, truth, -1).astype(np.int16)
    of = np.arange(items, dtype=np.int32)
    return Level(votes, known, copied, image, np.zeros_like(image), features.astype(np.float32), of, allowed), half


def test_what_several_items_look_like_is_kept_once() -> None:
    first, second = (collect([0, 1, 2, 3, 4], weak(), None) for _ in range(2))
    both = joined([first["images"], second["images"]])
    classes = len(CLASSES.ids)
    assert both.features.shape[0] == 2 and both.feature.tolist() == [0] * classes + [1] * classes
    pixels = joined([first["pixels"], second["pixels"]])
    own = first["pixels"].features[first["pixels"].feature]
    np.testing.assert_array_equal(pixels.features[pixels.feature], np.concatenate([own, own]))


def gold_of(folder: Path, names: list[str], digests: list[str] | None = None) -> Source:
    """Images of which there are masks, and nothing else."""
    folder.mkdir(exist_ok=True)
    classes = ClassSet.load("cat, dog")
    for name in names:
        Image.fromarray(np.ones((3, 4), np.uint8)).save(folder / name.replace(".jpg", ".png"))
    gold = open_gold(str(folder), None, None, classes, 255, None, ())
    past = PastRun(str(folder), LabelConfig(corpus="c", output="o"), classes, "o", "c")
    digests = digests or names
    rows = tuple(
        {"asset": name, "digest": digest, "label_key": "k", "weak": "{}"}
        for name, digest in zip(names, digests, strict=True)
    )
    return Source(str(folder), 1, past, gold, match(classes, classes, 255), rows)


def test_frames_and_copies_are_in_one_half(tmp_path: Path) -> None:
    names = [f"{walk}_{number:03d}.jpg" for walk in ("a", "b", "c", "d") for number in range(20)]
    half = job._halves(gold_of(tmp_path / "walks", names), 3, 0)
    changes = (np.diff(half[:80]) != 0).sum()
    assert changes <= 8 and 30 <= (half == 1).sum() <= 50 and half[80:].tolist() == [-1] * 3
    copies = gold_of(tmp_path / "copies", ["p.jpg", "q.jpg", "r.jpg"], ["same", "other", "same"])
    assert job._halves(copies, 0, 0).tolist() in ([0, 1, 0], [1, 0, 1])
    with pytest.raises(UsageError, match="--gold: all images with gold are the same"):
        job._halves(gold_of(tmp_path / "same", ["p.jpg", "q.jpg"], ["same", "same"]), 0, 0)


def test_other_gold_is_another_result(tmp_path: Path) -> None:
    before, again = (job._identity(parts_of(gold_of(tmp_path / "gold", ["a.jpg", "b.jpg"]))) for _ in range(2))
    changed = gold_of(tmp_path / "gold", ["a.jpg", "b.jpg"])
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "gold" / "b.png")
    assert before == again != job._identity(parts_of(changed))


def test_gold_tells_who_is_right_and_the_baselines_stand_beside_it() -> None:
    level, half = planted()
    fits = judge.fit(level, half, LabelModelConfig(gold_weight=20))
    good, bad, _ = judge.sources(level, fits)
    assert good["accuracy_with_gold"] > 0.9 > 0.6 > bad["accuracy_with_gold"]
    assert bad["accuracy"] > good["accuracy"], "without gold, those who copy each other are believed"
    assert good["right_on_gold"] == pytest.approx(0.95, abs=0.03) and bad["agrees_with_published"] == 1.0
    ways = judge.compare(level, fits, half, 1.0)
    assert tuple(ways) == judge.WAYS
    numbers = {name: one["accuracy"] for name, one in ways.items()}
    assert numbers["label_model_with_gold"] > 0.9 > 0.6 > numbers["majority"]
    assert numbers["few_shot"] > 0.9 and numbers["published"] == pytest.approx(0.4, abs=0.06)
    blind = judge.fit(level, np.full_like(half, -1), LabelModelConfig())
    assert blind.told is None
    assert tuple(judge.compare(level, blind, np.full_like(half, -1), 1.0)) == ("majority", "label_model")


def test_nothing_is_judged_by_gold_that_it_was_fitted_on() -> None:
    level, half = planted()
    lies = dataclasses.replace(level, truth=np.where(half[level.image] == 0, 0, level.truth).astype(np.int16))
    honest, lied = (judge.fit(one, half, LabelModelConfig()) for one in (level, lies))
    assert honest.halves is not None and lied.halves is not None
    np.testing.assert_array_equal(honest.halves[0].confusion, lied.halves[0].confusion)
    assert (honest.halves[1].confusion != lied.halves[1].confusion).any()
    of = half[level.image]
    before, after = judge._few_shot(level, of, 1.0), judge._few_shot(lies, of, 1.0)
    np.testing.assert_array_equal(before[of == 0], after[of == 0])
    assert (before[of == 1] != after[of == 1]).any() and (before[of == -1] == -1).all()


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labeled corpus of which half has random gold, and a head that its tags taught."""
    folder = tmp_path_factory.mktemp("weigh")
    names = write_crops(folder / "corpus", IMAGES)
    lines = [{"path": name, "tags": (["cat"], ["dog", "person"])[number % 2]} for number, name in enumerate(names)]
    (folder / "weak.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "gold").mkdir()
    random = np.random.default_rng(0)
    for name in names[: IMAGES // 2]:
        with Image.open(folder / "corpus" / name) as image:
            coarse = Image.fromarray(random.integers(0, 4, (3, 3)).astype(np.uint8))
            coarse.resize(image.size, Image.Resampling.NEAREST).save(folder / "gold" / name.replace(".jpg", ".png"))
    config = {
        "corpus": str(folder / "corpus"),
        "weak_file": str(folder / "weak.jsonl"),
        "output": str(folder / "out"),
        "classes": "cat, dog, person",
        "tracking": {"enabled": False},
        "observe": {
            "clip": {"model": str(write_clip(folder / "clip"))},
            "sam": {"model": str(write_sam(folder / "sam")), "min_iou": 0, "min_stability": 0, "max_area": 1},
        },
        "learn": {"min_tagged": IMAGES, "min_images": 2},
    }
    with pytest.MonkeyPatch.context() as patch:
        local_ray.use(patch)
        assert label_corpus(LabelConfig.model_validate(config)).exit_code == 0
    return folder


@pytest.fixture
def run(labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run weigh_sources.py in this process; its exit code, its last line, and what it said."""
    monkeypatch.setattr(script, "keep_stdout_for_results", lambda: None)

    def run(*flags: object) -> tuple[int, dict[str, Any], str]:
        given = ("--labels", labeled / "out", "--output", tmp_path / "weights", "--tracking.enabled", "false")
        try:
            code = script.main([*map(str, (*given, "--resamples", 100, *flags))])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        out, err = capfd.readouterr()
        lines = out.strip().splitlines()
        return code, json.loads(lines[-1]) if lines and code == 0 else {}, err

    return run


def test_weights_are_learned_judged_and_taken_by_the_labeling_job(
    labeled: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found, err = run("--gold.uri", labeled / "gold")
    assert code == 0, err
    assert (found["images"], found["gold_images"]) == (IMAGES, IMAGES // 2) and "ask: 8/8 images" in err
    result = json.loads(Path(found["json"]).read_text())
    for level in ("pixels", "segments", "images"):
        assert list(result["ways"][level]) == list(judge.WAYS)
        assert {one["source"] for one in result["sources"][level]} >= {"text", "component", "region"}
    table = Path(found["md"]).read_text()
    for title in ("majority vote", "label model, without gold", "label model, with gold", "few-shot regression"):
        assert table.count(f"| {title}") >= 3, title
    decided = result["decided"]
    gain = decided["label_model_with_gold"]["miou"]
    low, high = gain["interval_95"]
    assert low <= gain["gain"] <= high
    assert gain["gain"] == pytest.approx(gain["mean"] - decided["run"]["miou"]["mean"], abs=2e-5)
    assert "than the run's own: mIoU" in Path(found["yaml"]).read_text()
    before = Path(found["json"]).read_bytes()
    code, again, err = run("--gold.uri", labeled / "gold")
    assert code == 0 and again["weights"] == found["weights"] and Path(again["json"]).read_bytes() == before

    (own,) = (labeled / "out" / "runs").iterdir()
    mine = parse(LabelConfig, ["--config", str(own / "config.yaml")], env={})
    both = parse(LabelConfig, ["--config", str(own / "config.yaml"), "--config", found["yaml"]], env={})
    assert found["weights"].keys() == {"mask_weight", "region_share"}
    wanted = dataclasses.replace(mine.decide, **found["weights"])
    assert both == mine.model_copy(update={"decide": wanted}) and wanted != mine.decide
    check_the_labels(labeled, both, monkeypatch)


def check_the_labels(labeled: Path, config: LabelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job decides all images anew, with these weights and from the evidence that is there."""
    local_ray.use(monkeypatch)
    done = label_corpus(config)
    assert done.exit_code == 0
    past = PastRun.load(str(labeled / "out"), max(path.name for path in (labeled / "out" / "runs").iterdir()))
    columns = ("asset", "weak", "evidence_key", "class_map", "run_id")
    rows = [r for b in LabelTable(str(labeled / "out" / "labels")).newest(columns) for r in b.to_pylist()]
    assert len({row["run_id"] for row in rows}) == 1
    of = {row["evidence_key"]: row for row in rows}
    for stored in past.evidence(of):
        evidence = evidence_record.decode(stored)
        size, row = (evidence.height, evidence.width), of[stored["evidence_key"]]
        valid, _ = weak_labels.validate(json.loads(row["weak"]), past.classes, size)
        arrays = weak_labels.to_arrays(valid, past.classes, *size)
        label = decide(evidence, past.text, past.classes.arrays(), arrays, config.decide)
        np.testing.assert_array_equal(read_png(row["class_map"]), label.class_map)


def test_gold_can_be_too_much(labeled: Path, run: Any) -> None:
    code, found, err = run("--gold.uri", labeled / "gold", "--sample.gold", 2, "--sample.images", 1)
    assert code == 0, err
    assert (found["images"], found["gold_images"]) == (3, 2)


def test_gold_is_decided_with_all_that_the_labels_were_decided_with(
    labeled: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_ray.use(monkeypatch)
    (own,) = (path for path in sorted((labeled / "out" / "runs").iterdir())[:1])
    config = parse(LabelConfig, ["--config", str(own / "config.yaml")], env={})
    decided = dataclasses.replace(config.decide, reference_weight=0.3, bias_removal=0.3)
    output = tmp_path / "more"
    assert label_corpus(config.model_copy(update={"decide": decided, "output": str(output)})).exit_code == 0
    past = PastRun.load(str(output), max(path.name for path in (output / "runs").iterdir()))
    assert by_kind(past.head_digest).keys() == {"head", "references", "bias"}
    code, found, err = run("--labels", output, "--gold.uri", labeled / "gold")
    assert code == 0 and found["decided"] is not None, err


def test_without_gold_agreement_with_the_published_labels_is_all_that_is_told(run: Any) -> None:
    code, found, err = run("--sample.images", 5, "--weak", "none")
    assert code == 0, err
    assert (found["images"], found["gold_images"], found["decided"]) == (5, 0, None)
    result = json.loads(Path(found["json"]).read_text())
    assert list(result["ways"]["pixels"]) == ["majority", "label_model"]
    for one in result["sources"]["pixels"]:
        assert one["accuracy_with_gold"] is one["right_on_gold"] is None and 0 <= one["agrees_with_published"] <= 1
    assert "tags" not in {one["source"] for one in result["sources"]["images"]}
    settings = Path(found["yaml"]).read_text()
    assert yaml.safe_load(settings) == {"decide": found["weights"]} and "NOT JUDGED: there was no gold" in settings


def test_what_cannot_be_weighed_is_told(labeled: Path, run: Any, tmp_path: Path) -> None:
    code, _, err = run("--sample.images", 0)
    assert code == 2 and "--sample.images 0" in err
    code, _, err = run("--gold.list", tmp_path / "names.txt")
    assert code == 2 and "--gold.uri is missing" in err
    one = sorted((labeled / "gold").iterdir())[0]
    (tmp_path / "names.txt").write_text(one.stem + "\n")
    code, _, err = run("--gold.uri", labeled / "gold", "--gold.list", tmp_path / "names.txt")
    assert code == 2 and "at least two" in err
    code, _, err = run("--model.confusion", "classes")
    assert code == 2 and "model.confusion" in err
    code, _, err = run("--sample.pixel", 3)
    assert code == 2 and "did you mean sample.pixels" in err
