"""Predictions: the map at the picture's own size, batches of any shapes, windows, folders with broken files."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models.students.build import build_student
from models.students.card import StudentCard, save_student, student_digest
from models.students.config import PredictConfig, StudentConfig
from models.students.masks import mask_name, mask_png, palette
from models.students.predict import Predictor, enlarge_max
from models.students.student import Student
from pipelines import predict as job
from tests.conftest import ROOT

CLASSES = (
    {"id": 0, "name": "background"},
    {"id": 9, "name": "red", "color": "#ff8000"},
    {"id": 4, "name": "blue"},
)


class Levels(nn.Module):
    """A backbone that only averages: what a student then says of a pixel can be told from its colour."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(x, stride) for stride in (4, 8, 16, 32)]


class Finest(nn.Module):
    def forward(self, levels: list[Tensor]) -> Tensor:
        return levels[0]


def colour_student() -> Student:
    """Says red (channel 1) or blue (channel 2) where that colour prevails, background where neither does."""
    model = Student(Levels(), Finest(), 3, 3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[0.0, 0, 0], [8, 0, -8], [-8, 0, 8]])[:, :, None, None])
        model.classifier.bias.copy_(torch.tensor([4.0, 0, 0]))  # type: ignore[union-attr]
    return model.eval()


def predictor(size_px: int = 64, ids: tuple[int, int, int] = (0, 9, 4), **options: object) -> Predictor:
    entries = tuple({**entry, "id": i} for entry, i in zip(CLASSES, ids, strict=True))
    config = PredictConfig(**options)  # type: ignore[arg-type]
    return Predictor(colour_student(), StudentCard(StudentConfig(), entries, True, size_px), "cpu", config)


