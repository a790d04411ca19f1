"""What a corpus teaches beside a head: references and biases in the labeling job, the index, and searching it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import local_ray
import numpy as np
import pytest
from decide_scene import CLASSES, make_world, weak
from small_models import write_clip, write_sam
from test_learning import TAGGED, Place
from test_second_evidence import run_at, wanted

from models.corpus import bias
from models.corpus.cosegment import References, reference_heat
from models.corpus.index import Index
from models.corpus.targets import background_of
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.observe_config import key_fields
from pipelines import search_corpus as script
from pipelines import storage
from pipelines.config import LabelConfig, UsageError, config_digest, parse
from pipelines.evaluation.runs import PastRun
from pipelines.flow import indexing, learn_bias, learn_references, learning, second
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known
from pipelines.flow.run import Run, digest
from pipelines.forgetting.config import ForgetConfig
from pipelines.forgetting.job import forget
from pipelines.learned import BIAS, HEAD, REFERENCES, Card, by_kind, cards, joined, load, save, with_a_say

BOTH = {"decide": {"reference_weight": 0.5, "bias_removal": 1.0}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tagged corpus that is labeled twice: with a head, then with references and bias beside it."""
    folder = tmp_path_factory.mktemp("kinds")
    write_clip(folder / "clip")
    write_sam(folder / "sam")
    place = Place(folder)
    place.grow(TAGGED)
    with pytest.MonkeyPatch.context() as patch:
        local_ray.use(patch)
        yield place


@pytest.fixture(scope="module")
def labeled(place: Place) -> dict[str, Any]:
    place.label()
    return place.label(more=BOTH)


def head_digests(place: Place) -> set[str]:
    batches = place.labels().newest(["asset", "head_digest"])
    return {row["head_digest"] for batch in batches for row in batch.to_pylist()}


def search(place: Place, *flags: object) -> dict[str, Any]:
    given = ["--labels", place.folder / "out", *flags]
    config = parse(script.SearchConfig, [str(flag) for flag in given], {})
    return script.search(config)


def test_labels_say_what_they_were_decided_with_and_are_reused(place: Place, labeled: dict[str, Any]) -> None:
    output = str(place.folder / "out")
    assert labeled["labeled"] == TAGGED
    (word,) = head_digests(place)
    assert by_kind(word) == {kind: cards(output, kind)[0].digest for kind in (HEAD, REFERENCES, BIAS)}
    assert cards(output, REFERENCES)[0].told == TAGGED
    again = place.label(more=BOTH)
    assert (again["labeled"], again["reused"]) == (0, TAGGED)
    past = PastRun.load(output, labeled["run_id"])
    assert past.text.head is not None and past.text.references is not None and past.text.bias is not None
    assert past.text.references.known.all() and past.text.bias.images.tolist() == 3 * [TAGGED]
    # Another share asks for nothing to be learned.
    other = place.label(more={"decide": {"reference_weight": 0.3}})
    assert other["labeled"] == TAGGED and [len(cards(output, kind)) for kind in (HEAD, REFERENCES, BIAS)] == [1, 1, 1]
    (word,) = head_digests(place)
    assert set(by_kind(word)) == {HEAD, REFERENCES}
    # Who asks for nothing new gets the labels that there would have been before any of this.
    plain = place.label()
    assert plain["labeled"] == TAGGED and head_digests(place) == {cards(output)[0].digest}
    place.label(more=BOTH)


def test_another_output_uses_all_kinds_that_it_asks_for(place: Place, labeled: dict[str, Any]) -> None:
    summary = place.label("other", use=str(place.folder / "out"), min_tagged=10**6, more=BOTH)
    text = PastRun.load(str(place.folder / "other"), summary["run_id"]).text
    assert text.references is not None and text.bias is not None
    place.label("plain", min_tagged=10**6)
    with pytest.raises(UsageError, match=r"--learn.use: nothing was learned in"):
        place.label("third", use=str(place.folder / "plain"), more=BOTH)
    with pytest.raises(UsageError, match=r"--learn.use: .* has no references, which decide.reference_weight asks for"):
        more = {"decide": {"head_weight": 0.0, "reference_weight": 0.5}}
        place.label("third", use=str(place.folder / "plain"), more=more)


