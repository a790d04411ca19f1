"""Corpus readers: the same photographs through every layout, and what each layout brings along."""

import itertools
import json
from pathlib import Path

import corpora
import numpy as np
import pytest
from corpora import assets, opened

from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.corpus.base import CorpusError
from pipelines.corpus.open import split_prefix
from pipelines.corpus.read import read_bytes


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    return corpora.photographs()


def contents(listed) -> list[bytes]:
    return [read_bytes(asset.uri) for asset in listed]


def test_every_layout_gives_the_same_bytes(photos, tmp_path: Path) -> None:
    folder = corpora.write(tmp_path / "photos", photos)
    lines = "\n".join(json.dumps({"path": f"photos/{name}"}) for name in photos)
    corpora.write(tmp_path, {"list.jsonl": lines.encode()})
    shards = list(photos.items())
    for part in (0, 1):
        corpora.parquet(tmp_path / f"shards/part-{part}.parquet", dict(shards[part * 10 : part * 10 + 10]))
    layouts = {
        "folder": assets(folder),
        "folder, remote": assets(corpora.write("memory://corpus/photos of mine", photos)),
        "one struct parquet": assets(corpora.parquet(tmp_path / "a.parquet", photos)),
        "one bytes parquet": assets(corpora.parquet(tmp_path / "b.parquet", photos, structs=False)),
        "parquet folder": assets(tmp_path / "shards"),
        "parquet glob": assets(f"parquet:{tmp_path}/shards/part-*.parquet"),
        "voc": assets(corpora.voc(tmp_path / "voc", photos, {}), split="all"),
        "voc, remote": assets("voc:" + corpora.voc("memory://voc", photos, {})),
        "coco": assets(corpora.coco(tmp_path / "instances.json", photos), root=folder),
        "jsonl": assets(tmp_path / "list.jsonl"),
        "jsonl with a root": assets(f"jsonl:{tmp_path}/list.jsonl", root=str(tmp_path)),
    }
    for layout, listed in layouts.items():
        assert contents(listed) == list(photos.values()), layout
        assert len({asset.asset for asset in listed}) == len(photos), layout
        assert [a.asset for a in listed] == sorted(a.asset for a in listed) or "parquet" in layout, layout


def test_parquet_rows_keep_their_path_and_weak_labels(photos, tmp_path: Path) -> None:
    five = dict(list(photos.items())[:5])
    weak = [json.dumps({"points": [{"x": 1, "y": 2, "class": "cat"}]}), "no json", None, "[]", '{"tags": ["dog"]}']
    path = corpora.parquet(tmp_path / "a.parquet", five, weak=weak, tags=[["cat"], None, [], None, ["cat"]])
    listed = assets(path)
    assert [a.asset for a in listed] == [f"a.parquet#row={n}" for n in range(5)]
    assert [a.tags for a in listed] == [{"path": name} for name in five]
    assert listed[0].weak == {"tags": ["cat"], "points": [{"x": 1, "y": 2, "class": "cat"}]}
    assert listed[4].weak == {"tags": ["dog"]}
    told = [str(p) for a in listed for p in weak_labels.validate(a.weak, ClassSet.load("cat,dog"))[1]]
    assert len(told) == 2 and "not JSON" in told[0] and "not a mapping" in told[1]
    assert all(a.size_bytes == -1 and a.mtag for a in listed)


def test_reading_a_parquet_cell_reads_its_row_group_once(photos, tmp_path: Path, monkeypatch) -> None:
    import pyarrow.parquet as pq

    listed = assets(corpora.parquet(tmp_path / "a.parquet", photos))
    groups = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **k: (groups.append(i), read(self, i, **k))[1]
    )
    assert contents(listed) == list(photos.values())
    assert groups == list(range(7))


def test_parquet_says_which_column_is_missing(photos, tmp_path: Path) -> None:
    path = corpora.parquet(tmp_path / "a.parquet", photos, other=[b"x"] * len(photos))
    with pytest.raises(CorpusError, match="no column 'img'; its columns: image, other"):
        assets(path, column="img")
    assert contents(assets(path, column="other"))[0] == b"x"
    assert contents(assets(path)) == list(photos.values())  # `image` wins among several
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(CorpusError, match="is not a Parquet file"):
        assets(tmp_path / "broken.parquet")


