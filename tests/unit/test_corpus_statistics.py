"""What a corpus teaches: its index, references, frequencies, biases and head, on features that are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.corpus import bias, cosegment, frequency
from models.corpus.clusters import clusters, unit
from models.corpus.head import HeadConfig, fit_head, fit_head_stream, head_heat, soft_targets
from models.corpus.index import Index

DEPTH = 24
CAR, ROAD, SKY, TREE, CAT, SOFA = np.eye(DEPTH, dtype=np.float32)[:6]


def noisy(rng: np.random.Generator, layout: list[np.ndarray], size: int = 8, noise: float = 0.08) -> np.ndarray:
    """An image [size, size, DEPTH] of horizontal bands that look like `layout`, from the top."""
    bands = np.array_split(np.arange(size), len(layout))
    image = np.concatenate([np.tile(look, (len(band), size, 1)) for look, band in zip(layout, bands, strict=True)])
    return (3 * image + 3 * noise * rng.normal(size=image.shape)).astype(np.float32)


# The index.


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DEPTH)).astype(np.float32)


def test_the_index_finds_the_true_neighbours_whatever_the_chunks() -> None:
    stored, asked = embeddings(500), embeddings(7, seed=1)
    stored[400] = stored[3]  # A tie.
    index = Index(DEPTH)
    index.add([f"image {number}" for number in range(300)], stored[:300])
    index.add([f"image {number}" for number in range(300, 500)], stored[300:])
    cosines = unit(asked) @ unit(stored).T
    ids, sims = index.query(asked, 10)
    assert np.allclose(sims, -np.sort(-cosines, 1)[:, :10], atol=2e-3)
    for row, found in enumerate(ids):
        assert np.allclose(cosines[row, [int(name.split()[1]) for name in found]], sims[row], atol=2e-3)
    for chunk in (1, 7, 64, 1000):
        again, same = index.query(asked, 10, chunk=chunk)
        assert (again == ids).all() and (same == sims).all()
    assert index.query(stored[3:4], 2)[0].tolist() == [["image 3", "image 400"]]
    assert index.query(asked, 1000)[0].shape == (7, 500)
    assert Index(DEPTH).query(asked, 5)[0].shape == (7, 0)


def test_a_saved_index_answers_the_same_and_grows(tmp_path: Path) -> None:
    index = Index(DEPTH)
    index.add(["a", "ü/b"], embeddings(2))
    before = index.query(embeddings(3, seed=1), 2)
    index.save(tmp_path)
    loaded = Index.load(tmp_path)
    assert "ü/b" in loaded and len(loaded) == 2
    after = loaded.query(embeddings(3, seed=1), 2)
    assert (before[0] == after[0]).all() and (before[1] == after[1]).all()
    loaded.add(["c"], embeddings(1, seed=2))
    assert len(Index.load(tmp_path)) == 2
    loaded.save(tmp_path)
    assert Index.load(tmp_path).query(embeddings(1, seed=2), 1)[0].tolist() == [["c"]]
    fresh = Index(DEPTH)
    fresh.add(["z"], embeddings(1))
    fresh.save(tmp_path)
    assert len(Index.load(tmp_path)) == 1 and len(list(tmp_path.iterdir())) == 3


def test_a_save_that_dies_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(DEPTH)
    index.add(["a"], embeddings(1))
    index.save(tmp_path)
    index.add(["b"], embeddings(1, seed=1))

    def full(*args: object, **settings: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("models.corpus.index.np.save", full)
    with pytest.raises(OSError, match="no space"):
        index.save(tmp_path)
    assert len(Index.load(tmp_path)) == 1


def test_the_index_refuses_what_it_cannot_find_again() -> None:
    index = Index(DEPTH)
    index.add(["a"], embeddings(1))
    with pytest.raises(ValueError, match="'a'"):
        index.add(["b", "a"], embeddings(2))
    with pytest.raises(ValueError, match="twice"):
        index.add(["c", "c"], embeddings(2))
    with pytest.raises(ValueError, match="direction"):
        index.add(["d"], np.zeros((1, DEPTH), np.float32))
    with pytest.raises(ValueError, match="not \\(1, 3\\)"):
        index.add(["d"], np.ones((1, 3), np.float32))
    assert len(index) == 1 and "b" not in index


# Clusters.


def test_clusters_find_what_differs_and_no_more() -> None:
    points = np.concatenate([np.tile(look, (5, 1)) for look in (CAR, ROAD, SKY)])
    centres, member = clusters(points, 8)
    assert len(centres) == 3
    assert [len(set(member[start : start + 5].tolist())) for start in (0, 5, 10)] == [1, 1, 1]


# ReCo.

COSEGMENT = cosegment.CosegmentConfig()


def shown(rng: np.random.Generator, layouts: list[list[np.ndarray]], name: np.ndarray) -> tuple[list, list]:
    images = [noisy(rng, layout) for layout in layouts]
    return images, [unit(image) @ name for image in images]


def test_a_reference_is_what_the_images_share_even_if_its_name_is_vague() -> None:
    rng = np.random.default_rng(0)
    # The word is a little closer to one image's tree than to any car: text alone would take that.
    word = unit(0.5 * CAR + 0.55 * TREE)
    layouts = [[SKY, CAR], [TREE, CAR], [CAT, CAR], [SOFA, CAR], [CAR, SKY]]
    images, scores = shown(rng, layouts, word)
    nothing = np.zeros((0, DEPTH), np.float32)
    single = cosegment.reference(images[1:2], scores[1:2], nothing, COSEGMENT)
    group = cosegment.reference(images, scores, nothing, COSEGMENT)
    assert single.embedding @ TREE > 0.8
    assert group.embedding @ CAR > 0.9
    assert np.linalg.norm(group.embedding) == pytest.approx(1, abs=1e-5)
    heat = cosegment.apply(images[1], group, scores[1], COSEGMENT)
    assert heat[4:].mean() > 2 * heat[:4].mean() and heat.min() >= 0 and heat.max() <= 1


def test_what_all_patches_share_does_not_hide_what_they_differ_in() -> None:
    rng = np.random.default_rng(0)
    shared = 4 * np.eye(DEPTH, dtype=np.float32)[9]
    images = [noisy(rng, [look, CAR]) + 3 * shared for look in (SKY, TREE, CAT, SOFA)]
    scores = [unit(image) @ CAR for image in images]
    nothing, mean = np.zeros((0, DEPTH), np.float32), np.mean([unit(image).mean((0, 1)) for image in images], 0)
    plain = cosegment.reference(images, scores, nothing, COSEGMENT)
    centred = cosegment.reference(images, scores, nothing, COSEGMENT, mean)

    def contrast(found: cosegment.Reference) -> float:
        heat = cosegment.apply(images[0], found, scores[0], COSEGMENT)
        return float(heat[4:].mean() / heat[:4].mean())

    assert contrast(centred) > 5 * contrast(plain)


def test_images_without_the_class_lower_its_affinity() -> None:
    rng = np.random.default_rng(0)
    layouts = [[SKY, CAR], [TREE, CAR], [CAT, CAR]]
    images, scores = shown(rng, [*layouts, [SOFA, CAT], [CAT, SOFA]], CAR)
    weights = [cosegment.attention(values, COSEGMENT) for values in scores]
    alone = cosegment.affinities(images[:3], weights[:3])
    joined = cosegment.affinities(images, weights)
    for before, after in zip(alone, joined[:3], strict=True):
        assert after[4:].mean() < before[4:].mean()
    assert (cosegment.affinities(images[:1], weights[:1])[0] == 0).all()


def test_context_does_not_become_the_reference() -> None:
    rng = np.random.default_rng(0)
    # Roads are under every car, and the word likes them as much.
    word = unit(CAR + 1.3 * ROAD + 4 * np.eye(DEPTH, dtype=np.float32)[9])
    images, scores = shown(rng, [[look, CAR, ROAD] for look in (SKY, TREE, CAT, SOFA)], word)
    misled = cosegment.reference(images, scores, np.zeros((0, DEPTH), np.float32), COSEGMENT)
    told = cosegment.reference(images, scores, ROAD[None], COSEGMENT)
    assert misled.embedding @ ROAD > misled.embedding @ CAR
    assert told.embedding @ CAR > 0.9


def test_the_context_never_holds_a_target_class() -> None:
    classes = np.stack([CAR, CAT, SOFA, unit(CAR + 0.1 * SKY)])  # The last one is as good as a car.
    words = np.stack([ROAD, unit(CAT + 0.1 * TREE), SKY])  # The second one is as good as a cat.
    for absent in (np.ones(4, bool), np.array([True, False, True, True]), np.zeros(4, bool)):
        for target in range(4):
            context = cosegment.context_of(target, classes, words, absent, near=0.9)
            # The target itself never, and no class that the images may show.
            forbidden = classes[~absent | (np.arange(4) == target)]
            assert (context @ forbidden.T < 0.9).all()
            assert (context @ ROAD > 0.9).any()
    far = cosegment.context_of(0, classes, words, np.ones(4, bool), near=0.9)
    assert (far @ CAT > 0.9).any() and (far @ SOFA > 0.9).any()


# Frequency.


def test_what_is_in_every_image_counts_more_than_what_is_in_one() -> None:
    rng = np.random.default_rng(0)
    layouts = [[SKY, CAR], [TREE, CAR], [CAT, CAR], [SOFA, CAR]]
    images = [noisy(rng, layout) for layout in layouts]
    regions = np.repeat([0, 1], 4)[:, None].repeat(8, 1)
    pooled = [frequency.pool_regions(image, regions) for image in images]
    often = frequency.frequency(*(list(part) for part in zip(*pooled, strict=True)), frequency.FrequencyConfig())
    for scores in often:
        assert scores[1] > scores[0] >= 0.25 and scores.max() <= 1
    assert min(scores[1] for scores in often) > 0.8
    # Everything stands out alike; what recurs is the car.
    both = frequency.cosalience(often[0], np.where(regions == 0, 0, regions), np.full((8, 8), 0.8, np.float32))
    assert both[4:].min() > both[:4].max()
    assert (frequency.cosalience(often[0], np.full((8, 8), -1), np.ones((8, 8), np.float32)) == 0).all()


# Bias.

BIAS = bias.BiasConfig(margin=0.05)


def street(seed: int, car: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A street [12, 12, D]: sky, then a car or a tree, then the road. Its label says that the road is car too, where
    there is a car; the truth is not told. And the presence of car and cat."""
    rng = np.random.default_rng(seed)
    image = noisy(rng, [SKY, CAR if car else TREE, ROAD], size=12, noise=0.15)
    label = np.full((12, 12), bias.BACKGROUND)
    if car:
        label[4:10] = 0
    return image, label, np.array([car, False])


