"""The votes of an image's sources, and what a label model makes of them."""

from dataclasses import replace

import numpy as np
from decide_scene import CLASSES, make_world, weak

from models.class_masks import ClassMasks
from models.decide.config import DecideConfig
from models.decide.decide import frame_of, look
from models.decide.scene import Scene
from models.decide.source_votes import SOURCES, VoteConfig, fusion_weights, segment_votes, source_votes
from models.decide.types import WeakArrays
from models.evidence import MASK_SOURCES, MaskBank
from models.label_model import LabelModel
from models.refine.grids import resize_nearest

WORLD = make_world()
CONFIG = DecideConfig()
TEXT, COMPONENT, REGION, ASKED, STUDENT, NOISY, LOCALISER = range(len(SOURCES))


def scene_of(given: WeakArrays, **changed: object) -> Scene:
    evidence = replace(WORLD.evidence, **changed)  # type: ignore[arg-type]
    return look(frame_of(evidence, CONFIG), evidence, WORLD.text, CLASSES, given, CONFIG)


def truth_of(scene: Scene) -> np.ndarray:
    return resize_nearest(WORLD.truth, scene.size).ravel()  # Ids are rows plus 1 here, as votes are.


def test_sources_call_pixels_by_themselves() -> None:
    scene = scene_of(weak(tags=[0, 1, 2]))
    votes = source_votes(scene)
    assert votes.shape == (scene.size[0] * scene.size[1], len(SOURCES)) and votes.dtype == np.int16
    truth = truth_of(scene)
    for source in (TEXT, COMPONENT, REGION):
        said = votes[:, source] >= 0
        assert said.mean() > 0.5
        assert (votes[said, source] == truth[said]).mean() > 0.7, SOURCES[source]
        assert set(np.unique(votes[:, source])) <= {-1, 0, 1, 2, 3}
    assert (votes[:, [ASKED, STUDENT, NOISY, LOCALISER]] == -1).all(), "sources that the image does not have abstain"


def test_unsure_sources_abstain() -> None:
    scene = scene_of(weak(tags=[0, 1, 2]))
    shares = [(source_votes(scene, VoteConfig(band=band))[:, TEXT] == -1).mean() for band in (0.0, 0.1, 0.3)]
    assert shares[0] == 0 and shares[0] < shares[1] < shares[2]
    classes_only = source_votes(scene, VoteConfig(band=0.0, background=False))[:, TEXT]
    whole = source_votes(scene, VoteConfig(band=0.0))[:, TEXT]
    np.testing.assert_array_equal(classes_only, np.where(whole == 0, -1, whole))


def test_noisy_maps_students_and_asked_masks_vote() -> None:
    noisy = WORLD.truth.copy()
    noisy[:40] = -1
    scene = scene_of(weak(tags=[0, 1, 2], noisy=noisy))
    shape = np.stack([WORLD.truth == 2] * 2).astype(np.uint8) * 255
    second = [
        ClassMasks(MaskBank(shape, np.ones(2, np.float32), np.ones(2, np.float32),
                            np.full(2, MASK_SOURCES.index(kind), np.uint8)), np.array([2, 4], np.int32))
        for kind in ("heat", "student", "localiser")
    ]  # fmt: skip
    votes = source_votes(scene, of_classes=second)
    truth = truth_of(scene)
    given = resize_nearest(noisy, scene.size).ravel()
    np.testing.assert_array_equal(votes[:, NOISY], given)
    for source in (ASKED, STUDENT, LOCALISER):
        dogs = votes[:, source] == 2
        assert dogs.any() and (truth[dogs] == 2).mean() > 0.95
        assert 4 not in votes[:, source], "a class that does not take part gets no vote"


def test_a_students_classes_that_became_one_add_up() -> None:
    scene = scene_of(weak(tags=[0, 1, 2]))
    shape = np.stack([WORLD.truth == 2] * 2).astype(np.uint8) * 102  # 0.4 each: less than the background threshold
    bank = MaskBank(shape, np.ones(2, np.float32), np.ones(2, np.float32),
                    np.full(2, MASK_SOURCES.index("student"), np.uint8))  # fmt: skip
    scene = replace(scene, config=replace(CONFIG, background_threshold=0.5))
    votes = source_votes(scene, of_classes=[ClassMasks(bank, np.array([2, 2], np.int32))])
    dogs = votes[:, STUDENT] == 2
    assert dogs.any() and (truth_of(scene)[dogs] == 2).mean() > 0.95