def test_a_missing_cell_is_a_vanished_image(tmp_path: Path) -> None:
    (row,) = assets(corpora.parquet(tmp_path / "a.parquet", {"x.jpg": b"1"}))
    with pytest.raises(FileNotFoundError):
        read_bytes(row.uri.replace("#row=0", "#row=7"))


def test_voc_splits_keep_their_order_and_a_missing_one_is_named(photos, tmp_path: Path) -> None:
    root = corpora.voc(tmp_path / "voc", photos, {})
    assert [a.asset for a in assets(f"voc:{root}", split="two")] == [
        "JPEGImages/photo 01.jpg",
        "JPEGImages/photo 00.jpg",
    ]
    with pytest.raises(CorpusError, match="no split 'al'; its splits: all, two"):
        opened(root, split="al")
    with pytest.raises(CorpusError, match="has no splits"):
        opened(f"folder:{root}", split="all")
    assert opened(root).default_classes() == ClassSet.load("voc")


def test_voc_lists_an_image_that_is_not_there_so_that_it_is_not_lost(photos, tmp_path: Path) -> None:
    root = corpora.voc(tmp_path / "voc", photos, {})
    (tmp_path / "voc/ImageSets/Segmentation/gone.txt").write_text("photo 00\nghost\n")
    listed = assets(root, split="gone")
    assert [a.asset for a in listed] == ["JPEGImages/photo 00.jpg", "JPEGImages/ghost.jpg"]
    with pytest.raises(FileNotFoundError):
        read_bytes(listed[1].uri)


VOC_XML = b"""<annotation><object><name>cat</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>40</xmax><ymax>40</ymax>
</bndbox></object><object><name>sofa</name></object></annotation>"""


def test_voc_makes_the_forms_asked_for_and_no_others(photos, tmp_path: Path) -> None:
    three = dict(list(photos.items())[:3])
    masks = {"photo 00.png": corpora.png(corpora.mask()), "photo 01.png": b"damaged"}
    root = corpora.voc(tmp_path / "voc", three, masks, {"photo 00.xml": VOC_XML, "photo 02.xml": VOC_XML})
    assert all(a.weak == {} for a in assets(root))
    tagged = assets(root, weak=("tags",))
    present = [{t["class"] for t in a.weak.get("tags", ()) if t["present"]} for a in tagged]
    assert present == [{"cat", "dog"}, set(), {"cat", "sofa"}]  # the mask, a damaged mask, the XML without a mask
    assert len(tagged[0].weak["tags"]) == 20
    (problem,) = weak_labels.validate(tagged[1].weak, ClassSet.load("voc"))[1]
    assert "photo 01.png cannot be read" in problem.reason
    boxed = assets(root, weak=("boxes",))
    assert boxed[0].weak["boxes"] == [{"box": [10.0, 10.0, 40.0, 40.0], "class": "cat"}]
    clean, problems = weak_labels.validate(tagged[2].weak, ClassSet.load("cat, unicorn"))
    assert problems == [] and clean["tags"] == [{"class": "cat", "present": True}]  # sofa was not asked for


def test_coco_brings_classes_and_weak_labels(photos, tmp_path: Path) -> None:
    two = dict(list(photos.items())[:2])
    square = {"image_id": 0, "category_id": 17, "bbox": [10, 20, 30, 20], "area": 600, "iscrowd": 0,
              "segmentation": [[10, 20, 40, 20, 40, 40, 10, 40]]}  # fmt: skip
    broken = {"image_id": 1, "category_id": 18, "bbox": [1, 1, 5, 5], "segmentation": {"nothing": 1}}
    path = corpora.coco(tmp_path / "annotations/instances_val.json", two, [square, broken])
    corpora.write(tmp_path / "val", two)  # where COCO's own download puts them
    classes = opened(path).default_classes()
    assert classes is not None and [(e.id, e.name) for e in classes.classes] == [(17, "cat"), (18, "dog")]
    assert [a.weak for a in assets(path)] == [{}, {}]
    first, second = assets(path, weak=("tags", "boxes", "partial"))
    assert first.tags == {"license": "1"}
    clean, problems = weak_labels.validate(first.weak, classes, (64, 96))
    assert problems == []
    assert clean["tags"] == [{"class": "cat", "present": True}, {"class": "dog", "present": False}]
    assert clean["boxes"] == [{"box": [10.0, 20.0, 40.0, 40.0], "class": "cat"}]
    partial = weak_labels.to_arrays(clean, classes, 64, 96).partial
    assert partial is not None and partial[30, 25] == 17 and partial[50, 25] == -1
    assert 500 <= (partial == 17).sum() <= 700
    assert "segmentation cannot be read" in second.weak["problems"][0]
    with pytest.raises(CorpusError, match=r"say where the images are with --images\.root"):
        opened(corpora.coco(tmp_path / "x/y/lonely.json", two))
    (tmp_path / "none.json").write_text('{"a": 1}')
    with pytest.raises(CorpusError, match="is not a COCO file"):
        opened(tmp_path / "none.json")


