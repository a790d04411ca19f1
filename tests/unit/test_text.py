"""Text knowledge: attributes, background concepts, the lexicon, and how a run keeps what it knew."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from decide_scene import make_world
from hypothesis import given
from hypothesis import strategies as st
from small_models import write_clip

from models.decide.config import DecideConfig
from models.decide.decide import DECIDE_VERSION
from models.decide.text_match import class_embeddings, heat, patch_scores
from models.decide.types import TextBank
from models.text.attributes import attention, attribute_bank, enrich
from models.text.concepts import CONCEPTS, background_concepts
from models.text.lexicon import Lexicon
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, TextConfig, config_digest
from pipelines.evaluation.runs import PastRun
from pipelines.flow import job
from pipelines.flow.run import Run
from pipelines.flow.run import digest as run_digest
from pipelines.text import NOTHING, Knowledge, knowledge, text_bank

POCKET = Path(__file__).resolve().parents[2] / "models/pocket/clip"
ANYTHING = background_concepts(())
WORLD = make_world()


def vectors(count: int, seed: int = 0, around: float = 2.0) -> np.ndarray:
    """Unit vectors with cosines of about 0.6 to 0.9, as texts have them."""
    found = np.random.default_rng(seed).normal(size=(count, 32)) / np.sqrt(32) + around / np.sqrt(32)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_at_the_default_temperature_classes_are_not_moved_by_one_constant_vector() -> None:
    classes, bank = vectors(6), vectors(101, 1)
    cosines = classes @ bank.T
    assert 0.6 < cosines.mean() < 0.9
    sharp, flat = (attention(classes, bank, temperature, keep=1.0) @ bank for temperature in (0.01, 1.0))
    # A softmax of bare cosines all but gives the mean of the bank to every class; ours does not.
    assert np.abs(flat - flat.mean(0)).max() < 0.02
    assert np.linalg.norm(sharp - sharp.mean(0), axis=1).min() > 0.15
    np.testing.assert_allclose(np.linalg.norm(enrich(classes, bank), axis=1), 1, atol=1e-6)
    assert enrich(classes, bank).dtype == np.float32


def test_at_an_endless_temperature_every_class_gets_the_same_vector() -> None:
    classes, bank = vectors(6), vectors(101, 1)
    weights = attention(classes, bank, 1e9, keep=1.0)
    np.testing.assert_allclose(weights, 1 / 101, atol=1e-6)
    summed = classes + bank.mean(0)
    expected = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    np.testing.assert_allclose(enrich(classes, bank, 1e9, keep=1.0), expected, atol=1e-5)


def test_only_the_closest_attributes_take_part() -> None:
    classes, bank = vectors(4), vectors(50, 1)
    weights = attention(classes, bank, 0.05, keep=0.2)
    assert ((weights > 0).sum(1) == 10).all()
    cosines = classes @ bank.T
    for row, own in zip(weights > 0, cosines, strict=True):
        assert own[row].min() > own[~row].max()
    assert ((attention(classes, bank, 0.05, keep=0.0) > 0).sum(1) == 1).all()
    with pytest.raises(ValueError, match="temperature"):
        attention(classes, bank, 0.0, 1.0)


def test_sentences_of_one_meaning_share_a_cluster() -> None:
    centres = np.eye(3, 8, dtype=np.float32)
    rng = np.random.default_rng(0)
    sentences = (np.repeat(centres, 20, 0) + 0.03 * rng.normal(size=(60, 8))).astype(np.float32)
    bank = attribute_bank(sentences, 3)
    assert sorted((bank @ centres.T).argmax(1).tolist()) == [0, 1, 2] and (bank @ centres.T).max(1).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(bank, attribute_bank(sentences, 3))
    # Fewer different sentences than clusters, and more clusters than sentences.
    assert attribute_bank(np.repeat(centres[:1], 5, 0), 4).shape == (4, 8)
    assert attribute_bank(centres, 100).shape == (3, 8)


def test_there_are_many_concepts_and_none_twice() -> None:
    assert len(ANYTHING) >= 150 and len(set(ANYTHING)) == len(ANYTHING)


@pytest.mark.parametrize("name", ["voc", "camvid", "sample", "sailboat, Trees, street", "vehicle", "buildings"])
def test_no_concept_names_a_class(name: str) -> None:
    classes = ClassSet.load(name)
    names = [n for e in classes.classes for n in (e.name, *e.synonyms, *e.prompts)]
    found = background_concepts(names)
    lexicon = Lexicon({e.id: (e.name, *e.synonyms, *e.prompts) for e in classes.classes})
    assert [concept for concept in found if lexicon.find(concept)] == []
    assert len(found) > 100


@given(st.lists(st.sampled_from([n for _, line in CONCEPTS for n in line.replace(",", "/").split("/")]), max_size=8))
def test_a_concept_that_is_a_class_or_its_synonym_goes(chosen: list[str]) -> None:
    found = set(background_concepts(name.strip().upper() + "s" for name in chosen))
    groups = [{name.strip() for name in concept.split("/")} for _, line in CONCEPTS for concept in line.split(",")]
    for group in groups:
        if group & {name.strip() for name in chosen}:
            assert not group & found


def test_what_a_class_takes_in_goes_with_it() -> None:
    vehicle = set(ANYTHING) - set(background_concepts(["vehicle"]))
    assert {"truck", "tractor", "helicopter"} <= vehicle and "sky" not in vehicle
    parts = {"sky": {"cloud", "sun", "fog"}, "road": {"crosswalk", "runway"}, "boat": {"canoe"}, "chair": {"stool"}}
    assert all(not gone & set(background_concepts([name])) and gone <= set(ANYTHING) for name, gone in parts.items())
    assert {"roof", "tower", "wall"} <= set(ANYTHING) - set(background_concepts(["building"]))
    assert "tree" in background_concepts(["potted plant"]) and "road" in background_concepts(["aeroplane"])


@given(st.integers(0, 10_000))
def test_a_background_concept_can_only_take_pixels_from_classes(seed: int) -> None:
    word = np.random.default_rng(seed).normal(size=(1, WORLD.text.emb.shape[1])).astype(np.float32)
    word /= np.linalg.norm(word)
    more = TextBank(np.concatenate([WORLD.text.emb, word]), np.append(WORLD.text.class_of, np.int32(-1)))
    config = DecideConfig(background_words_weight=1.0, heat_scale="max")
    count = 4
    before, after = (patch_scores(WORLD.evidence, text, count, config) for text in (WORLD.text, more))
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] >= before[1]).all()
    assert ((heat(*after, config) > 0) <= (heat(*before, config) > 0)).all()


LEXICON = Lexicon(
    {
        8: ["cat", "kitten"], 11: ["diningtable", "dining table", "table"], 12: ["dog", "puppy"], 6: ["bus"],
        15: ["person", "people", "man"], 20: ["tv monitor", "tv"], 1: ["glasses"], 2: ["shorts"], 3: ["boots"],
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "ids"),
    [
        ("Two cats under the dining-table.", [8, 11]),
        ("a catalog and a busy concatenation", []),
        ("kittens; puppies, BUSES", [8, 12, 6]),
        ("TV_monitors on a table", [20, 11]),
        ("a hot dog near the bus stop", []),
        ("a hot dog for the dog", [12]),
        ("a short man with a glass", [15]),
        ("men in shorts, glasses and one boot", [15, 2, 1, 3]),
        ("no dogs, and without a cat", []),
        ("not a dog but a cat", [8]),
        ("", []),
    ],
)
def test_captions_name_classes_in_whole_words(caption: str, ids: list[int]) -> None:
    assert LEXICON.find(caption) == ids


@given(st.text(max_size=80))
def test_any_text_can_be_searched(text: str) -> None:
    assert set(LEXICON.find(text)) <= set(LEXICON.names)


def test_a_name_of_two_classes_means_neither_and_exact_names_count_first() -> None:
    lexicon = Lexicon({1: ["glass", "ware"], 2: ["glasses", "ware"], 3: ["hot dog"], 4: ["dog"]})
    assert lexicon.find("glass, glasses, ware") == [1, 2]
    assert lexicon.find("hot dogs and dogs") == [3, 4]


def test_free_tags_are_aligned_as_a_whole_and_by_likeness_only_where_asked() -> None:
    from models.clip.text import TextEncoder

    ids, scores = LEXICON.align(["Kittens", "cat food", "beach", "", "feline cat"])
    assert (ids.tolist(), scores.tolist()) == ([8, -1, -1, -1, -1], [1.0, 0.0, 0.0, 0.0, 0.0])
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    ids, scores = LEXICON.align(["television", "ocean", "cat food"], TextEncoder(POCKET, "cpu"), threshold=0.7)
    assert ids.tolist() == [20, -1, -1] and 0.7 <= scores[0] <= 1 and scores[1:].tolist() == [0, 0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("models") / "clip"))


def test_without_more_knowledge_the_bank_is_what_it_was(clip: str) -> None:
    classes = ClassSet.load("cat, dog")
    assert knowledge(TextConfig(), classes, "unused") == NOTHING and NOTHING.digest == ""
    prompts, _ = classes.prompts()
    from models.clip.text import TextEncoder

    emb = TextEncoder(clip, "cpu").encode(prompts).reshape(-1, len(classes.templates), 24).mean(1)
    bank = text_bank(clip, classes)
    np.testing.assert_array_equal(bank.emb, emb / np.linalg.norm(emb, axis=1, keepdims=True))
    np.testing.assert_array_equal(bank.class_of, classes.texts()[1])


def test_knowledge_changes_the_bank_and_a_stored_one_gives_the_same(clip: str) -> None:
    classes = ClassSet.load("voc")
    told = TextConfig(descriptions="builtin", concepts=True)
    known = knowledge(told, classes, "unused")
    assert set(known.descriptions) == set(classes.names) and known.attribute_clusters == 40
    bank, plain = text_bank(clip, classes, known), text_bank(clip, classes)
    again = Knowledge(**yaml.safe_load(yaml.safe_dump(known.to_dict(), sort_keys=False)))
    np.testing.assert_array_equal(text_bank(clip, classes, again).emb, bank.emb)
    assert again.digest == known.digest
    assert (bank.class_of >= 0).sum() == 20 and (bank.class_of < 0).sum() > (plain.class_of < 0).sum() + 100
    enriched, mean = class_embeddings(bank, 20)[0], class_embeddings(plain, 20)[0]
    np.testing.assert_allclose(np.linalg.norm(enriched, axis=1), 1, atol=1e-5)
    assert np.abs(enriched - mean).max(1).min() > 1e-3


def test_a_set_without_background_has_no_background_concepts() -> None:
    known = knowledge(TextConfig(concepts=True, descriptions="builtin"), ClassSet.load("camvid"), "unused")
    assert known.concepts == () and "lane" in " ".join(known.descriptions["road"])
    with_one = knowledge(TextConfig(concepts=True), ClassSet.load("cat"), "unused")
    assert len(with_one.concepts) > 100 and not set(with_one.concepts) & set(ClassSet.load("cat").background.words)


def test_what_a_run_knows_is_in_its_digest_and_comes_back_with_the_run(tmp_path: Path) -> None:
    def run_of(**text: object) -> Run:
        told = {"corpus": str(tmp_path), "output": str(tmp_path / "out"), "classes": "cat, dog", "text": text}
        return job.set_up(LabelConfig.model_validate(told))[0]

    plain = run_of()
    clip = plain.model_digests["clip"]
    assert plain.decide_digest == run_digest([config_digest(plain.config.decide), DECIDE_VERSION, clip])
    # Without descriptions, how they would be used is nothing to decide again for.
    assert run_of(attribute_temperature=0.5).decide_digest == plain.decide_digest
    looks = tmp_path / "looks.yaml"
    looks.write_text("cat: [whiskers, fur]")
    described = run_of(descriptions=str(looks))
    others = [run_of(concepts=True), run_of(descriptions=str(looks), attribute_temperature=0.5), described]
    looks.write_text("cat: [long whiskers, fur]")
    others.append(run_of(descriptions=str(looks)))
    assert len({run.decide_digest for run in (plain, *others)}) == 5
    job._record_inputs(described)
    job._record_inputs(plain)
    past = PastRun.load(described.output, described.run_id)
    np.testing.assert_array_equal(past.text.emb, text_bank(str(POCKET), described.classes, described.knowledge).emb)
    assert PastRun.load(plain.output, plain.run_id).knowledge == NOTHING