def flag(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Red on the left, blue on the right, a grey bar across the middle of both."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = picture[:, width // 2 :, 2] = 255
    picture[height * 3 // 8 : height * 5 // 8] = 128
    return picture


def truth(height: int, width: int) -> npt.NDArray[np.int64]:
    ids = np.where(np.arange(width) < width // 2, 9, 4)[None].repeat(height, 0)
    ids[height * 3 // 8 : height * 5 // 8] = 0
    return ids


@pytest.mark.parametrize("shape", [(64, 64), (120, 333), (400, 90), (48, 64), (7, 5)])
def test_the_map_has_the_pictures_own_size_and_class_ids(shape: tuple[int, int]) -> None:
    found = predictor()(flag(*shape))
    assert found.class_map.shape == found.confidence.shape == shape
    assert found.class_map.dtype == np.uint8 and found.confidence.dtype == np.float32
    assert found.confidence.min() >= 1 / 3 and found.confidence.max() <= 1
    if min(shape) > 40:
        assert (found.class_map == truth(*shape)).mean() > 0.85
        assert found.confidence[:3, :3].min() > 0.9


def test_large_ids_need_16_bits() -> None:
    found = predictor(ids=(0, 300, 65534))(flag(40, 40))
    assert found.class_map.dtype == np.uint16
    assert set(np.unique(found.class_map)) == {0, 300, 65534}


def test_pictures_of_many_shapes_come_back_in_order_as_if_alone() -> None:
    run = predictor(batch_images=2)
    pictures = [flag(*shape) for shape in ((64, 40), (50, 64), (64, 40), (33, 64), (64, 38), (64, 64))]
    for alone, among in zip(map(run, pictures), run.predict(pictures), strict=True):
        assert np.array_equal(alone.class_map, among.class_map)
        assert np.allclose(alone.confidence, among.confidence, atol=1e-6)


def test_probabilities_are_those_of_the_quarter_grid() -> None:
    wide, tall = predictor().probabilities([flag(30, 60), flag(64, 42)])
    assert wide.shape == (3, 8, 16) and tall.shape == (3, 16, 11)
    assert np.allclose(wide.sum(0), 1, atol=1e-6)
    assert wide.argmax(0)[0, 0] == 1 and wide.argmax(0)[0, -1] == 2


def test_a_real_student_is_not_moved_by_padding_and_batches() -> None:
    torch.manual_seed(0)
    student = build_student(StudentConfig("ffnet-xs"), 3).eval()
    run = Predictor(student, StudentCard(StudentConfig("ffnet-xs"), CLASSES, True, 96), "cpu")
    picture = skimage.data.chelsea()[:200, :290]
    small = np.asarray(Image.fromarray(picture).resize((96, 66), Image.Resampling.BICUBIC))
    with torch.inference_mode():
        logits = student(torch.tensor(small).permute(2, 0, 1)[None] / 255)["logits"]
    probabilities = run.probabilities([skimage.data.astronaut(), picture, picture])
    assert np.allclose(logits.softmax(1)[0].numpy(), probabilities[1], atol=1e-5)
    assert np.allclose(probabilities[1], probabilities[2], atol=1e-6)


def test_flips_and_windows_agree_with_the_whole_picture_where_only_colour_counts() -> None:
    picture = flag(150, 201)
    whole = predictor(size_px=200).probabilities([picture])[0]
    for options in ({"flip": True}, {"window_px": 64}, {"window_px": 64, "window_overlap": 0.5, "flip": True}):
        again = predictor(size_px=200, **options).probabilities([picture])[0]
        assert again.shape == whole.shape
        assert np.allclose(again, whole, atol=1e-4)
    with pytest.raises(ValueError, match="window_px"):
        predictor(window_px=8)


def test_a_flip_averages_both_views() -> None:
    torch.manual_seed(0)
    student = build_student(StudentConfig("ffnet-xs"), 3).eval()
    card = StudentCard(StudentConfig("ffnet-xs"), CLASSES, True, 64)
    picture = skimage.data.astronaut()[100:228, 100:228]
    both, mirrored = (
        Predictor(student, card, "cpu", PredictConfig(flip=True)).probabilities([view])[0]
        for view in (picture, picture[:, ::-1])
    )
    one = Predictor(student, card, "cpu").probabilities([picture])[0]
    assert np.allclose(both, mirrored[:, :, ::-1], atol=1e-5)
    assert not np.allclose(both, one, atol=1e-5)


def test_enlarging_is_bilinear_interpolation() -> None:
    grid = torch.randn(4, 9, 13).add(torch.tensor([2.0, -9, 1, 2])[:, None, None]).softmax(0)  # channel 1 is absent
    confidence, channel = enlarge_max(grid, (36, 52), (100, 141))
    wanted = F.interpolate(grid[None], size=(100, 141), mode="bilinear", align_corners=False)[0].max(0)
    assert torch.allclose(confidence, wanted.values, atol=1e-5)
    assert (channel == wanted.indices).float().mean() > 0.999
    assert channel.unique().tolist() == [0, 2, 3]
    # cells that the picture covers in part do not move the others
    ramp = torch.arange(5.0).mul(4).add(2)[None, None].expand(1, 5, 5)
    values = enlarge_max(ramp, (18, 18), (18, 18))[0][0]
    assert torch.allclose(values, (torch.arange(18.0) + 0.5).clamp(2, 18))


def test_a_large_picture_is_enlarged_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = torch.randn(3, 16, 16).softmax(0)
    whole = enlarge_max(grid, (64, 64), (300, 200))
    monkeypatch.setattr("models.students.predict.STRIP_VALUES", 3 * 200 * 7)
    strips = enlarge_max(grid, (64, 64), (300, 200))
    assert torch.equal(whole[0], strips[0]) and torch.equal(whole[1], strips[1])


def test_what_is_no_picture_is_named() -> None:
    for wrong in (flag(8, 8)[:, :, 0], flag(8, 8).astype(np.float32), flag(8, 0)):
        with pytest.raises(ValueError, match="uint8"):
            predictor()(wrong)


def test_a_stream_gives_every_picture_once_and_holds_few() -> None:
    run = predictor(batch_images=2)
    given, most = 0, 0

    def pictures():  # type: ignore[no-untyped-def]
        nonlocal given
        for i in range(60):
            given += 1
            yield i, flag(64 - 3 * (i % 20), 64), (10, 20)

    keys = []
    for key, found in run.stream(pictures()):
        keys.append(key)
        most = max(most, given - len(keys))
        assert found.class_map.shape == (10, 20)
    assert sorted(keys) == list(range(60))
    assert most <= 8 * 2 + 2


def test_masks_are_coloured_by_the_card() -> None:
    run = predictor()
    found = run(flag(40, 40)).class_map
    image = Image.open(io.BytesIO(mask_png(found, palette(run.card))))
    assert image.mode == "P" and np.array_equal(np.asarray(image), found)
    rgb = np.asarray(image.convert("RGB"))
    assert set(map(tuple, rgb[found == 9])) == {(255, 128, 0)}  # its own colour
    assert set(map(tuple, rgb[found == 4])) == {(0, 0, 128)}  # that of id 4 in the VOC colour map
    wide = mask_png(found.astype(np.uint16) + 1000, palette(run.card))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(wide))), found.astype(np.int64) + 1000)


def test_mask_names_mirror_the_images_and_stay_below_the_folder() -> None:
    taken: set[str] = set()
    names = [
        mask_name(name, taken) for name in ("a/b.jpg", "a/b.png", "b", "../../etc/x.jpg", "/c.jpg", "s3://d/e.jpg")
    ]
    assert names == ["a/b.png", "a/b.png.png", "b.png", "etc/x.png", "c.png", "s3/d/e.png"]
    assert [mask_name(f"x.parquet#row={i}", taken) for i in (1, 2)] == ["x.parquet#row=1.png", "x.parquet#row=2.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Real photographs, one below another folder, one torn, one turned by EXIF, one that is text, and a README."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(skimage.data.chelsea()).save(folder / "deep" / "cat.jpg")
    Image.fromarray(skimage.data.astronaut()[:, :300]).save(folder / "astronaut.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(skimage.data.coffee()).save(folder / "turned.jpg", exif=exif)
    (folder / "torn.jpg").write_bytes((folder / "deep" / "cat.jpg").read_bytes()[:4000])
    (folder / "text.jpg").write_text("not a photograph")
    (folder / "README.md").write_text("photographs")
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = StudentConfig("ffnet-xs")
    save_student(tmp_path / "student", build_student(config, 3), StudentCard(config, CLASSES, True, 96))
    return tmp_path / "student"


SIZES = {"deep/cat.png": (300, 451), "astronaut.png": (512, 300), "turned.png": (600, 400)}


def check_masks(folder: Path) -> None:
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.png")}
    assert set(found) == set(SIZES)
    for name, file in found.items():
        mask = np.asarray(Image.open(file))
        assert mask.shape == SIZES[name]
        assert set(np.unique(mask)) <= {0, 9, 4}


def test_a_folder_in_three_lines(photos: Path, trained: Path, tmp_path: Path) -> None:
    run = Predictor.load(trained, "cpu")
    result = run.predict_folder(photos, tmp_path / "masks")
    check_masks(tmp_path / "masks")
    assert result.masks == 3
    assert sorted(name for name, _ in result.broken) == ["text.jpg", "torn.jpg"]
    assert all(reason for _, reason in result.broken)
    with pytest.raises(FileNotFoundError):
        run.predict_folder(tmp_path / "nowhere", tmp_path / "masks")


def test_the_job_writes_masks_and_lists_what_is_broken(
    photos: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    arguments = ["--model", str(trained), "--images", str(photos), "--output", str(out), "--device", "cpu"]
    assert job.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_masks(out)
    assert (summary["images"], summary["masks"], summary["broken"]) == (5, 3, 2)
    assert summary["student_digest"] == student_digest(trained)
    broken = {row["image"]: row for row in map(json.loads, (out / "broken.jsonl").read_text().splitlines())}
    assert broken["torn.jpg"]["error"] == "truncated" and broken["text.jpg"]["error"] == "not_an_image"
    # the same masks as in three lines, but for the size at which a JPEG is decoded
    Predictor.load(trained, "cpu").predict_folder(photos, tmp_path / "again")
    one, two = (np.asarray(Image.open(folder / "astronaut.png")) for folder in (out, tmp_path / "again"))
    assert np.array_equal(one, two)

    for name in ("torn.jpg", "text.jpg"):
        (photos / name).unlink()
    assert job.main([*arguments, "--predict.flip", "--predict.size_px", "128"]) == 0
    assert not (out / "broken.jsonl").exists()
    check_masks(out)


def test_the_job_refuses_what_it_cannot_use(photos: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"--model": str(trained), "--images": str(photos), "--output": str(photos.parent / "out")}
    for flag_name, value, reason in (
        ("--model", str(photos), "card.json"),
        ("--model", "nowhere", "nowhere"),
        ("--images", "nowhere", "nowhere"),
    ):
        pairs = {**good, flag_name: value}
        assert job.main([part for pair in pairs.items() for part in pair]) == 2
        assert reason in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


def test_the_command_runs_from_anywhere(photos: Path, trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "predict.py"), "--model", "student"]
    command += ["--images", "photos/deep/cat.jpg", "--output", "masks", "--threads", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["masks"] == 1
    assert (tmp_path / "masks" / "cat.png").is_file()
