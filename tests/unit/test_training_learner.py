"""One optimiser step after another: every recipe runs, a saved state goes on as if nothing had happened."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.losses.config import RECIPE_NAMES
from models.losses.teachers import StudentTeacher
from models.students.augment import IGNORE
from models.students.build import build_student
from models.students.config import StudentConfig
from pipelines.training.batches import new_confusion, train_batches, validate_block
from pipelines.training.config import OptimConfig, TrainConfig
from pipelines.training.learner import Learner, lr_factor
from pipelines.training.record import learned, open_output
from pipelines.training.stream import Shape
from pipelines.training.targets import PRESENT, UNKNOWN

SIDE, CLASSES = 64, 3
CPU = torch.device("cpu")


def settings(recipe: str = "supervised", **more: Any) -> TrainConfig:
    values = {"output": "x", "labels": "x", "student": StudentConfig("ffnet-xs"), "recipe": recipe, **more}
    values["optim"] = {"steps": 20, "warmup_steps": 2, "lr": 0.01, "ema_decay": 0.9, **more.get("optim", {})}
    return TrainConfig.model_validate({"teachers": ["x"], **values})


def rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise whose brightness is the class."""
    random = np.random.default_rng(seed)
    target = np.repeat(np.repeat(random.integers(0, CLASSES, (count, 4, 4)), 16, 1), 16, 2).astype(np.int16)
    image = (target[..., None] * 80 + random.integers(0, 40, (count, SIDE, SIDE, 3))).astype(np.uint8)
    target[:, :8] = IGNORE
    tags = np.full((count, CLASSES), PRESENT, np.uint8)
    tags[0] = UNKNOWN
    return {
        "image": image,
        "target": target,
        "weight": np.full((count, SIDE, SIDE), 200, np.uint8),
        "tags": tags,
        "index": np.arange(count),
        "size": np.full((count, 2), SIDE),
    }


def shape(labeled: int = 4, unlabeled: int = 0, accumulate: int = 1) -> Shape:
    return Shape(1, accumulate, labeled, unlabeled, SIDE, 20, 10, 0)


def learner(config: TrainConfig) -> Learner:
    teacher = StudentTeacher(build_student(StudentConfig("ffnet-xs"), CLASSES))
    return Learner(config, CLASSES, CPU, teachers=[teacher])


