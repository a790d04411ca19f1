"""Localisers: pooling, losses that believe tags, a head that finds objects, what is kept on disk."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.localize.card import LocaliserCard, load_localiser, save_localiser
from models.localize.fit import FitConfig, PatchBatch, TaggedBatch, fit, loss_of_patches, loss_of_tags
from models.localize.localiser import FEATURES, Localiser, LocaliserConfig, patch_loss, tag_loss
from models.localize.pooling import Pooling

KINDS = ("gap", "gmp", "softmax", "topk", "gap+gmp+focal")


def random_maps(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 999), st.lists(st.floats(0.01, 50), min_size=2, max_size=6))
@settings(deadline=None)
def test_the_activated_area_grows_with_the_temperature(seed: int, temperatures: list[float]) -> None:
    maps = random_maps(seed, 1, 2, 7, 5)
    areas, spreads, scores = [], [], []
    for temperature in sorted(temperatures):
        pooling = Pooling("softmax", temperature)
        weights = pooling.weights(maps).double().flatten(2)
        areas.append((weights >= 0.5 * weights.amax(-1, keepdim=True)).sum(-1))
        spreads.append(torch.special.entr(weights).sum(-1))
        scores.append(pooling(maps))
    for smaller, larger in pairwise(areas):
        assert (smaller <= larger).all()
    for smaller, larger in pairwise(spreads):
        assert (smaller <= larger + 1e-5).all()
    for higher, lower in pairwise(scores):
        assert (higher >= lower - 1e-4).all()


def test_the_ends_of_the_temperature_are_maximum_and_mean() -> None:
    maps = random_maps(0, 2, 3, 6, 4)
    torch.testing.assert_close(Pooling("softmax", 1e-4)(maps), Pooling("gmp")(maps))
    torch.testing.assert_close(Pooling("softmax", 1e6)(maps), Pooling("gap")(maps), atol=1e-4, rtol=0)
    torch.testing.assert_close(Pooling("topk", share=1.0)(maps), Pooling("gap")(maps))
    torch.testing.assert_close(Pooling("topk", share=1e-6)(maps), Pooling("gmp")(maps))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_a_score(kind: str) -> None:
    maps, pooling = random_maps(1, 2, 3, 6, 4), Pooling(kind, share=0.3)
    padded = torch.nn.functional.pad(maps, (0, 3, 0, 2), value=99.0)
    valid = torch.zeros(2, 8, 7, dtype=torch.bool)
    valid[:, :6, :4] = True
    torch.testing.assert_close(pooling(padded, valid), pooling(maps))
    padded.requires_grad_().retain_grad()
    pooling(padded, valid).sum().backward()
    assert padded.grad.isfinite().all() and padded.grad[:, :, 6:].abs().max() == 0
    assert padded.grad[:, :, :6, :4].abs().max() > 0


def test_the_focal_term_is_against_classes_that_hold_next_to_nothing() -> None:
    maps = torch.full((1, 2, 4, 4), -5.0)
    maps[:, 0, :2] = 5.0  # Half of the cells,
    maps[:, 1, 3, 3] = 5.0  # and one.
    penalties = Pooling("gap+gmp+focal")(maps) - Pooling("gap")(maps) - Pooling("gmp")(maps)
    assert penalties[0, 1] < penalties[0, 0] <= 0


@pytest.mark.parametrize("wrong", [{"kind": "otsu"}, {"temperature": 0.0}, {"share": 0.0}, {"share": 1.5}])
def test_wrong_poolings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"otsu|temperature|share"):
        Pooling(**wrong)


def test_the_loss_of_tags_ignores_what_is_unknown_and_the_size_of_the_batch() -> None:
    scores, tags = random_maps(2, 4, 5), torch.tensor([[1, 0, -1, 0, 1]] * 4)
    loss = tag_loss(scores, tags)
    torch.testing.assert_close(tag_loss(scores.repeat(3, 1), tags.repeat(3, 1)), loss)
    moved = scores.clone()
    moved[:, 2] += 7
    torch.testing.assert_close(tag_loss(moved, tags), loss)
    assert tag_loss(scores, torch.full((4, 5), -1)) == 0


def test_the_loss_of_patches_leaves_absent_classes_out() -> None:
    logits = random_maps(3, 6, 4).requires_grad_()
    can_be = torch.tensor([[True, True, False, True]] * 6)
    targets = can_be / can_be.sum(1, keepdim=True)
    loss = patch_loss(logits, targets, can_be)
    loss.backward()
    assert (logits.grad[:, 2] == 0).all() and logits.grad[:, [0, 1, 3]].abs().max() > 0
    torch.testing.assert_close(patch_loss(logits.repeat(2, 1), targets.repeat(2, 1), can_be.repeat(2, 1)), loss)


DIRECTIONS = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(9))


def scene(generator: torch.Generator, classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [432, 5, h] of noise, a 2 x 2 object of each class (0 or 1), and ground (direction 2) everywhere; and
    where the objects are, bool [2, 5, h]."""
    width = int(torch.randint(5, 8, (), generator=generator))
    features = 0.7 * torch.randn(FEATURES, 5, width, generator=generator) + DIRECTIONS[2][:, None, None]
    where = torch.zeros(2, 5, width, dtype=torch.bool)
    for one in classes:
        row, column = 3 * one, int(torch.randint(0, width - 1, (), generator=generator))
        features[:, row : row + 2, column : column + 2] += DIRECTIONS[one][:, None, None]
        where[one, row : row + 2, column : column + 2] = True
    return features.half(), where