def test_a_manifest_carries_labels_tags_and_addresses_of_any_kind(photos, tmp_path: Path) -> None:
    names = list(photos)
    corpora.write(tmp_path / "m", {names[0]: photos[names[0]], "maps/0.png": corpora.png(corpora.mask())})
    corpora.write("memory://elsewhere", {names[1]: photos[names[1]]})
    lines = [
        {
            "path": names[0],
            "tags": ["cat"],
            "license": "CC0",
            "width": 96,
            "maps": [{"kind": "noisy", "uri": "maps/0.png"}],
        },
        {"uri": f"memory://elsewhere/{names[1]}", "weak": {"boxes": []}, "captions": ["a dog"]},
        {"path": names[0], "tags": ["cat"], "license": "CC0", "maps": [{"kind": "noisy", "uri": "maps/0.png"}]},
        {"path": "gone.jpg", "size_bytes": 7, "mtag": "v1"},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines)
    corpora.write(tmp_path / "m", {"list.jsonl": text.encode()})
    first, second, gone = assets(tmp_path / "m/list.jsonl")
    assert contents([first, second]) == [photos[n] for n in names[:2]]
    assert first.tags == {"license": "CC0"} and first.size_bytes == len(photos[names[0]]) and first.mtag
    (entry,) = first.weak["maps"]
    assert entry["uri"] == str(tmp_path / "m/maps/0.png") and entry["size_bytes"] > 0 and entry["mtag"]
    assert "captions" in second.weak  # told as an unknown form, not lost in silence
    assert (gone.size_bytes, gone.mtag) == (7, "v1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a.jpg"}\n{"path": ', "line 2 is not JSON"),
        ('["a.jpg"]', "line 1 is not a JSON object"),
        ('{"tags": []}', "line 1 names no image"),
        ('{"path": "a.jpg"}\n{"path": "a.jpg", "tags": ["cat"]}', "line 2, names 'a.jpg' again"),
    ],
)
def test_a_damaged_manifest_names_its_line(text: str, message: str, tmp_path: Path) -> None:
    corpora.write(tmp_path, {"list.jsonl": text.encode()})
    with pytest.raises(CorpusError, match=message):
        assets(tmp_path / "list.jsonl")