def corpus_stats(cars: int = 10, others: int = 10) -> list[bias.BiasStats]:
    scenes = [street(seed, seed < cars) for seed in range(cars + others)]
    return [bias.map_background(*scene, f"image {seed}", BIAS) for seed, scene in enumerate(scenes)]


def test_a_road_under_every_car_is_found_out() -> None:
    stats = bias.reduce(corpus_stats(), BIAS)
    kept, wrong, before = [], [], []
    for seed in range(100, 110):
        image, label, _ = street(seed, car=True)
        heat = np.where(label == 0, 0.9, 0.05)[None].astype(np.float32)
        cleaned = bias.remove(image, heat, np.array([0]), stats, BIAS)[0] > 0.5
        kept.append(cleaned[4:8].mean())
        wrong.append(cleaned[8:].sum() / max(cleaned.sum(), 1))
        before.append((heat[0] > 0.5)[8:].sum() / (heat[0] > 0.5).sum())
    assert np.mean(before) > 0.3 and np.mean(wrong) < 0.02
    assert np.mean(kept) > 0.98


def test_a_class_far_from_all_backgrounds_is_untouched() -> None:
    stats = bias.reduce(corpus_stats(), BIAS)
    image, _, _ = street(100, car=True)
    heat = np.zeros((2, 12, 12), np.float32)
    heat[0, 4:8] = 0.9  # The car alone.
    heat[1, 4:10] = 0.9  # Cats are in no image: nothing is known of them.
    assert (bias.remove(image, heat, np.array([0, 1]), stats, BIAS) == heat).all()