def test_settings_that_do_not_fit_are_refused_before_anything_is_written(place: Place) -> None:
    with pytest.raises(UsageError, match=r"--decide.reference_weight needs .* --learn.enabled false"):
        place.label("none", enabled=False, more=BOTH)
    everything: Any = {"background": False, "classes": ["cat", "dog", "person"]}
    with pytest.raises(UsageError, match=r"--decide.bias_removal needs a class set with a background"):
        place.label("none", classes=everything, more=BOTH)
    assert not (place.folder / "none").exists()


def test_too_few_images_of_a_class_are_told_and_decided_without(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = place.label("few", min_images=TAGGED, more={"limit": 4, **BOTH})
    assert summary["labeled"] == 4 and "references: too few images" in capsys.readouterr().err
    assert PastRun.load(str(place.folder / "few"), summary["run_id"]).head_digest == ""


def test_a_search_finds_what_is_there_and_what_is_new_and_nothing_that_was_forgotten(
    place: Place, labeled: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.execution.start_ray", lambda *settings: None)
    first = search(place, "--text", "a photo of the cat", "--images", "4")
    said = capsys.readouterr().err
    assert "index:" not in said  # The references' run has made it.
    assert first["indexed"] == TAGGED and len(first["found"]) == 4
    cosines = [one["cosine"] for one in first["found"]]
    assert cosines == sorted(cosines, reverse=True) and f"{cosines[0]:.4f}  {first['found'][0]['asset']}" in said
    like = first["found"][0]["asset"]
    assert Path(first["found"][0]["uri"]) == place.corpus / like
    near = search(place, "--like", like, "--images", "100")["found"]
    assert len(near) == TAGGED - 1 and like not in {one["asset"] for one in near}
    with pytest.raises(UsageError, match="--text or --like"):
        search(place)
    with pytest.raises(UsageError, match=f"did you mean {like[:5]}"):
        search(place, "--like", f"x{like}")
    elsewhere = search(place, "--text", "dog", "--index", place.folder / "elsewhere")
    assert elsewhere["indexed"] == TAGGED and "index: 10/10 images" in capsys.readouterr().err

    place.grow(TAGGED + 1)
    place.label(more=BOTH)
    grown = search(place, "--text", "dog", "--images", "100")
    assert grown["indexed"] == len(grown["found"]) == TAGGED + 1
    assert "index: 1/1 images" in capsys.readouterr().err
    forget(ForgetConfig(output=str(place.folder / "out"), asset=(like,), tracking_uri="sqlite://"))
    assert not list((place.folder / "out" / "learned").glob("index/*/*.npy"))
    left = search(place, "--text", "dog", "--images", "100")
    assert left["indexed"] == TAGGED and like not in {one["asset"] for one in left["found"]}


def test_an_index_that_lost_a_part_is_made_anew(place: Place, labeled: dict[str, Any]) -> None:
    past = PastRun.load(str(place.folder / "out"), labeled["run_id"])
    root = str(place.folder / "again")
    for _ in range(2):
        with indexing.opened(root, past.store, past.shards, (), 5.0) as index:
            assert index.keys() == past.shards.keys()
        next(Path(root).rglob("*.rows.npy")).unlink()


def test_an_index_can_lie_at_a_url(place: Place, labeled: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    past, root = PastRun.load(str(place.folder / "out"), labeled["run_id"]), "memory://bucket/out"
    few = dict(list(past.shards.items())[:4])
    for places, added in ((few, 4), (past.shards, len(past.shards) - 4), (past.shards, 0)):
        capsys.readouterr()
        with indexing.opened(root, past.store, places, past.shards, 5.0) as index:
            assert index.keys() == places.keys()
        assert (f"index: {added}/{added} images" in capsys.readouterr().err) == bool(added)
    assert indexing.remove(root) == 5 and indexing.remove(root) == 0


def test_an_index_at_a_url_that_is_made_anew_leaves_nothing_of_the_old_one(
    place: Place, labeled: dict[str, Any]
) -> None:
    past, root = PastRun.load(str(place.folder / "out"), labeled["run_id"]), "memory://bucket/anew"
    shards = list(past.shards.items())
    for some in (shards[:4], shards[4:6]):
        with indexing.opened(root, past.store, dict(some), (), 5.0) as index:
            assert index.keys() == dict(some).keys()
    assert len(storage.tree(root)) == 3, "the list, and two files of one part"


# What is stored.


def test_what_is_off_is_no_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = key_fields(DecideConfig())
    assert not {"reference_weight", "bias_removal"} & values.keys() and values["head_weight"] == 1.0
    # As before there was any of this: labels stay valid.
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert config_digest(DecideConfig()) == hashlib.sha256(text.encode()).hexdigest()
    ids = []
    for match in (
        DecideConfig(),
        DecideConfig(noisy_weight=0.3, keep_threshold=0.2),
        DecideConfig(heat_scale="minmax"),
    ):
        monkeypatch.setattr(second, "TEXT_MATCH", match)
        [heat] = second.kinds(run_at(tmp_path))
        ids.append(heat.run.observe_id)
    assert ids[0] == ids[1] != ids[2], "what SAM said of class heat is asked again for another heat alone"
    asked = config_digest(DecideConfig(reference_weight=0.5))
    assert len({config_digest(DecideConfig()), asked, config_digest(DecideConfig(bias_removal=0.5))}) == 3
    assert joined({HEAD: "a"}) == "a" and by_kind("a") == {HEAD: "a"} and by_kind("") == {}
    word = joined({BIAS: "c", HEAD: "a", REFERENCES: "b"})
    assert by_kind(word) == {HEAD: "a", REFERENCES: "b", BIAS: "c"}
    assert with_a_say(word, DecideConfig()) == "a"
    assert with_a_say(word, DecideConfig(head_weight=0.0, bias_removal=0.5)) == joined({BIAS: "c"})


def test_heads_of_before_are_found_and_every_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    card = {"digest": "d", "identity": "i", "images": 1, "classes": ["cat"], "tagged": [1], "features": "f"}
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "d.json").write_text(json.dumps({**card, "background": True, "run_id": "r"}))
    (old,) = cards(str(tmp_path))
    assert old.kind == HEAD and not cards(str(tmp_path), BIAS)
    stats, made = some_stats(), References(np.eye(4, dtype=np.float32), np.arange(4) > 1, np.ones(4, np.float32), 0.25)
    for kind, one in ((BIAS, stats), (REFERENCES, made)):
        stored = save(str(tmp_path), one, dataclasses.replace(old, kind=kind))
        again = load(str(tmp_path), kind, stored.digest)
        assert repr(again) == repr(one) and cards(str(tmp_path), kind) == [stored]


def some_stats() -> bias.BiasStats:
    world, config = make_world(), bias.BiasConfig()
    told = [weak(tags=[0]), weak(tags=[1, 2])]
    both = [background_of(world.evidence, world.text, CLASSES, one, DecideConfig(), config) for one in told]
    assert background_of(world.evidence, world.text, CLASSES, weak(), DecideConfig(), config) is None
    return bias.reduce([stats for stats in both if stats is not None], config)


# What tags say of references, and when these are made anew.


def corpus(count: int, weak: str = "") -> tuple[list[Wanted], Known]:
    rows = [wanted(f"{number}", weak) for number in range(count)]
    return rows, Known(evidence={row.asset: ("shard", f"key{row.asset}", "digest") for row in rows})


def stored_references(run: Run, rows: list[Wanted]) -> Card:
    """As a run of these images leaves them."""
    told = learn_references.told(rows, run.config.learn.min_images)
    made = References(np.eye(4, dtype=np.float32), np.arange(4) > told % 3, np.ones(4, np.float32), 0.25)
    identity = learning.identity(run, REFERENCES, {})
    return save(run.output, made, Card("", identity, len(rows), [], [], "", True, f"{told:06}", REFERENCES, told))


def test_classes_that_complete_tags_do_not_list_are_absent(tmp_path: Path) -> None:
    run = run_at(tmp_path, "cat, dog, boat")
    cats, _ = corpus(20, '{"tags":[{"class":"cat","present":true}],"tags_complete":true}')
    dogs = [wanted(f"d{number}", '{"tags":[{"class":"dog","present":true}]}') for number in range(12)]
    rows = [*cats, *dogs]
    known = Known(evidence={row.asset: ("shard", f"key{row.asset}", "digest") for row in rows})
    tags = learn_references.Tags(run, cats, known)
    keys = [f"key{row.asset}" for row in cats]
    assert tags.among(0) is not None and tags.among(1) is tags.among(2) is None, "no image can hold a boat"
    assert tags.absent(keys, 0).tolist() == [False, True, True] and not tags.absent(keys, 1)[0]
    both = learn_references.Tags(run, rows, known)
    # Of the dogs nobody says whether there is a boat.
    boats, found = both.among(2), both.among(1)
    assert boats is not None and found is not None and boats.sum() == found.sum() == 12
    assert both.absent([*keys, "keyd0"], 1).tolist() == [False, False, False]
    assert both.absent(keys[:2], 0).tolist() == [False, True, True]


def test_references_are_made_anew_once_tags_are_there_and_again_when_these_have_grown(tmp_path: Path) -> None:
    run, tag = run_at(tmp_path), '{"tags":[{"class":"cat","present":true}]}'
    plain, known = corpus(100)
    by_text = stored_references(run, plain)
    assert learning.find(run, REFERENCES, plain, known, {}) == (by_text, [])

    def tagged(count: int) -> list[Wanted]:
        return [*corpus(count, tag)[0], *plain[count:]]

    assert learning.find(run, REFERENCES, tagged(5), known, {}) == (by_text, []), "too few for a reference"
    assert learning.find(run, REFERENCES, tagged(40), known, {}) == (None, tagged(40))
    by_tags = stored_references(run, tagged(40))
    assert learning.find(run, REFERENCES, tagged(59), known, {}) == (by_tags, [])
    assert learning.find(run, REFERENCES, tagged(3)[:3], known, {}) == (by_tags, []), "a part of the corpus"
    assert learning.find(run, REFERENCES, tagged(60), known, {}) == (None, tagged(60))
    # Images without tags have nothing to add to what tags have taught.
    more, known = corpus(300)
    assert learning.find(run, REFERENCES, [*tagged(40), *more[100:]], known, {}) == (by_tags, [])


def test_labels_without_tags_are_decided_without_references_from_tags(tmp_path: Path) -> None:
    rows, known = corpus(100, '{"tags":[{"class":"cat","present":true}]}')
    stored_references(run_at(tmp_path), rows)
    plain, _ = corpus(100)
    none, points = run_at(tmp_path, weak=()), run_at(tmp_path, weak=("points",))
    for run in (none, points):
        assert learning.find(run, REFERENCES, plain, known, {}) == (None, plain)
    by_text = stored_references(none, plain)
    assert learning.find(points, REFERENCES, plain, known, {}) == (by_text, [])


def test_a_bias_that_references_had_a_say_in_is_another_one(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    parts = ({HEAD: "h"}, {HEAD: "h", REFERENCES: "r"}, {HEAD: "h", REFERENCES: "other"})
    assert len({learning.identity(run, BIAS, one) for one in parts}) == 3
    # As it was before references counted: what is stored stays valid.
    made_from = [BIAS, run.knowledge.digest, run.classes.digest, run.observe_id]
    settings = [learn_bias.VERSION, dataclasses.asdict(learn_bias.CONFIG), run.config.learn.images, 0, "h"]
    assert learning.identity(run, BIAS, parts[0]) == digest([*made_from, *settings])


# What is made of it.


def test_an_index_answers_among_those_that_it_is_asked_about() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 8)).astype(np.float32)
    index = Index(8)
    index.add([f"{number}" for number in range(40)], rows)
    every = index.query(rows[:1], 40)[0][0].tolist()
    few = {"3", "17", "30", "elsewhere"}
    for chunk in (1, 7, 100):
        found, cosines = index.query(rows[:1], 10, chunk, few)
        assert found[0].tolist() == [name for name in every if name in few] and cosines.shape == (1, 3)
    assert index.query(rows[:1], 5, among=())[0].shape == (1, 0)


def test_heat_stays_where_it_looks_like_the_reference() -> None:
    cat, grass, name = np.eye(3, dtype=np.float32)
    features = np.stack([np.tile(cat + name, (4, 1)), np.tile(grass + name, (4, 1))]).astype(np.float32)
    heat = np.full((2, 2, 4), 0.8, np.float32)
    references = References(np.stack([cat, grass]), np.array([True, False]), np.zeros(3, np.float32), 0.4)
    classes = np.stack([name, name])
    found = reference_heat(references, features, np.array([0, 1]), classes, heat)
    assert found[0, 0].min() == 1 and found[0, 1].max() < 0.2
    assert (found[1] == heat[1]).all() and (heat == np.float32(0.8)).all()


def test_a_label_loses_what_is_background_elsewhere_if_that_is_asked_for() -> None:
    """Rails lie below every cat, the word means both, and rails are in the background of images without cats too."""
    world, config = make_world(noise=0.02), bias.BiasConfig()
    cat, ground, rails = np.eye(8, dtype=np.float32)[[0, 4, 5]]
    rng = np.random.default_rng(0)
    stats = []
    for number in range(12):
        image = np.tile(ground, (12, 12, 1)) + 0.02 * rng.normal(size=(12, 12, 8)).astype(np.float32)
        image[8:] += rails - ground
        labels = np.full((12, 12), bias.BACKGROUND)
        if number % 2:
            image[2:8, 2:8] += cat - ground
            labels[2:, 2:8] = 0
        stats.append(bias.map_background(image, labels, np.arange(4) == (0 if number % 2 else 1), f"{number}", config))
    features = world.evidence.features.copy()
    rows = int(0.8 * len(features))
    features[rows:] = rails
    evidence = dataclasses.replace(world.evidence, features=features)
    truth = world.truth == 1
    truth_of_rails = np.zeros_like(truth)
    truth_of_rails[int(0.85 * len(truth)) :] = True
    emb = world.text.emb.copy()
    emb[0] = (cat + rails) / np.sqrt(2)
    text = dataclasses.replace(world.text, emb=emb, bias=bias.reduce(stats, config))
    plain = DecideConfig(mask_weight=0.0)
    asked = dataclasses.replace(plain, bias_removal=1.0)
    before, after = (decide(evidence, text, CLASSES, weak(tags=[0]), one).class_map == 1 for one in (plain, asked))
    assert before[truth_of_rails].mean() > 0.9 and after[truth_of_rails].mean() < 0.1
    assert after[truth].mean() > 0.9 * before[truth].mean() > 0.5
    without = decide(evidence, dataclasses.replace(text, bias=None), CLASSES, weak(tags=[0]), plain)
    assert np.array_equal(without.class_map == 1, before)


def test_the_job_offers_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--corpus", "x", "--output", "y", "--decide.reference_weight"]
    config = parse(LabelConfig, [*told, "0.2"], {})
    assert (config.decide.reference_weight, config.decide.bias_removal) == (0.2, 0.0)
    with pytest.raises(SystemExit):
        parse(LabelConfig, [*told, "2"], {})
    assert "decide.reference_weight" in capsys.readouterr().err
