"""A folder as people have them: everything readable is labeled, everything else is listed with its reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from jobs import Job, label_rows, write_crops
from pictures import photographs
from PIL import Image

from pipelines.stages.decide import read_png
from pipelines.tables.evidence import EvidenceStore
from pipelines.tables.quarantine import QuarantineTable

ORDINARY = 160
# Registers a format whose decoder ends the process, as a broken native library would.
KILLER = """
import os
from PIL import Image, ImageFile

class Killer(ImageFile.ImageFile):
    format = "KILLER"
    def _open(self):
        self._size, self._mode = (8, 8), "RGB"
    def load(self):
        os._exit(1)

Image.register_open("KILLER", Killer, lambda head: head.startswith(b"KILLER"))
"""


def zero_size_png() -> bytes:
    header = struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 12


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write_bad(folder: Path) -> dict[str, str]:
    """Write what cannot be labeled; returns name to the kind of error."""
    whole = jpeg(Image.fromarray(photographs()[0]))
    bad: dict[str, tuple[str, bytes]] = {}
    for n in range(4):
        bad[f"empty-{n}.jpg"] = ("empty_file", b"")
        bad[f"truncated-{n}.jpg"] = ("truncated", whole[: 2000 + 500 * n])
        bad[f"text-{n}.jpg"] = ("not_an_image", b"this is not an image, number " + str(n).encode())
    bad["zero.png"] = ("zero_size", zero_size_png())
    bad["killer.jpg"] = ("kills_its_process", b"KILLER")
    for n in range(2):
        buffer = io.BytesIO()
        Image.new("1", (9000, 9000 + n)).save(buffer, "PNG")
        bad[f"bomb-{n}.png"] = ("too_many_pixels", buffer.getvalue())
    for name, (_, data) in bad.items():
        (folder / name).write_bytes(data)
    (folder / "vanished.jpg").symlink_to(folder / "nowhere.jpg")
    return {name: error for name, (error, _) in bad.items()} | {"vanished.jpg": "vanished"}


def write_odd(folder: Path) -> None:
    """Write what is unusual and must be labeled all the same: 23 files."""
    photos = [Image.fromarray(pixels).resize((80, 60)) for pixels in photographs()]
    for n in range(2):
        photos[n].save(folder / f"png-named-{n}.jpg", "PNG")
        Image.fromarray(np.asarray(photos[n].convert("L")).astype(np.uint16) * 257).save(folder / f"deep-{n}.png")
        photos[n].convert("CMYK").save(folder / f"cmyk-{n}.jpg")
        photos[n].convert("P").save(folder / f"palette-{n}.png")
        photos[n].convert("RGBA").save(folder / f"alpha-{n}.png")
        photos[n].convert("L").save(folder / f"grey-{n}.jpg")
        photos[n].crop((n, 0, n + 1, 60)).save(folder / f"one-wide-{n}.png")
        photos[n].save(folder / f"animated-{n}.gif", save_all=True, append_images=photos[2:4])
        exif = Image.Exif()
        exif[0x0112] = 6
        photos[n].save(folder / f"rotated-{n}.jpg", exif=exif)
        (folder / f"no-extension-{n}").write_bytes(jpeg(photos[n + 2]))
    photos[4].save(folder / "ünï cödé & 'quotes' #1.webp")
    for name in ("same-a.jpg", "same-b.jpg"):
        (folder / name).write_bytes(jpeg(photos[5]))


def test_exactly_the_bad_ones_are_quarantined_and_all_others_labeled(job: Job, tmp_path: Path) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_crops(corpus / "deep" / "folder", ORDINARY)
    expected = write_bad(corpus)
    write_odd(corpus)
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "sitecustomize.py").write_text(KILLER)
    total = len([path for path in corpus.rglob("*") if not path.is_dir()])
    assert total >= 200

    arguments = ("--corpus", corpus, "--classes", "cat, person", "--output", output, "--images.max_pixels", 50_000_000)
    done = job(*arguments, PYTHONPATH=str(plugin))
    assert done.code == 0, done.err[-3000:]
    assert done.result["images"] == total
    assert done.result["quarantined"] == len(expected)
    assert done.result["labeled"] == total - len(expected)

    rows = QuarantineTable(str(output / "quarantine")).rows()
    assert {row["asset"]: row["error"] for row in rows} == expected
    assert all(len(str(row["reason"])) > 15 for row in rows)

    labels = label_rows(output)
    assert set(labels) == {str(p.relative_to(corpus)) for p in corpus.rglob("*") if not p.is_dir()} - set(expected)
    rotated = labels["rotated-0.jpg"]
    assert (rotated["height"], rotated["width"]) == (80, 60)
    for row in labels.values():
        assert read_png(row["class_map"]).shape == (row["height"], row["width"])
        assert 0 <= row["coverage"] <= 1

    # The same bytes under two addresses: observed once, two labels.
    assert done.result["observed"] == total - len(expected) - 1
    same = [labels["same-a.jpg"], labels["same-b.jpg"]]
    assert same[0]["evidence_key"] == same[1]["evidence_key"]
    assert same[0]["class_map"] == same[1]["class_map"]
    [folder] = (output / "evidence").iterdir()
    index = EvidenceStore(str(output / "evidence"), folder.name).index().to_pylist()
    assert len({row["evidence_key"] for row in index if row["shard"]}) == done.result["observed"]

    again = job(*arguments, PYTHONPATH=str(plugin))
    assert again.code == 0, again.err[-3000:]
    assert again.result["reused"] == total - len(expected)
    assert (again.result["observed"], again.result["labeled"], again.result["quarantined"]) == (0, 0, len(expected))
