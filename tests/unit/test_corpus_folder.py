"""Folders as people have them: odd names, wrong extensions, links in circles, places that may not be read."""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import corpora
import fsspec
import pytest
from corpora import assets

from pipelines.corpus.base import Corpus
from pipelines.corpus.read import read_bytes

ROOT = Path(__file__).resolve().parents[2]


def names(corpus) -> list[str]:
    return [asset.asset for asset in assets(corpus)]


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_names_of_any_kind_are_listed_in_order_and_read(place: str, tmp_path: Path) -> None:
    files = {
        "a b/ü ñ 猫.jpg": b"1", "a::b.png": b"2", "new\nline.jpg": b"3", "no_extension": b"4", "x#row=1.jpg": b"5",
        "x%20y.jpg": b"6", "deep/er/still/x.TIFF": b"7", "[0]*?.jpg": b"8", "empty.jpg": b"", "wrong.gif.PNG": b"9",
    }  # fmt: skip
    if place == "memory":
        del files["a::b.png"]  # fsspec's own memory file system does not take it; S3 does
    root = corpora.write(tmp_path / "in" if place == "disk" else "memory://odd names", files)
    listed = assets(root)
    assert {a.asset: read_bytes(a.uri) for a in listed} == files
    assert {a.asset: a.size_bytes for a in listed} == {name: len(data) for name, data in files.items()}
    assert all(a.mtag for a in listed)
    assert listed == assets(root)


def test_sidecars_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    files = ["a.jpg", "notes.txt", "a.json", "labels.jsonl", "x.yaml", "t.csv", "README", "README.md", "b.xml", "c.py",
             ".hidden.jpg", ".git/x.jpg", "Thumbs.db", "movie.mp4", "d.weird", "sub/.DS_Store", "sub/jpg"]  # fmt: skip
    corpora.write(tmp_path, dict.fromkeys(files, b"x"))
    assert names(tmp_path) == ["a.jpg", "d.weird", "sub/jpg"]


def test_a_single_image_is_a_corpus(tmp_path: Path) -> None:
    corpora.write(tmp_path, {"one.jpg": b"x"})
    (asset,) = assets(tmp_path / "one.jpg")
    assert (asset.asset, read_bytes(asset.uri), asset.size_bytes) == ("one.jpg", b"x", 1)


def test_a_relative_path_and_a_file_url_are_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora.write(tmp_path, {"in/a b.jpg": b"x"})
    monkeypatch.chdir(tmp_path)
    assert assets("in") == assets("./in/") == assets(f"file://{tmp_path}/in") == assets(tmp_path / "in")
    assert assets("in")[0].uri == str(tmp_path / "in/a b.jpg")


def test_a_change_changes_the_tag(tmp_path: Path) -> None:
    corpora.write(tmp_path, {"a.jpg": b"x"})
    (before,) = assets(tmp_path)
    os.utime(tmp_path / "a.jpg", ns=(1, before_ns := 123456789))
    (after,) = assets(tmp_path)
    assert before.mtag != after.mtag == str(before_ns)


def test_remote_listings_are_fresh(tmp_path: Path) -> None:
    corpora.write("memory://fresh", {"a.jpg": b"x"})
    assert names("memory://fresh") == ["a.jpg"]
    corpora.write("memory://fresh", {"b.jpg": b"x"})
    assert names("memory://fresh") == ["a.jpg", "b.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    corpora.write(tmp_path, {"in/a/1.jpg": b"1", "elsewhere/2.jpg": b"2"})
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in/other")
    (tmp_path / "in/self.jpg").symlink_to(tmp_path / "in/self.jpg")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = names(tmp_path / "in")
    assert found == ["a/1.jpg", "gone.jpg", "other/2.jpg", "self.jpg"]
    listed = {a.asset: a for a in assets(tmp_path / "in")}
    with pytest.raises(FileNotFoundError):
        read_bytes(listed["gone.jpg"].uri)
    with pytest.raises(OSError, match="symbolic links"):
        read_bytes(listed["self.jpg"].uri)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    corpora.write(tmp_path, {"a.jpg": b"x"})
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == ["a.jpg"]


def test_a_name_that_is_not_unicode_is_listed_and_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9 %.jpg"
    try:
        Path(os.fsdecode(path)).write_bytes(b"x")
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error}")
    (asset,) = assets(tmp_path)
    assert asset.asset == "caf\\xe9 %.jpg" and asset.uri.encode()
    assert read_bytes(asset.uri) == b"x"


def test_a_folder_that_may_not_be_listed_becomes_an_asset_whose_reading_says_why() -> None:
    if os.getuid() != 0 and not hasattr(os, "setuid"):
        pytest.skip("needs another user")
    script = """
import os, sys
from types import SimpleNamespace as N
from pipelines.corpus.open import open_corpus
from pipelines.corpus.read import read_bytes
if os.getuid() == 0:
    os.setuid(65534)
images = N(column=None, root=None)
for a in open_corpus(N(corpus=sys.argv[1], split=None, weak=None, weak_file=None, images=images)).list():
    try:
        print(a.asset, len(read_bytes(a.uri)))
    except OSError as error:
        print(a.asset, type(error).__name__)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        corpora.write(folder, {"a.jpg": b"x", "locked/b.jpg": b"x", "secret.jpg": b"x"})
        (Path(folder) / "locked").chmod(0)
        (Path(folder) / "secret.jpg").chmod(0)
        run = subprocess.run(
            [sys.executable, "-c", script, folder], cwd=ROOT, capture_output=True, text=True, check=True
        )
        (Path(folder) / "locked").chmod(0o755)
    assert run.stdout.splitlines() == ["a.jpg 1", "locked/ PermissionError", "secret.jpg PermissionError"]


def test_listing_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora.write(tmp_path, {f"{folder:02}/{n}.jpg": b"x" for folder in range(20) for n in range(5)})
    corpus: Corpus = corpora.opened(f"folder:{tmp_path}")
    scanned = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (scanned.append(path), scan(path))[1])
    assert len(list(itertools.islice(corpus.list(), 7))) == 7
    assert len(scanned) <= 3  # the root and the folders of the first seven


def test_an_archive_is_a_corpus(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("photos/a.jpg", b"1")
        archive.writestr("photos/sub/b.jpg", b"22")
    listed = assets(f"folder:zip://photos::file://{tmp_path}/x.zip")
    assert [(a.asset, read_bytes(a.uri)) for a in listed] == [("a.jpg", b"1"), ("sub/b.jpg", b"22")]


def test_missing_bytes_and_folders_of_a_store_raise_what_the_caller_can_name() -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes("memory://nowhere/x.jpg")
    with pytest.raises(FileNotFoundError):
        read_bytes("/nowhere/x.jpg")
    with pytest.raises(IsADirectoryError):
        read_bytes(str(ROOT))
    assert read_bytes("data:image/png;base64,aGk=") == b"hi"
    fsspec.filesystem("memory").pipe_file("memory://a::b", b"x")
    assert read_bytes("memory://a::b") == b"x"
