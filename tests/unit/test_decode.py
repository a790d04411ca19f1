"""Every kind of image file that people have: read if it can be read, refused with its reason if not."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.stages.decode import BadImage, decode

LIMIT = 10_000_000


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """A red left half and a blue right half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 200
    return pixels


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def halves(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = pixels.shape[1]
    return pixels[:, : width // 4].mean((0, 1)), pixels[:, -width // 4 :].mean((0, 1))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "empty_file"),
        (b"hello, this is a text file", "not_an_image"),
        (encoded(Image.fromarray(picture(400, 400)), "JPEG")[:900], "truncated"),
        (encoded(Image.fromarray(picture(400, 400)), "PNG")[:400], "truncated"),
        (encoded(Image.fromarray(picture(4000, 4000)), "PNG"), "too_many_pixels"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_kind(data: bytes, error: str) -> None:
    with pytest.raises(BadImage) as refused:
        decode(data, 512, LIMIT)
    assert refused.value.error == error
    assert len(str(refused.value)) > 15


def test_a_bomb_is_refused_by_its_header_and_the_message_names_the_setting() -> None:
    with pytest.raises(BadImage, match=r"images\.max_pixels = 1,000"):
        decode(encoded(Image.fromarray(picture()), "PNG"), 512, 1000)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "RGBA", "L", "LA", "1"])
def test_colour_modes_come_out_as_rgb(mode: str) -> None:
    image = Image.fromarray(picture()).convert("RGBA" if mode == "LA" else "RGB").convert(mode)
    found = decode(encoded(image, "TIFF" if mode in ("CMYK",) else "PNG"), 512, LIMIT)
    assert found.pixels.shape == (40, 60, 3)
    assert found.pixels.dtype == np.uint8
    if mode in ("RGB", "CMYK", "RGBA"):
        left, right = halves(found.pixels)
        assert left[0] > 150 > left[2]
        assert right[2] > 150 > right[0]


def test_16_bit_keeps_its_brightness_whatever_bits_it_uses() -> None:
    for top in (4095, 65535):
        grey = np.linspace(0, top, 60).astype(np.uint16)[None].repeat(40, 0)
        found = decode(encoded(Image.fromarray(grey), "PNG"), 512, 10_000).pixels
        assert found[:, 0].max() < 10
        assert found[:, -1].min() > 245


def test_transparency_is_laid_on_white() -> None:
    clear = np.zeros((10, 10, 4), np.uint8)
    assert decode(encoded(Image.fromarray(clear), "PNG"), 512, LIMIT).pixels.min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_picture_and_size_upright(orientation: int) -> None:
    upright = Image.fromarray(picture())
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("JPEG", "PNG"):
        found = decode(encoded(stored, format, exif=exif), 30, LIMIT)
        assert (found.height, found.width) == (40, 60)
        assert found.pixels.shape == (20, 30, 3)
        left, right = halves(found.pixels)
        assert left[0] > 150
        assert right[2] > 150


def test_only_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, 512, LIMIT).pixels[0, 0].tolist()[0] > 200


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
def test_one_pixel_wide_images_are_images(size: tuple[int, int]) -> None:
    found = decode(encoded(Image.new("RGB", size, "red"), "PNG"), 20, LIMIT)
    assert (found.width, found.height) == size
    assert found.pixels.shape[2] == 3 and 0 not in found.pixels.shape


def test_large_pictures_are_reduced_on_read_but_keep_their_size_and_tiled_ones_stay_whole() -> None:
    data = encoded(Image.fromarray(picture(800, 1200)), "JPEG")
    small = decode(data, 300, LIMIT)
    assert small.pixels.shape == (200, 300, 3)
    assert (small.height, small.width) == (800, 1200)
    assert decode(data, 300, LIMIT, full_size_above_px=1000).pixels.shape == (800, 1200, 3)


def test_a_damaged_exif_block_does_not_cost_the_photograph() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(picture()), "JPEG", exif=exif)
    place = data.index(b"Exif") + 14
    for at in range(place, place + 16):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        found = decode(bytes(broken), 512, LIMIT)
        assert {found.height, found.width} == {40, 60}