def told(kind: str, classes: list[int], score: float = 1.0, value: int = 255) -> ClassMasks:
    """Where each of these classes is, by a network that is this sure of it."""
    probs = np.stack([WORLD.truth == one for one in classes]).astype(np.uint8) * value
    ones = np.ones(len(classes), np.float32)
    source = np.full(len(classes), MASK_SOURCES.index(kind), np.uint8)
    return ClassMasks(MaskBank(probs, ones * np.float32(score), ones, source), np.array(classes, np.int32))


def test_a_localiser_votes_as_much_as_it_counts() -> None:
    scene = scene_of(weak())
    assert {0, 1} <= set(scene.rows) and not scene.must.any()
    sure, unsure = (source_votes(scene, of_classes=[told("localiser", [2], one)])[:, LOCALISER] for one in (0.9, 0.2))
    assert (sure == 2).any() and not (unsure == 2).any(), "the peak of a map is 1, whether its class is there or not"
    # Tags name another class: the localiser has no say.
    scene = replace(scene, must=scene.rows == 0, weak=weak(tags=[0]))
    assert (source_votes(scene, of_classes=[told("localiser", [2])])[:, LOCALISER] == -1).all()
    scene = replace(scene, must=scene.rows == 1, weak=weak(tags=[1]))
    assert (source_votes(scene, of_classes=[told("localiser", [2], 0.2)])[:, LOCALISER] == 2).any()


def test_several_students_are_all_heard() -> None:
    scene = scene_of(weak(tags=[0, 1, 2]))
    votes = source_votes(scene, of_classes=[told("student", [1]), told("student", [2])])[:, STUDENT]
    truth = truth_of(scene)
    assert (votes[truth == 1] == 1).any() and (votes[truth == 2] == 2).any(), "each knows a class of its own"
    doubted = source_votes(scene, of_classes=[told("student", [1]), told("student", [1], value=0)])[:, STUDENT]
    assert (doubted[truth == 1] == -1).mean() > 0.8, "one is sure and one denies it: 0.5 is near the threshold"


def test_images_without_classes_or_masks_have_votes_too() -> None:
    assert (source_votes(scene_of(weak(tags=[]))) == -1).all()
    bank = WORLD.evidence.bank
    empty = MaskBank(bank.probs[:0], bank.iou[:0], bank.stability[:0], bank.source[:0])
    votes = source_votes(scene_of(weak(tags=[0]), bank=empty))
    assert (votes[:, TEXT] >= 0).any() and (votes[:, [COMPONENT, REGION]] == -1).all()


def test_segments_say_what_most_of_their_pixels_say() -> None:
    votes = np.array([[1, -1], [1, -1], [0, -1], [2, 0], [-1, 0], [-1, 3]], np.int16)
    np.testing.assert_array_equal(segment_votes(votes, np.array([0, 0, 0, 1, 1, 2]), 4), [[1, -1], [2, 0], [-1, 3]])


def test_weights_follow_who_is_right() -> None:
    def model(*accuracy: float) -> LabelModel:
        accuracy = (*accuracy, *[0.0] * (len(SOURCES) - len(accuracy)))
        confusion = np.stack([np.full((3, 3), (1 - a) / 2) + np.eye(3) * (a - (1 - a) / 2) for a in accuracy])
        return LabelModel(confusion, np.full(3, 1 / 3), np.array([a > 0 for a in accuracy], float))

    even = fusion_weights(model(0.8, 0.8, 0.8, 0, 0, 0))
    assert even.keys() == {"mask_weight", "region_share"}
    np.testing.assert_allclose([even["mask_weight"], even["region_share"]], [2 / 3, 1 / 2], atol=1e-6)
    masks = fusion_weights(model(0.6, 0.9, 0.5, 0, 0.7, 0.95))
    assert masks["mask_weight"] > 0.8 and masks["region_share"] == 0
    assert 0 < masks["student_weight"] < masks["noisy_weight"] < 1
    assert fusion_weights(model(0.4, 0.3, 0.2, 0, 0, 0)) == {}
    replace(CONFIG, **masks)
