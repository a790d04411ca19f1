"""From tables and folders to a plan and its targets."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from models.students.augment import IGNORE, AugmentConfig
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError
from pipelines.stages.decide import png
from pipelines.tables.labels import SCHEMA, LabelTable
from pipelines.training.config import TrainConfig
from pipelines.training.layout import layout, shape
from pipelines.training.loader import FILLER, Loader, LoaderSettings
from pipelines.training.sources import Prepared, prepare
from pipelines.training.stream import TRAIN, Shape, rounds
from pipelines.training.targets import ABSENT, PRESENT, UNKNOWN

CLASSES = ClassSet.from_dict([{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}])
#: Channels: background 0, dog 1, cat 2 (classes go by their ids).
SIDE = 64


def photograph(folder: Path, name: str, number: int, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(values).save(folder / name, quality=90)
    return folder / name


def label_row(path: Path, number: int, weak: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The upper half is a cat, sure on the left; the lower half background."""
    class_map = np.zeros((SIDE, SIDE), np.uint8)
    class_map[: SIDE // 2] = 5
    confidence = np.full((SIDE // 4, SIDE // 4), 100, np.uint8)
    confidence[:, : SIDE // 8] = 250
    return {
        **dict.fromkeys(SCHEMA.names),
        "asset": path.name, "uri": str(path), "digest": f"digest-{number}", "sequence": number, "removed": False,
        "height": SIDE, "width": SIDE, "class_map": png(class_map), "confidence": png(confidence),
        "keep_threshold": 0.5, "mean_confidence": 0.7,
        "areas": [{"class_id": 0, "name": "background", "area": 0.5, "kept": 0.2},
                  {"class_id": 5, "name": "cat", "area": 0.5, "kept": 0.3}],
        "weak": json.dumps(weak or {}), "class_set_digest": CLASSES.digest, "run_id": "r1",
        "created_at": datetime.now(UTC), **more,
    }  # fmt: skip


def publish(output: Path, rows: list[dict[str, Any]], name: str = "one") -> None:
    LabelTable(str(output / "labels")).append(f"{name}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    run = output / "runs/r1"
    run.mkdir(parents=True, exist_ok=True)
    config = LabelConfig(corpus="photos", output=str(output)).model_dump(mode="json")
    digests = {"observe_id": "o", "models": {"clip": "c"}}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "digests": digests}))
    (run / "classes.yaml").write_text(yaml.safe_dump(CLASSES.to_dict()))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    paths = [photograph(tmp_path / "photos", f"p{number}.jpg", number) for number in range(8)]
    publish(tmp_path / "out", [label_row(path, number) for number, path in enumerate(paths)])
    return tmp_path / "out"


def config(tmp_path: Path, **more: Any) -> TrainConfig:
    values: dict[str, Any] = {"output": str(tmp_path / "student"), "data": {"size_px": SIDE, "group_by": "none"}}
    for name, value in more.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return TrainConfig.model_validate(values)


def loader(prepared: Prepared, batch: int = 4, workers: int = 1, **more: Any) -> Loader:
    sizes = Shape(workers, 1, batch, 0, SIDE, 100, 50, len(prepared.plan.validation))
    options: dict[str, Any] = {"cache_bytes": 10**8, "augment": AugmentConfig(), **more}
    settings = LoaderSettings(
        shape=sizes, channels=prepared.channels, seed=0, shuffle_images=64, class_balance=0.0, quality_weight=0.0,
        max_pixels=10**6, **options,
    )  # fmt: skip
    return Loader(prepared.plan, prepared.sources, settings, None)


def target(prepared: Prepared, asset: str) -> Any:
    images = prepared.plan.images
    row = images.assets.to_pylist().index(asset)
    return prepared.sources[images.source[row]].read(int(images.item[row]), (SIDE, SIDE))


def test_labels_are_targets_weighted_by_confidence(labels: Path, tmp_path: Path) -> None:
    prepared = prepare(config(tmp_path, labels=str(labels), data={"validation_share": 0.25}), None)
    assert prepared.snapshot == LabelTable(str(labels / "labels")).version()
    assert prepared.channels.names == ("background", "dog", "cat")
    assert (len(prepared.plan.train), len(prepared.plan.validation), prepared.validated_by) == (6, 2, "labels")
    found = target(prepared, "p3.jpg")
    assert (found.channels[: SIDE // 2] == 2).all() and (found.channels[SIDE // 2 :] == 0).all()
    assert (found.weight[:, : SIDE // 2] == 250).all() and (found.weight[:, SIDE // 2 :] == 0).all()
    assert (prepared.plan.images.areas[:, [0, 2]] == 0.5).all()


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [({"keep": "all"}, 250, 100), ({"keep": "fixed", "min_confidence": 0.99}, 0, 0),
     ({"keep": "fixed", "min_confidence": 0.3, "confidence_weight": False}, 255, 255)],
)  # fmt: skip
def test_which_pixels_count_is_said_once(
    labels: Path, tmp_path: Path, data: dict[str, Any], left: int, right: int
) -> None:
    weight = target(prepare(config(tmp_path, labels=str(labels), data=data), None), "p0.jpg").weight
    assert (weight[:, : SIDE // 2] == left).all() and (weight[:, SIDE // 2 :] == right).all()


def test_the_newest_row_of_a_pinned_version_counts(labels: Path, tmp_path: Path) -> None:
    before = LabelTable(str(labels / "labels")).version()
    path = tmp_path / "photos/p0.jpg"
    dog = label_row(path, 99, class_map=png(np.full((SIDE, SIDE), 2, np.uint8)))
    gone = label_row(tmp_path / "photos/p1.jpg", 99, removed=True)
    publish(labels, [dog, gone], "two")
    newest = prepare(config(tmp_path, labels=str(labels)), None)
    assert newest.snapshot == (before or 0) + 1
    assert "p1.jpg" not in newest.plan.images.assets.to_pylist()
    assert (target(newest, "p0.jpg").channels == 1).all()
    pinned = prepare(config(tmp_path, labels=str(labels)), before)
    assert "p1.jpg" in pinned.plan.images.assets.to_pylist()
    assert (target(pinned, "p0.jpg").channels[: SIDE // 2] == 2).all()


def test_weak_labels_are_drawn_and_all_else_is_unknown(tmp_path: Path) -> None:
    weak = {
        "tags": [{"class": "cat", "present": True}, {"class": "dog", "present": False}],
        "points": [{"x": 10.5, "y": 20.5, "class": "cat"}, {"x": 50.5, "y": 50.5, "positive": False}],
        "boxes": [{"box": [32, 0, 64, 32], "class": "dog"}],
        "scribbles": [{"xy": [[4, 60], [20, 60]], "width_px": 2, "class": "dog"}],
    }
    with_weak = photograph(tmp_path / "photos", "a.jpg", 0)
    without = photograph(tmp_path / "photos", "b.jpg", 1)
    publish(tmp_path / "out", [label_row(with_weak, 1, weak), label_row(without, 2)])
    data = {"targets": "weak", "validation_share": 0, "point_radius": 0.03, "box_fill": 0.5}
    prepared = prepare(config(tmp_path, labels=str(tmp_path / "out"), data=data), None)
    assert prepared.plan.images.assets.to_pylist() == ["a.jpg"]  # of b.jpg nobody said anything
    found = target(prepared, "a.jpg")
    assert found.channels[20, 10] == 2 and found.channels[50, 50] == 0
    assert found.channels[60, 12] == 1 and found.channels[16, 48] == 1
    assert found.channels[1, 33] == IGNORE  # the rim of the box
    assert found.channels[40, 30] == IGNORE
    assert ((found.weight == 255) == (found.channels != IGNORE)).all()
    assert found.tags.tolist() == [PRESENT, ABSENT, PRESENT]
    drawn = (found.channels == 2).sum()
    assert 0.5 * np.pi * (0.03 * SIDE) ** 2 < drawn < 2 * np.pi * (0.03 * SIDE) ** 2


def gold_folder(tmp_path: Path, count: int = 9) -> tuple[Path, Path]:
    """CamVid's ids 0 (sky) and 3 (road), and 11 for void."""
    for number in range(count):
        photograph(tmp_path / "images", f"f_{number:03d}.jpg", number)
        mask = np.full((SIDE, SIDE), 3, np.uint8)
        mask[: SIDE // 4], mask[-2:] = 0, 11
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/f_{number:03d}.png")
    return tmp_path / "images", tmp_path / "masks"


def test_every_third_mask_and_the_rest_unlabeled(tmp_path: Path) -> None:
    images, masks = gold_folder(tmp_path)
    gold = {"uri": str(masks), "images": str(images), "classes": "camvid", "ignore": 11, "every": 3}
    plain = prepare(config(tmp_path, gold=gold, data={"validation_share": 0}), None)
    assert plain.plan.images.assets.to_pylist() == ["f_000.jpg", "f_003.jpg", "f_006.jpg"]
    found = target(plain, "f_003.jpg")
    assert (found.channels[: SIDE // 4] == 0).all() and (found.channels[SIDE // 4 : -2] == 3).all()
    assert (found.channels[-2:] == IGNORE).all() and (found.weight[-2:] == 0).all()
    assert (found.tags == UNKNOWN).all()
    gold["rest_unlabeled"] = True
    semi = prepare(config(tmp_path, gold=gold, recipe="semi_supervised", data={"validation_share": 0}), None)
    assert (len(semi.plan.train), len(semi.plan.unlabeled)) == (3, 6)
    ignored = prepare(config(tmp_path, gold=gold, data={"validation_share": 0}), None)
    assert len(ignored.plan.unlabeled) == 0 and "not used" in ignored.remarks[0]


def test_excluded_images_are_not_learned_from_unlabeled_either(labels: Path, tmp_path: Path) -> None:
    for name in ("held_out.jpg", "free.jpg"):
        photograph(tmp_path / "more", name, 50)
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("held_out\n")
    options = {"labels": str(labels), "unlabeled": str(tmp_path / "more"), "recipe": "semi_supervised"}
    prepared = prepare(config(tmp_path, exclude=str(exclude), **options), None)
    assert [prepared.plan.images.asset(int(row)) for row in prepared.plan.unlabeled] == ["free.jpg"]


def test_gold_beside_labels_validates_and_is_not_trained_on(labels: Path, tmp_path: Path) -> None:
    masks = tmp_path / "gold"
    masks.mkdir()
    for number in (1, 4):
        Image.fromarray(np.full((SIDE, SIDE), 8, np.uint8)).save(masks / f"p{number}.png")  # VOC's cat
    gold = {"uri": str(masks), "images": str(tmp_path / "photos"), "classes": "voc"}
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("p7\n")
    prepared = prepare(config(tmp_path, labels=str(labels), gold=gold, exclude=str(exclude)), None)
    names = prepared.plan.images.assets.to_pylist()
    assert [names[row] for row in prepared.plan.train] == ["p0.jpg", "p2.jpg", "p3.jpg", "p5.jpg", "p6.jpg"]
    assert [names[row] for row in prepared.plan.validation] == ["p1.jpg", "p4.jpg"]
    assert prepared.validated_by == "gold"
    row = int(prepared.plan.validation[0])
    found = prepared.sources[prepared.plan.images.source[row]].read(int(prepared.plan.images.item[row]), (SIDE, SIDE))
    assert (found.channels == 2).all()  # the labels' channel of a cat
    both = prepare(config(tmp_path, labels=str(labels), gold={**gold, "use": "train"}), None)
    assert len(both.plan.train) + len(both.plan.validation) == 10


def test_blocks_are_the_same_whoever_makes_them(labels: Path, tmp_path: Path) -> None:
    prepared = prepare(config(tmp_path, labels=str(labels)), None)
    one, other = loader(prepared), loader(prepared, cache_bytes=0)
    found = list(rounds(one.settings.shape, 0))
    first = one.train_rows(found[0], 0)
    assert first["image"].shape == (found[0].count * 4, SIDE, SIDE, 3)
    later = [entry for entry in found if entry.kind == TRAIN][-1]
    other.train_rows(later, 0)
    again = other.train_rows(found[0], 0)
    assert all((first[name] == again[name]).all() for name in first)


def test_two_workers_share_what_one_sees(labels: Path, tmp_path: Path) -> None:
    prepared = prepare(config(tmp_path, labels=str(labels)), None)
    alone = loader(prepared, batch=4)
    step = next(rounds(alone.settings.shape, 0))
    pair = loader(prepared, batch=2, workers=2)
    whole = alone.train_rows(step, 0)["image"][:4]
    halves = [pair.train_rows(next(rounds(pair.settings.shape, 0)), worker)["image"][:2] for worker in (0, 1)]
    assert (np.concatenate(halves) == whole).all()


def test_validation_shows_whole_pictures_once(labels: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "photos", "p0.jpg", 0, (32, 64))  # now wide: its square label cannot be of it any more
    prepared = prepare(config(tmp_path, labels=str(labels), data={"validation_share": 0.5}), None)
    made = loader(prepared, workers=2)
    shown: list[int] = []
    for one in rounds(made.settings.shape, 0):
        if one.kind != TRAIN and one.step == 50:
            for worker in (0, 1):
                block = made.validation_rows(one, worker)
                shown += [int(index) for index in block["index"] if index != FILLER]
                real = block["index"] != FILLER
                assert (block["size"][real] == SIDE).all() and (block["size"][~real] == 0).all()
    usable = [int(r) for r in prepared.plan.validation if prepared.plan.images.asset(int(r)) != "p0.jpg"]
    assert shown == usable


def test_a_broken_image_is_replaced_and_told(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "photos/p2.jpg").write_bytes(b"no image")

    class Told:
        def __init__(self) -> None:
            self.skip, self.seen = self, []  # an actor's method is called by `.remote`

        def remote(self, asset: str, reason: str) -> None:
            self.seen.append((asset, reason))

    prepared = prepare(config(tmp_path, labels=str(labels), data={"validation_share": 0}), None)
    made = loader(prepared)
    made.monitor = Told()
    blocks = [made.train_rows(one, 0) for one in list(rounds(made.settings.shape, 0))[:2] if one.kind == TRAIN]
    bad = prepared.plan.images.assets.to_pylist().index("p2.jpg")
    assert all(bad not in block["index"] and len(block["index"]) % 4 == 0 for block in blocks)
    assert [asset for asset, _ in made.monitor.seen] == ["p2.jpg"]
    for number in range(8):
        (tmp_path / f"photos/p{number}.jpg").write_bytes(b"no image")
    with pytest.raises(RuntimeError, match="cannot be used"):
        loader(prepared).train_rows(next(rounds(made.settings.shape, 0)), 0)


def test_memory_of_pictures_is_bounded(labels: Path, tmp_path: Path) -> None:
    prepared = prepare(config(tmp_path, labels=str(labels)), None)
    one = loader(prepared).load(0)
    assert one is not None
    small = loader(prepared, cache_bytes=2 * one.nbytes)
    for row in range(8):
        small.load(row)
    assert len(small._cache) == 2 and small._cached_bytes <= 2 * one.nbytes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "nothing to learn from"),
        ({"labels": "x", "recipe": "distill"}, "--teachers"),
        ({"gold": {"uri": "x"}, "data": {"targets": "weak"}}, "--labels is needed"),
        ({"labels": "x", "optim": {"batch_images": 7, "accumulate": 2}}, "multiple of optim.accumulate"),
        ({"labels": "x", "recipe": "semi_supervised", "optim": {"ema_decay": 0}}, "optim.ema_decay"),
    ],
)
def test_settings_that_do_not_fit_name_the_field(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **values)


def test_what_cannot_be_trained_on_is_said(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no published labels"):
        prepare(config(tmp_path, labels=str(tmp_path / "nowhere")), None)
    with pytest.raises(UsageError, match="no such version"):
        prepare(config(tmp_path, labels=str(labels)), 77)
    with pytest.raises(UsageError, match="points, scribbles, boxes or maps"):
        prepare(config(tmp_path, labels=str(labels), data={"targets": "weak"}), None)
    images, masks = gold_folder(tmp_path)
    with pytest.raises(UsageError, match=r"--gold\.classes is missing"):
        prepare(config(tmp_path, gold={"uri": str(masks), "images": str(images)}), None)
    with pytest.raises(UsageError, match=r"--gold\.images"):
        prepare(config(tmp_path, gold={"uri": str(masks), "images": str(labels), "classes": "camvid"}), None)


def test_the_layout_leaves_room_and_divides_a_step(tmp_path: Path) -> None:
    plan = layout(config(tmp_path, labels="x"), 2, 0)
    assert (plan.workers, plan.device, plan.threads) == (2, "cpu", 1)
    assert plan.workers * plan.worker_cpus + plan.readers * plan.reader_cpus < 2
    gpu = layout(config(tmp_path, labels="x"), 16, 1)
    assert (gpu.workers, gpu.worker_gpus, gpu.readers) == (1, 1.0, 8)
    assert gpu.worker_cpus + gpu.readers * gpu.reader_cpus < 16
    assert layout(config(tmp_path, labels="x"), 6, 0).workers == 4  # 16 images are not to be divided by 6 or 5
    with pytest.raises(UsageError, match="no GPU"):
        layout(config(tmp_path, labels="x", execution={"device": "cuda"}), 2, 0)
    with pytest.raises(UsageError, match="workers is 3"):
        layout(config(tmp_path, labels="x", workers=3), 16, 2)
    with pytest.raises(UsageError, match="use 18, or another --workers"):
        shape(config(tmp_path, labels="x", optim={"batch_images": 17}), 3, 0, 0)
    sizes = shape(config(tmp_path, labels="x", data={"unlabeled_ratio": 2.0}), 2, 10, 5)
    assert (sizes.labeled, sizes.unlabeled, sizes.step_images) == (8, 16, 16)