def test_without_images_that_lack_the_class_nothing_is_removed() -> None:
    stats = bias.reduce(corpus_stats(cars=10, others=0), BIAS)
    image, label, _ = street(100, car=True)
    heat = np.where(label == 0, 0.9, 0.05)[None].astype(np.float32)
    assert (bias.remove(image, heat, np.array([0]), stats, BIAS) == heat).all()


def test_statistics_add_up_in_any_order_and_partition() -> None:
    small = replace(BIAS, bank=20, class_bank=8)
    parts = corpus_stats()
    whole = bias.reduce(parts, small)
    rng = np.random.default_rng(0)
    for _ in range(4):
        order = [parts[number] for number in rng.permutation(len(parts))]
        cut = int(rng.integers(1, len(order)))
        again = bias.reduce([bias.reduce(order[cut:], small), bias.reduce(order[:cut], small)], small)
        for one, other in zip([whole.background, *whole.classes], [again.background, *again.classes], strict=True):
            assert (one.rank == other.rank).all() and (one.centroids == other.centroids).all()
            assert (one.present == other.present).all() and (one.image == other.image).all()
        assert again.count == whole.count and (again.images == whole.images).all()
        assert np.allclose(again.total, whole.total)
    assert len(whole.background.rank) == 20


# The head.

HEAD = HeadConfig(epochs=20, batch=64, lr=0.02)


