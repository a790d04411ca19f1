"""SAM asked in rounds: what is taken is one round's answer, the same every time, and one round is what it was."""

import numpy as np
import pytest
import torch
from small_models import write_sam

from models.observe_config import HeatPromptConfig, ObserveConfig
from models.sam.heat_prompts import answer_bank, heat_masks, heat_prompts
from models.sam.observer import SamObserver
from models.sam.progressive import ask_by_heat, nearest_to_mean
from models.sam.prompts import Prompts

# Can be imported once models.sam has mended torchvision.
from segment_anything import SamPredictor  # isort: skip

KINDS = ("box", "distance", "heatmap")


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> SamObserver:
    return SamObserver(ObserveConfig(), str(write_sam(tmp_path_factory.mktemp("models") / "sam")), "cpu")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def maps() -> np.ndarray:
    """Two parts; one part; nothing."""
    heat = np.zeros((3, 20, 30), np.float32)
    heat[0, 2:8, 20:26] = 1.0
    heat[0, 14:18, 4:8] = 0.5
    heat[1, 5:11, 3:12] = np.linspace(0.3, 1, 9)
    return heat


@pytest.mark.parametrize("kind", KINDS)
def test_one_round_is_what_it_was(observer: SamObserver, kind: str) -> None:
    config = HeatPromptConfig(kind=kind)  # type: ignore[arg-type]
    inputs = [observer.prepare(picture()), observer.prepare(picture(1))]
    asked = [[heat_prompts(one, config) for one in heat] for heat in (maps(), maps()[2:])]
    for (bank, of), (old, old_of) in zip(
        ask_by_heat(observer, inputs, [maps(), maps()[2:]], config), heat_masks(observer, inputs, asked), strict=True
    ):
        np.testing.assert_array_equal(bank.probs, old.probs)
        np.testing.assert_array_equal(bank.iou, old.iou)
        np.testing.assert_array_equal(of, old_of)


@pytest.mark.parametrize("feed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_one_of_the_rounds_and_always_the_same(
    observer: SamObserver, kind: str, feed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = HeatPromptConfig(kind=kind, iterations=4, feed_logit=feed)  # type: ignore[arg-type]
    inputs = [observer.prepare(picture()), observer.prepare(picture(1))]
    heat = [maps()[2:], maps()]
    rounds, encoded = [], []
    decode, encode = observer.decode, observer.encode
    monkeypatch.setattr(observer, "decode", lambda *a: rounds.append((a[2], out := decode(*a))) or out)
    monkeypatch.setattr(observer, "encode", lambda x: encoded.append(len(x)) or encode(x))
    (none, none_of), (bank, of) = ask_by_heat(observer, inputs, heat, config)
    assert sum(encoded) == 2, "each picture is encoded once, however often SAM is asked"
    assert none.probs.shape[0] == len(none_of) == 0 and none.probs.shape[1:] == bank.probs.shape[1:]
    assert 1 <= len(rounds) <= 2 * 4
    assert set(of.tolist()) == {0, 1} and len(of) == len(bank.probs)
    said = []
    for prompts, decoded in rounds:
        for own, answer in zip(prompts, decoded, strict=True):
            said += list(answer_bank(observer, answer, [len(own)])[0].probs)
    for mask in bank.probs:
        assert any(np.array_equal(mask, one) for one in said)
    monkeypatch.undo()
    again = ask_by_heat(observer, inputs, heat, config)[1][0]
    np.testing.assert_array_equal(bank.probs, again.probs)


def test_uniform_heat_has_no_points_and_asks_with_the_whole_picture(observer: SamObserver) -> None:
    config = HeatPromptConfig(kind="heatmap", iterations=3)
    flat = np.full((1, 20, 30), 0.4, np.float32)
    prompts = heat_prompts(flat[0], config)
    assert prompts.points.shape == (1, 0, 2)
    np.testing.assert_array_equal(prompts.boxes, [[0, 0, 1, 1]])
    [(bank, of)] = ask_by_heat(observer, [observer.prepare(picture())], [flat], config)
    assert of.tolist() == [0] * len(bank.probs) and len(of) >= 1


def test_the_answer_nearest_to_the_mean() -> None:
    flat = [np.full((2, 2), value, np.float32) for value in (0.0, 0.9, 0.6)]
    assert nearest_to_mean(flat) == 2
    assert nearest_to_mean([flat[1], flat[1]]) == 0


def test_a_mask_prompt_equals_the_librarys(observer: SamObserver) -> None:
    one = observer.prepare(picture())
    logits = np.random.default_rng(0).normal(0, 3, (1, 16, 16)).astype(np.float32)
    prompts = Prompts.of_boxes(np.array([[0.1, 0.2, 0.7, 0.8]], np.float32), 0)
    predictor = SamPredictor(observer.sam)
    predictor.set_image(one.picture)
    height, width = one.picture.shape[:2]
    box = prompts.boxes[0] * [width, height, width, height]
    with torch.inference_mode():
        embeddings = observer.encode([one])
        side = embeddings.shape[-1] * 4
        logits = np.resize(logits, (1, side, side))
        [got] = observer.decode([one], embeddings, [prompts], [torch.from_numpy(logits)])
        [plain] = observer.decode([one], embeddings, [prompts])
    _, iou, want = predictor.predict(box=box, mask_input=logits, multimask_output=False)
    np.testing.assert_allclose(got.logits[0, :1].numpy(), want, atol=1e-4)
    np.testing.assert_allclose(got.iou[0, :1].numpy(), iou, atol=1e-4)
    assert not np.allclose(plain.logits[0, :1].numpy(), want, atol=1e-3)