def scenes(seed: int, count: int = 24) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = [scene(generator, [[0], [1], [0, 1], []][i % 4]) for i in range(count)]
    tags = torch.stack([where.flatten(1).any(1) for _, where in found]).int()
    return [features for features, _ in found], [where for _, where in found], tags


def tagged(seed: int) -> Iterator[TaggedBatch]:
    features, _, tags = scenes(seed)
    while True:
        for start in range(0, len(features), 8):
            yield TaggedBatch.of(features[start : start + 8], tags[start : start + 8])


def localiser(**config: object) -> Localiser:
    made = Localiser(LocaliserConfig(2, **config))
    made.standardise(torch.cat([one.flatten(1).T for one in scenes(0)[0]]))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_tags_alone_teach_where_things_are(kind: str) -> None:
    net = localiser(pooling=Pooling(kind))
    losses = fit(net, tagged(0), loss_of_tags, FitConfig(steps=60))
    assert losses[0] > 2 * np.mean(losses[-5:])
    hits, scores = [], []
    features, wheres, tags = scenes(1)
    for one, where, present in zip(features, wheres, tags, strict=True):
        maps, score = net.locate(one)
        assert maps.dtype == np.float32 and maps.shape == where.shape and maps.min() >= 0 and maps.max() <= 1
        hits += [bool(where[c].flatten()[maps[c].argmax()]) for c in range(2) if present[c]]
        scores.append((score, present.numpy()))
    assert np.mean(hits) > 0.9
    there = np.stack([present for _, present in scores]) > 0
    given = np.stack([score for score, _ in scores])
    assert given[there].mean() > given[~there].mean()


def test_soft_targets_teach_patches_among_what_can_be_there() -> None:
    net = localiser(background=True, hidden=16)

    def patches() -> Iterator[PatchBatch]:
        features, wheres, tags = scenes(0)
        flat = torch.cat([one.flatten(1).T for one in features])
        truth = torch.cat([torch.cat([~where.any(0, keepdim=True), where]).flatten(1).T for where in wheres]).float()
        there = torch.nn.functional.pad(tags.bool(), (1, 0), value=True)
        can_be = torch.cat([row.repeat(one[0].numel(), 1) for one, row in zip(features, there, strict=True)])
        targets = (0.8 * truth + 0.1) * can_be
        while True:
            yield PatchBatch(flat, targets / targets.sum(1, keepdim=True), can_be)

    fit(net, patches(), loss_of_patches, FitConfig(steps=40))
    for one, where, tags in zip(*scenes(1), strict=True):
        maps, _ = net.locate(one, tags.numpy() > 0)
        assert (maps[tags.numpy() == 0] == 0).all()
        for c in np.flatnonzero(tags):
            assert maps[c][where[c].numpy()].mean() > maps[c][~where[c].numpy()].mean() + 0.3


def test_the_temperature_changes_maps_but_not_their_peak() -> None:
    soft, bold = localiser(background=True), localiser(background=True, temperature=0.5)
    bold.load_state_dict(soft.state_dict())
    features, _, _ = scenes(1, 1)
    (one, _), (other, _) = soft.locate(features[0]), bold.locate(features[0])
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(other.max((1, 2)), 1, atol=1e-6)
    with pytest.raises(ValueError, match="temperature above 0"):
        LocaliserConfig(2, temperature=0.0)


def test_the_same_batches_and_seed_give_the_same_head() -> None:
    nets = [localiser() for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        torch.rand(seed)  # What was drawn elsewhere does not matter.
        fit(net, tagged(0), loss_of_tags, FitConfig(steps=5, seed=seed))
    weights = [net.head.weight for net in nets]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_batches_that_end_too_soon_are_told() -> None:
    with pytest.raises(ValueError, match="ended after 0 of 5 steps"):
        fit(localiser(), iter(()), loss_of_tags, FitConfig(steps=5))


def test_a_saved_localiser_is_the_same_and_needs_no_extra(tmp_path: Path) -> None:
    net = localiser(pooling=Pooling("softmax", 2.0))
    card = LocaliserCard(net.config, ("cat", "dog"), {"images": 24, "seed": 0})
    save_localiser(tmp_path / "one", net, card)
    loaded, same = load_localiser(tmp_path / "one")
    assert same == card
    picture = np.random.default_rng(0).integers(0, 255, (70, 100, 3)).astype(np.uint8)
    features = net.features(picture)
    assert features.shape[0] == FEATURES and features.shape[2] > features.shape[1]
    for before, after in zip(net.locate(features), loaded.locate(loaded.features(picture)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_is_no_localiser_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_localiser(tmp_path)
    net = localiser()
    save_localiser(tmp_path, net, LocaliserCard(net.config, ("cat", "dog")))
    other = localiser(hidden=8)
    with pytest.raises(ValueError, match="the card says"):
        save_localiser(tmp_path, other, LocaliserCard(net.config, ("cat", "dog")))
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        LocaliserCard(net.config, ("cat",))
    text = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(text.replace('"hidden": 0', '"hidden": 4'))
    with pytest.raises(ValueError, match="does not hold the weights"):
        load_localiser(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="no localiser's card"):
        load_localiser(tmp_path)
