"""Labels as text: every map comes back as it was, whatever its classes are called, and wrong lengths are told."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from models.codecs.rrle import decode_runs, decode_text, encode_runs, encode_text, run_count
from models.refine.grids import resize_nearest

NAMES = {0: "background", 1: "cat", 2: "a *b|c", 3: " tail\\void \n*2| \r"}


def test_the_text_is_what_a_person_would_write() -> None:
    ids = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    assert encode_text(ids, NAMES) == "background *3| cat *1\ncat *2| \\void *2"


@settings(deadline=None, max_examples=60)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_every_map_comes_back(ids: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_text(encode_text(ids, NAMES), NAMES, ids.shape), ids)
    np.testing.assert_array_equal(decode_runs(encode_runs(ids), ids.shape), ids)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=3, max_size=3, unique=True))
def test_whatever_classes_are_called(names: list[str]) -> None:
    ids = np.array([[0, 1, 1, 2], [2, 255, 0, 0]])
    assert (decode_text(encode_text(ids, dict(enumerate(names))), dict(enumerate(names)), ids.shape) == ids).all()


def test_a_name_that_is_all_separators_round_trips() -> None:
    names = {0: "a *b|c", 1: "a", 2: "b|c *2", 3: "\\void", 4: "| "}
    ids = np.array([[0, 1, 2, 3, 4, 255]])
    np.testing.assert_array_equal(decode_text(encode_text(ids, names), names, (1, 6)), ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat *3", "3 pixels long, not 4"),
        ("cat *5", "5 pixels long, not 4"),
        ("cat *4\ncat *4", "2 rows, not 1"),
        ("cat *2| dog *2", "no class 'dog'"),
        ("cat", "no `name"),
        ("cat *2| ", "no `name"),
        ("cat *4\n", "no `name"),
        ("cat *0| cat *4", "no `name"),
        ("", "no `name"),
    ],
)
def test_what_is_not_a_label_of_this_size_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_text(text, NAMES, (1, 4))


def test_runs_of_a_wrong_length_are_refused() -> None:
    runs = encode_runs(np.array([[1, 1, 2], [0, 0, 0]]))
    for bad in (runs[:-1], runs[:5], np.append(runs, [1, 0, 3]), np.where(runs == 3, 2, runs)):
        with pytest.raises(ValueError, match="row"):
            decode_runs(bad.astype(np.int32), (2, 3))


def test_maps_that_cannot_be_written_are_told() -> None:
    with pytest.raises(ValueError, match=r"\[9\] have no name"):
        encode_text(np.array([[9, 0]]), NAMES)
    with pytest.raises(ValueError, match="same name"):
        encode_text(np.array([[0]]), {0: "a", 1: "a"})
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="shape"):
            encode_text(np.zeros(shape, int), NAMES)


def test_descriptors_of_real_maps_are_a_quarter_as_long(data: Path) -> None:
    """CamVid val, 16 by 16: label entries fall to 0.27 (the paper says by 74 %); whole maps come back exactly."""
    paths = sorted((data / "camvid" / "valannot").iterdir())
    maps = [np.asarray(Image.open(path)) for path in paths]
    names = {int(i): f"class {i}" for i in range(255)}
    entries = [run_count(resize_nearest(ids, (16, 16))) for ids in maps]
    assert np.mean(entries) / 256 == pytest.approx(0.27, abs=0.02)
    text = encode_text(maps[0], names, grid=16)
    assert sum(line.count("| ") + 1 for line in text.split("\n")) == entries[0]
    np.testing.assert_array_equal(decode_text(text, names, (16, 16)), resize_nearest(maps[0], (16, 16)))
    for ids in maps[:3]:
        np.testing.assert_array_equal(decode_text(encode_text(ids, names), names, ids.shape), ids)
        np.testing.assert_array_equal(decode_runs(encode_runs(ids), ids.shape), ids)
