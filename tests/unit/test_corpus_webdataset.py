"""WebDataset tars, and Parquet files that list addresses: what is listed, what is read, what is told."""

import io
import json
import tarfile
from pathlib import Path

import corpora
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import assets, opened

from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.corpus.base import CorpusError
from pipelines.corpus.read import read_bytes


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return list(corpora.photographs(6).values())


def tar(members: dict[str, bytes] | list[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_samples_are_members_of_one_name(photos: list[bytes], tmp_path: Path) -> None:
    said = {"caption": "a cat", "points": [{"x": 1, "y": 2, "class": "cat"}], "license": "CC0", "width": 9}
    members = {
        "a/0.jpg": photos[0], "a/0.json": json.dumps(said).encode(), "a/0.txt": b"two dogs\n",
        "a/1.cls": b"dog", "a/1.PNG": photos[1], "b/1.jpeg": photos[2], "b/1.cls": b"1",
        "c.txt": b"nothing to see", "d.jpg": photos[3], "d.json": b"{", "e.seg.png": photos[4],
        "long/" + "x" * 150 + ".jpg": photos[5],
    }  # fmt: skip
    corpus = opened(corpora.write(tmp_path, {"s.tar": tar(members)}) + "/s.tar")
    listed = list(corpus.list())
    names = ["a/0.jpg", "a/1.PNG", "b/1.jpeg", "d.jpg", "long/" + "x" * 150 + ".jpg"]
    assert [a.asset for a in listed] == [f"s.tar/{name}" for name in names]
    assert [read_bytes(a.uri) for a in listed] == [members[name] for name in names]
    assert [a.size_bytes for a in listed] == [len(members[name]) for name in names] and all(a.mtag for a in listed)
    assert listed[0].weak == {"captions": ["two dogs", "a cat"], "points": said["points"]}
    assert listed[0].tags == {"license": "CC0"}
    assert (listed[1].weak, listed[2].weak) == ({"tags": ["dog"]}, {"tags": [1]})
    assert "not JSON" in str(weak_labels.validate(listed[3].weak, ClassSet.load("cat"))[1][0])
    assert corpus.remarks() == (f"2 samples of {tmp_path}/s.tar hold no image",)
    clean, _ = weak_labels.validate(listed[0].weak, ClassSet.load("cat, dog"))
    assert [tag["class"] for tag in clean["tags"]] == ["cat", "dog"]


def test_shards_come_by_name_from_a_folder_a_glob_or_a_remote_place(photos: list[bytes], tmp_path: Path) -> None:
    shards = {f"{n:03}.tar": tar({f"{n}-{m}.jpg": photos[2 * n + m] for m in (0, 1)}) for n in (2, 0, 1)}
    local = corpora.write(tmp_path / "shards", shards)
    remote = corpora.write("memory://webdataset/shards", shards)
    for address in (local, f"wds:{local}", f"wds:{local}/0*.tar", f"wds:{remote}", f"wds:{remote}/00?.tar"):
        listed = assets(address)
        assert [read_bytes(a.uri) for a in listed] == photos, address
        assert [a.asset for a in listed][:2] == ["000.tar/0-0.jpg", "000.tar/0-1.jpg"], address
    assert len(assets(f"{local}/001.tar")) == 2


def test_a_tar_that_cannot_be_used_is_told(photos: list[bytes], tmp_path: Path) -> None:
    corpora.write(tmp_path, {"zipped.tar": tar({"a.jpg": photos[0]}, "w:gz"), "same.tar": tar({"a.jpg": photos[0]})})
    with pytest.raises(CorpusError, match="has to be unpacked"):
        assets(tmp_path / "zipped.tar")
    (tmp_path / "twice.tar").write_bytes(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    with pytest.raises(CorpusError, match=r"holds 'a\.jpg' twice"):
        assets(tmp_path / "twice.tar")
    (tmp_path / "cut.tar").write_bytes(tar({"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"}).replace(b"b.jpg", b"x.jpg"))
    with pytest.raises(CorpusError, match="damaged behind 'a'"):
        assets(tmp_path / "cut.tar")
    with pytest.raises(CorpusError, match=r"no \.tar file"):
        assets(f"wds:{tmp_path}/none*.tar")
    (row,) = assets(tmp_path / "same.tar")
    (tmp_path / "same.tar").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="shorter than when it was listed"):
        read_bytes(row.uri)


def test_listing_reads_no_image(tmp_path: Path) -> None:
    big = tar({f"{n}.jpg": bytes(3_000_000) for n in range(4)})
    fsspec.filesystem("memory").pipe_file("/webdataset/big.tar", big)
    listed = assets("wds:memory://webdataset/big.tar")
    assert [len(read_bytes(a.uri)) for a in listed] == [3_000_000] * 4


def test_parquet_lists_addresses(photos: list[bytes], tmp_path: Path) -> None:
    corpora.write(tmp_path / "images", {f"{n}.jpg": data for n, data in enumerate(photos)})
    fsspec.filesystem("memory").pipe_file("/elsewhere/x.jpg", photos[3])
    urls = ["images/0.jpg", f"{tmp_path}/images/1.jpg", "memory://elsewhere/x.jpg", None]
    columns = {"url": urls, "caption": ["a cat", None, "", "x"], "tags": [None, ["dog"], None, None]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    listed = assets(f"parquet:{tmp_path}/list.parquet", column="url")
    assert [a.asset for a in listed] == [f"list.parquet#row={n}" for n in range(4)]
    assert [read_bytes(a.uri) for a in listed[:3]] == [photos[0], photos[1], photos[3]]
    assert [a.size_bytes for a in listed] == [len(photos[0]), len(photos[1]), -1, -1] and all(a.mtag for a in listed)
    assert [a.tags for a in listed] == [*({"path": url} for url in urls[:3]), {}]
    assert [a.weak for a in listed[:3]] == [{"captions": "a cat"}, {"tags": ["dog"]}, {}]
    with pytest.raises(FileNotFoundError):
        read_bytes(listed[3].uri)
    rooted = assets(f"parquet:{tmp_path}/list.parquet", column="url", root=str(tmp_path / "other"))
    assert rooted[0].uri == f"{tmp_path}/other/images/0.jpg"
    with pytest.raises(CorpusError, match=r"--images\.column"):
        assets(tmp_path / "list.parquet")


def test_coco_captions_are_weak_labels_where_they_are_asked_for(photos: list[bytes], tmp_path: Path) -> None:
    named = {"0.jpg": photos[0], "1.jpg": photos[1]}
    corpora.write(tmp_path, named)
    path = corpora.coco(tmp_path / "captions.json", named, [{"image_id": 0, "caption": "a dog"}])
    assert [a.weak.get("captions") for a in assets(path, weak=("captions",))] == [["a dog"], None]
    assert [a.weak for a in assets(path)] == [{}, {}]