def test_a_sidecar_says_more_than_the_layout_and_what_it_names_in_vain_is_told(photos, tmp_path: Path) -> None:
    two = dict(list(photos.items())[:2])
    root = corpora.voc(tmp_path / "voc", two, {f"photo 0{n}.png": corpora.png(corpora.mask()) for n in (0, 1)})
    lines = [
        {"path": "JPEGImages/photo 01.jpg", "tags": ["sheep"], "points": [{"x": 1, "y": 1, "class": "cat"}]},
        {"path": "JPEGImages/phot 01.jpg", "tags": ["cat"]},
    ]
    corpora.write(tmp_path, {"weak.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    corpus = opened(root, weak=("tags",), weak_file=str(tmp_path / "weak.jsonl"))
    first, second = corpus.list()
    assert {t["class"] for t in first.weak["tags"] if t["present"]} == {"cat", "dog"}
    assert second.weak == {"tags": ["sheep"]}  # points were not asked for
    (remark,) = corpus.remarks()
    assert "1 lines" in remark and "'JPEGImages/phot 01.jpg'" in remark
    plain = assets(f"folder:{root}/JPEGImages", weak_file=str(tmp_path / "weak.jsonl"))
    assert [a.weak for a in plain] == [{}, {}]
    lines[1]["path"] = lines[0]["path"]
    corpora.write(tmp_path, {"weak.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    with pytest.raises(CorpusError, match="twice, in lines 1 and 2"):
        opened(root, weak_file=str(tmp_path / "weak.jsonl"))


def test_the_sample_has_its_photographs_and_classes() -> None:
    corpus = opened("sample:")
    listed = list(corpus.list())
    names = {a.asset.rpartition("/")[2].partition(".")[0] for a in listed}
    assert {"astronaut", "chelsea", "coffee", "rocket", "china", "flower", "grace_hopper"} <= names
    assert all(len(read_bytes(a.uri)) == a.size_bytes > 10_000 and a.tags["source"] for a in listed)
    assert corpus.default_classes() == ClassSet.load("sample")
    assert assets("sample") == listed


@pytest.mark.parametrize(
    ("corpus", "message"),
    [("/nowhere/at all", "nothing at /nowhere/at all"), ("voc:", "needs a path"), ("", "name a corpus"),
     ("voc:/tmp", "is not a VOC layout"), ("jsonl:/nowhere.jsonl", "no manifest"), ("coco:/no.json", "no COCO file"),
     ("parquet:/nowhere", "no Parquet file"), ("folder:/nowhere", "no folder or file"),
     ("memory://nowhere", "nothing at memory://nowhere"), ("nosuch://bucket", "no storage is known")],
)  # fmt: skip
def test_a_corpus_that_is_not_there_says_so(corpus: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        assets(corpus)


def test_prefixes_are_not_url_schemes() -> None:
    assert split_prefix("voc:s3://bucket/VOC2012") == ("voc", "s3://bucket/VOC2012")
    assert split_prefix("folder:C:/photos") == ("folder", "C:/photos")
    assert split_prefix("s3://bucket/list.jsonl") == ("jsonl", "s3://bucket/list.jsonl")


def test_real_voc_masks_give_labels_that_agree_with_them(data: Path) -> None:
    from PIL import Image

    classes = ClassSet.load("voc")
    corpus = opened(f"voc:{data}/voc", split="gold100", weak=weak_labels.FORMS)
    for asset in itertools.islice(corpus.list(), 8):
        stem = Path(asset.asset).stem
        truth = np.array(Image.open(data / f"voc/SegmentationClassAug/{stem}.png"))
        clean, problems = weak_labels.validate(asset.weak, classes, truth.shape)
        assert problems == []
        arrays = weak_labels.to_arrays(clean, classes, *truth.shape)
        ids = set(np.unique(truth).tolist()) - {0, 255}
        assert {classes.classes[i].id for i in np.flatnonzero(arrays.present)} == ids
        for (x, y), row in zip(arrays.points.astype(int), arrays.point_classes, strict=True):
            assert truth[y, x] == (row + 1 if row >= 0 else 0)
        known = arrays.partial >= 0
        assert 0.02 < known.mean() < 0.95 and (arrays.partial[known] == truth[known]).all()


def test_a_folder_of_parquet_is_told_from_photographs_beside_one(photos, tmp_path: Path) -> None:
    corpora.parquet(tmp_path / "in/a.parquet", photos)
    assert len(assets(tmp_path / "in")) == len(photos)
    corpora.write(tmp_path / "in", {"z.jpg": b"x"})
    assert [a.asset for a in assets(tmp_path / "in")] == ["z.jpg"]


def test_a_sidecar_finds_parquet_rows_by_their_path(photos, tmp_path: Path) -> None:
    path = corpora.parquet(tmp_path / "a.parquet", photos)
    corpora.write(tmp_path, {"weak.jsonl": b'{"path": "photo 03.jpg", "tags": ["cat"]}'})
    listed = assets(path, weak_file=str(tmp_path / "weak.jsonl"))
    assert [n for n, a in enumerate(listed) if a.weak] == [3]


def test_voc_without_a_split_lists_every_image_once(tmp_path: Path) -> None:
    corpora.write(tmp_path, {"JPEGImages/a.jpg": b"1", "JPEGImages/a.png": b"2", "JPEGImages/b": b"3"})
    assert contents(assets(tmp_path)) == [b"1", b"2", b"3"]