def patches(count: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, votes that are wrong one time in four, what each patch's image may hold, and the truth (0..2)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    features = np.stack([SKY, CAR, CAT])[truth] * 2 + 0.3 * rng.normal(size=(count, DEPTH)) + 5
    said = np.where(rng.random(count) < 0.25, rng.integers(0, 3, count), truth)
    allowed = np.ones((count, 3), bool)
    allowed[:, 1:] = rng.random((count, 2)) < 0.7
    allowed[np.arange(count), truth] = True
    strength = np.where(said[:, None] == np.array([1, 2]), 0.9, 0.1)
    return features.astype(np.float32), strength.astype(np.float32), allowed, truth


def test_the_head_unlearns_what_single_images_get_wrong() -> None:
    features, strength, allowed, truth = patches()
    targets = soft_targets(strength, allowed, HEAD)
    assert np.allclose(targets.sum(1), 1) and (targets[~allowed] == 0).all()
    head = fit_head(features, targets, allowed, HEAD)
    fresh, _, _, real = patches(seed=9)
    heat = head_heat(head, fresh.reshape(20, 30, DEPTH), np.array([0, 1]))
    assert heat.shape == (2, 20, 30) and heat.dtype == np.float32 and heat.min() >= 0
    assert np.allclose(heat.max((1, 2)), 1)
    called = np.where(heat.max(0) > 0.5, heat.argmax(0) + 1, 0).ravel()
    given = np.where(strength.max(1) > 0.5, strength.argmax(1) + 1, 0)
    assert (called == real).mean() > 0.97 > (given == truth).mean() + 0.1
    # A map does not depend on classes that do not take part.
    assert (head_heat(head, fresh[None], np.array([1]))[0] > 0.5).ravel()[real == 2].mean() > 0.95


def test_a_seed_gives_one_head_and_chunks_of_any_size_learn_as_well() -> None:
    features, strength, allowed, _ = patches()
    targets = soft_targets(strength, allowed, HEAD)
    one, same = (fit_head(features, targets, allowed, HEAD) for _ in range(2))
    other = fit_head(features, targets, allowed, replace(HEAD, seed=1))
    assert (one.weight == same.weight).all() and (one.bias == same.bias).all()
    assert (one.weight != other.weight).any() and one.weight.dtype == np.float32

    def images(epoch: int):
        for start in range(0, 600, 30):
            yield features[start : start + 30], targets[start : start + 30], allowed[start : start + 30]

    streamed = fit_head_stream(images, replace(HEAD, buffer=128))
    assert np.allclose(streamed.mean, one.mean) and np.allclose(streamed.scale, one.scale)
    rows = np.array([0, 1])
    apart = np.abs(head_heat(streamed, features[None], rows) - head_heat(one, features[None], rows))
    assert apart.mean() < 0.05


def test_rare_classes_keep_the_heat_of_their_text() -> None:
    features, strength, allowed, truth = patches()
    head = fit_head(features, soft_targets(strength, allowed, HEAD), allowed, HEAD, np.array([50, 4]))
    assert head.valid.tolist() == [True, False]
    text = np.random.default_rng(0).random((2, 20, 30)).astype(np.float32)
    grid = features.reshape(20, 30, DEPTH)
    heat = head_heat(head, grid, np.array([0, 1]), text)
    assert (heat[1] == text[1]).all() and (heat[0] != text[0]).any()
    assert (head_heat(head, grid, np.array([1]), text[:1]) == text[:1]).all()
    # The patches of the rare class did not teach that they are background.
    assert (heat[0].ravel()[truth == 1] > 0.5).mean() > 0.95
    with pytest.raises(ValueError, match="enough images"):
        fit_head(features, soft_targets(strength, allowed, HEAD), allowed, HEAD, np.array([1, 4]))


def test_a_class_set_without_background_is_learned_as_such() -> None:
    features, strength, allowed, truth = patches()
    allowed[:, 0] = False
    keep = truth > 0
    targets = soft_targets(strength, allowed, HEAD)
    head = fit_head(features[keep], targets[keep], allowed[keep], HEAD)
    assert not head.background
    heat = head_heat(head, features[None], np.array([0, 1]))
    assert ((heat.argmax(0) + 1).ravel() == truth)[keep].mean() > 0.97
    assert head_heat(head, features[None], np.array([], int)).shape == (0, 1, 600)


def test_what_every_image_shows_alone_is_in_every_image() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 16)).astype(np.float32)
    near = [one + rng.normal(scale=0.01, size=(1, 16)).astype(np.float32) for _ in range(4)]
    whole = [np.ones(1, np.float32)] * 4
    for group in ([one] * 4, near):
        often = frequency.frequency(group, whole, frequency.FrequencyConfig())
        assert [part.tolist() for part in often] == [[1.0]] * 4