def run(made: Learner, first: int, last: int, sizes: Shape) -> list[float]:
    losses = []
    for step in range(first, last):
        block = rows(sizes.batch_rows * sizes.accumulate, step)
        losses.append(float(made.step(list(train_batches(block, sizes, CPU)), 0.0)["loss"]))
    return losses


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_every_recipe_goes_on_from_a_saved_state_exactly(recipe: str, tmp_path: Path) -> None:
    sizes = shape(4, 4 if recipe in ("semi_supervised", "distill") else 0)
    config = settings(recipe)
    whole = learner(config)
    before = run(whole, 0, 2, sizes)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    expected = run(whole, 2, 4, sizes)
    assert all(np.isfinite([*before, *expected]))
    resumed = learner(config)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed.state.teachers = whole.state.teachers
    assert resumed.state.step == 2
    assert run(resumed, 2, 4, sizes) == pytest.approx(expected, rel=1e-5)
    for one, other in zip(whole.student.parameters(), resumed.student.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_it_learns_and_validates() -> None:
    made = learner(settings(optim={"lr": 0.01}))
    losses = run(made, 0, 20, shape(8))
    assert losses[-1] < 0.6 * losses[0]
    confusion = new_confusion(CLASSES)
    made.validated.eval()
    assert validate_block(made.validated, rows(6, 99), confusion, CPU, torch.float32, 4) == 6
    assert confusion.counts.sum() == 6 * (SIDE - 8) * SIDE  # what is ignored is not judged
    fresh, before = new_confusion(CLASSES), learner(settings())
    before.validated.eval()
    validate_block(before.validated, rows(6, 99), fresh, CPU, torch.float32, 4)
    assert confusion.mean_iou() > fresh.mean_iou() + 0.1


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    config = settings(optim={"accumulate": 2, "batch_images": 8, "clip_norm": 0}, losses={"supervised": {"dice": 0}})
    halves, whole = learner(config), learner(config)
    for made in (halves, whole):
        # Batch statistics do differ; everything else must not.
        made.student.eval()
        made.replica.train = lambda mode=True, made=made: made.replica  # type: ignore[method-assign]
    block = rows(8)
    block["weight"][:] = 255
    halves.step(list(train_batches(block, shape(4, accumulate=2), CPU)), 0.0)
    whole.step(list(train_batches(block, shape(8), CPU)), 0.0)
    for one, other in zip(halves.student.parameters(), whole.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_rates_frozen_parts_and_decay() -> None:
    frozen = learner(settings(optim={"backbone_lr_factor": 0.0}))
    before = [p.clone() for p in frozen.student.backbone_parameters()]
    run(frozen, 0, 2, shape())
    assert all((p == q).all() for p, q in zip(before, frozen.student.backbone_parameters(), strict=True))
    slow = learner(settings(optim={"backbone_lr_factor": 0.1, "weight_decay": 0.05}))
    rates = {(round(g["base_lr"], 6), g["weight_decay"]) for g in slow.optimizer.param_groups}
    assert rates == {(0.001, 0.05), (0.001, 0.0), (0.01, 0.05), (0.01, 0.0)}
    assert all(p.ndim > 1 for g in slow.optimizer.param_groups if g["weight_decay"] for p in g["params"])


def test_the_schedule_warms_up_and_ends() -> None:
    for schedule in ("poly", "cosine", "constant"):
        optim = OptimConfig(steps=100, warmup_steps=10, schedule=schedule)
        factors = [lr_factor(step, optim) for step in range(100)]
        assert factors[0] == pytest.approx(1 / 11) and max(factors) == pytest.approx(1.0)
        assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
        assert (factors[-1] == 1.0) if schedule == "constant" else (factors[-1] < 0.05)


def test_a_short_training_warms_up_for_a_tenth_of_its_steps() -> None:
    assert lr_factor(5, OptimConfig(steps=50, warmup_steps=50)) == pytest.approx(1.0)


def test_a_training_says_why_its_number_is_worth_little() -> None:
    from pipelines.training.finish import doubts

    summary = {"miou": 0.3, "validation_images": 4, "per_class_iou": {"sky": 0.9, "pole": 0.0, "absent": None}}
    few, never = doubts(summary)
    assert "only 4 images" in few and "validation: pole;" in never
    assert doubts({**summary, "validation_images": 100, "per_class_iou": {"sky": 0.9}}) == []


def test_an_output_belongs_to_one_training(tmp_path: Path) -> None:
    from pipelines.config import UsageError
    from pipelines.training.record import Record, save

    config = settings(output=str(tmp_path))
    assert open_output(config, str(tmp_path)) is None
    save(str(tmp_path), Record("r", learned(config), 3, "digest"))
    found = open_output(config, str(tmp_path))
    assert found is not None and found.snapshot == 3 and found.summary is None
    assert open_output(config.model_copy(update={"workers": 4}), str(tmp_path)) == found
    other = settings(output=str(tmp_path), seed=5)
    with pytest.raises(UsageError, match="seed was 0, is 5"):
        open_output(other, str(tmp_path))
    with pytest.raises(UsageError, match="snapshot was 3, is 2"):
        open_output(config.model_copy(update={"snapshot": 2}), str(tmp_path))
    assert open_output(other.model_copy(update={"restart": True}), str(tmp_path)) is None
    assert not list(tmp_path.iterdir())


def test_a_restart_that_is_killed_leaves_no_finished_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.training import record

    config = settings(output=str(tmp_path))
    record.save(str(tmp_path), record.Record("r", learned(config), None, "digest"))
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    remove, most = record.remove, 1
    while (tmp_path / "training.json").exists():
        left = iter(range(most))

        def killed_after(address: str, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            remove(address)

        monkeypatch.setattr(record, "remove", killed_after)
        with contextlib.suppress(KeyboardInterrupt):
            open_output(config.model_copy(update={"restart": True}), str(tmp_path))
        found = open_output(config, str(tmp_path))
        assert found is None or found.summary is None
        # Checkpoints without a record would be taken up by a training with other settings.
        assert found is not None or not (tmp_path / "checkpoints").exists()
        most += 1


def worker(patience: int, steps: int = 20) -> Any:
    from pipelines.training.worker import Worker, WorkerSettings

    config = settings(early_stopping={"patience": patience, "min_gain": 0.01}, optim={"steps": steps})
    # Of rank 1, which tells nobody anything.
    told = WorkerSettings(config, shape(), CLASSES, None, 10, 1, None)  # type: ignore[arg-type]
    return Worker(told, learner(config), 1)


def scored(share: float) -> Any:
    confusion = new_confusion(CLASSES)
    confusion.counts[0, 0], confusion.counts[0, 1] = round(1000 * share), round(1000 * (1 - share))
    return confusion


def test_it_stops_when_nothing_is_gained_any_more_and_remembers_the_best(tmp_path: Path) -> None:
    made = worker(patience=2)
    for step, share in enumerate((0.3, 0.5, 0.505, 0.4)):
        made.learner.state.step = step
        made._judge(scored(share))
    assert made.stopped and made.done  # neither was a gain of 0.01
    assert made.best.miou == pytest.approx(0.505) and made.best.step == 2
    torch.save(made.state(), tmp_path / "state.pt")
    again = worker(patience=2)
    again.restore(tmp_path)
    assert again.stopped and again.step == 3
    assert (again.best.confusion == made.best.confusion).all()
    assert made.best.weights.keys() == again.learner.validated.state_dict().keys()
    endless = worker(patience=0)
    for share in (0.5, 0.1, 0.1, 0.1):
        endless._judge(scored(share))
    assert not endless.stopped
