"""An output as the jobs leave it, written by their own classes: tables with a history, evidence, pages, an export."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report_scene import item, report_data

from pipelines import storage
from pipelines.nightly.candidates import Candidate
from pipelines.nightly.diff import IMAGES
from pipelines.report.changes import ChangesPage
from pipelines.report.page import build_report
from pipelines.report.worst import JudgedItem
from pipelines.tables import labels, manifest
from pipelines.tables.evidence import EvidenceStore
from pipelines.tables.human import Correction, HumanTable
from pipelines.tables.labels import LabelTable
from pipelines.tables.manifest import ManifestTable
from pipelines.tables.quarantine import QuarantineTable
from pipelines.tracking import Tracker
from pipelines.tracking_pending import save
from pipelines.tracking_store import About

NAMES = ("a.jpg", "my a.jpg", "data.jpg", "sub/a.jpg", "twin.jpg", "bad.jpg", "sub/b & c.jpg")
BYTES = {name: name.encode() for name in NAMES} | {"twin.jpg": b"a.jpg"}
OLDER = b"what a.jpg was before"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uri(root: Path, asset: str) -> str:
    return str(root / "photos" / asset)


def write_output(root: Path) -> Path:
    """`root/out`: two nights of seven images, of which one has two contents, one a twin and one cannot be read."""
    out = root / "out"
    _photographs(root)
    for night, names in ((1, NAMES[:4]), (2, NAMES)):
        _manifest(root, out, night, names)
        _evidence(root, out, night, names)
        _labels(root, out, night, names)
    bad = {"asset": "bad.jpg", "uri": uri(root, "bad.jpg"), "size_bytes": 7, "mtag": "1", "stage": "read"}
    others = [{**bad, "asset": name, "uri": uri(root, name)} for name in ("a.jpg", "sub/b & c.jpg")]
    table = QuarantineTable(str(out / "quarantine"))
    table.replace([{**row, "error": "empty", "reason": "empty"} for row in (bad, *others)], "night-1")
    told = {**bad, "error": "truncated", "reason": f"{uri(root, 'bad.jpg')} ends early, not like {uri(root, 'a.jpg')}"}
    table.replace([told], "night-2")
    _pages(out)
    _exports(out)
    _night(root, out)
    _waiting(out)
    for place in ("labels/part-9.parquet", "human/part-9.parquet", "runs/night-2/report.html", "manifest/notes.txt"):
        # What a killed write leaves, and what somebody put beside the data of a table.
        name = f"{place}.{'0f' * 16}.tmp" if "notes" not in place else place
        storage.write_bytes(str(out / name), b"\x15\0a.jpg\0" + uri(root, "a.jpg").encode())
    return out


def _photographs(root: Path) -> None:
    for name, data in BYTES.items():
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(data)


def _content(name: str, night: int) -> str:
    return digest(OLDER if name == "a.jpg" and night == 1 else BYTES[name])


def _manifest(root: Path, out: Path, night: int, names: tuple[str, ...]) -> None:
    rows = [
        {"asset": n, "uri": uri(root, n), "digest": _content(n, night), "sequence": night, "removed": False,
         "corpus": str(root / "photos"), "run_id": f"night-{night}"}
        for n in names
    ]  # fmt: skip
    ManifestTable(str(out / "manifest")).append(f"p{night}.parquet", pa.Table.from_pylist(rows, manifest.SCHEMA))


def _evidence(root: Path, out: Path, night: int, names: tuple[str, ...]) -> None:
    for kind in ("1" * 16, "2" * 16):  # class-free evidence, and a student's
        rows = [
            {"asset": n, "uri": uri(root, n), "digest": _content(n, night),
             "evidence_key": digest(f"{n}{night}{kind}".encode()), "outcome": "ok", "masks": b"",
             "guide": b"jpeg of " + n.encode()[::-1]}
            for n in names if n != "twin.jpg"
        ]  # fmt: skip
        EvidenceStore(str(out / "evidence"), kind).write_shard(rows, f"night-{night}")


def _labels(root: Path, out: Path, night: int, names: tuple[str, ...]) -> None:
    base = {**dict.fromkeys(labels.SCHEMA.names), "sequence": night, "removed": False, "run_id": f"night-{night}"}
    base |= {"areas": [{"class_id": 1, "name": "cat", "area": 1.0, "kept": 1.0}], "class_map": b"png"}
    rows = [{**base, "asset": n, "uri": uri(root, n), "digest": _content(n, night)} for n in names if n != "bad.jpg"]
    table = LabelTable(str(out / "labels"))
    table.append(f"staged-{night}.parquet", pa.Table.from_pylist(rows, labels.SCHEMA), {"run_id": f"night-{night}"})
    table.write_file("staged-of-a-killed-run.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))


def _pages(out: Path) -> None:
    data = report_data(0)
    for asset in ("a.jpg", "my a.jpg", "sub/a.jpg"):
        data.items = [*data.items, item(asset, 1)]
    storage.write_bytes(str(out / "runs/night-2/report.html"), build_report(data).encode())
    summary = {"failures": [["a.jpg", "decide", "out of memory"], ["my a.jpg", "decide", "the same"]], "images": 7}
    storage.write_bytes(str(out / "runs/night-2/summary.json"), json.dumps(summary, indent=2).encode())
    storage.write_bytes(str(out / "runs/night-2/classes.yaml"), b"classes: [{id: 1, name: cat}]\n")
    told = json.dumps({"missing_names": ["a", "sub/a"], "miou": 0.5}, indent=2)
    storage.write_bytes(str(out / "evaluations/evaluate-1/evaluation.json"), told.encode())


def _night(root: Path, out: Path) -> None:
    """What a night leaves that was refused: a candidate, its changes; and a person's corrections."""
    table = LabelTable(str(out / "labels"))
    names = ("a.jpg", "sub/a.jpg")
    base = {**dict.fromkeys(labels.SCHEMA.names), "sequence": 9, "removed": False, "run_id": "night-9"}
    rows = [{**base, "asset": n, "uri": uri(root, n), "digest": _content(n, 2)} for n in names]
    file = table.write_file("night-9-0000.parquet", pa.Table.from_pylist(rows, labels.SCHEMA))
    moment = "2026-01-01T00:00:00+00:00"
    Candidate("night-9", moment, table.version(), (file.name,), ("too much churn",), {}).keep(str(out))
    moves = [{"old": "cat", "new": "dog", "pixels": 9}]
    told = {"cause": "new evidence", "inputs": ["image bytes"], "changed_pixels": 9, "moves": moves}
    images = pa.Table.from_pylist([{**told, "asset": n, "pixels": 99} for n in names], IMAGES)
    storage.write_parquet(str(out / "runs/night-9/changes.parquet"), images)
    page = ChangesPage([("cat", (1, 2, 3)), ("dog", (3, 4, 5))], None, 9)
    half = np.full((8, 8), 0.5)
    for name in names:
        maps = np.zeros((8, 8), int), np.ones((8, 8), int)
        page.add(JudgedItem(name, np.zeros((8, 8, 3), np.uint8), *maps, half, 0.1, {}))
    notes = [("Images by change", [["asset", "cause"], *([n, "new evidence"] for n in names)])]
    text = page.render("Changes", {}, {}, 2, "", notes=notes, causes=dict.fromkeys(names, "new evidence, image bytes"))
    storage.write_bytes(str(out / "runs/night-9/changes.html"), text.encode())
    ranked = {"columns": ["asset", "cause"], "data": [[n, "new evidence"] for n in names]}
    storage.write_bytes(str(out / "runs/night-9/changes.json"), json.dumps(ranked).encode())
    drawn = np.ones((8, 8), np.int32)
    for name in names:
        one = Correction(_content(name, 2), "ann", datetime.now(UTC), drawn, {1: "cat"}, f"cvat: {name} of a.jpg")
        HumanTable(str(out / "human")).add({name: (uri(root, name), [one.to_row()])}, "review-1")


def _waiting(out: Path) -> None:
    """What a night could not tell MLflow, which was away."""
    folder = str(out / "runs/night-2")
    tracker = Tracker("labels", "night-2", str(out), folder, f"sqlite:///{out.parent}/mlflow.db", system=False)
    operations = tracker._delivery.operations
    tracker.params({"corpus": "photos", "observe": {"batch": 4}})
    tracker.pictures({"a.jpg": b"PNG of it", "my a.jpg": b"PNG of mine"})
    tracker.text((out / "runs/night-2/report.html").read_text(), "report.html")
    tracker.text(json.dumps({"columns": ["asset"], "data": [["a.jpg"], ["sub/a.jpg"]]}), "changes.json")
    save(folder, About("k", "labels", "night-2"), list(operations))


def _exports(out: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "my a.jpg"}, {"id": 3, "file_name": "sub/a.jpg"}]
    coco: dict[str, Any] = {"images": images, "categories": [{"id": 1, "name": "cat"}]}
    coco["annotations"] = [{"id": n, "image_id": n, "category_id": 1} for n in (1, 2, 3)]
    storage.write_bytes(str(out / "exports/coco/instances.json"), json.dumps(coco).encode())
    _named_anew(out / "exports/voc", "assets.json", "name")
    _named_anew(out / "reviews/one", "review.json", "file")
    storage.write_bytes(str(out / "exports/list.txt"), b"a.jpg\nmy a.jpg\nsub/a.jpg\n")
    rows = [{"image": {"path": n, "bytes": b"x"}, "notes": [{"by": n}]} for n in ("a.jpg", "my a.jpg")]
    storage.write_parquet(str(out / "exports/hf/train.parquet"), pa.Table.from_pylist(rows))


def _named_anew(folder: Path, listing: str, key: str) -> None:
    """An export or review: files are called otherwise than their assets, as a list in the folder says."""
    called = {"a.jpg": "x", "my a.jpg": "my_a", "sub/a.jpg": "sub__a"}
    entries = [{key: name if key == "name" else f"{name}.png", "asset": asset} for asset, name in called.items()]
    told: Any = entries if key == "name" else {"tool": "cvat", "images": entries}
    storage.write_bytes(str(folder / listing), json.dumps(told, indent=1).encode())
    for name in called.values():
        storage.write_bytes(str(folder / f"images/{name}.png"), b"the picture")
    lines = "".join(f"{name}\n" for name in called.values())
    storage.write_bytes(str(folder / "ImageSets/train.txt"), lines.encode())
    images = "".join(f'<image name="{name}.png"><mask rle="1, 2"/></image>' for name in called.values())
    storage.write_bytes(str(folder / "annotations.xml"), f"<annotations>{images}</annotations>".encode())


def everything(out: Path, but: str = "") -> bytes:
    """All that the files say: their names, their bytes, and of Parquet every value and all statistics in clear; `but`
    the file of this name."""
    told = []
    for file in sorted(path for path in out.rglob("*") if path.is_file() and path.name != but):
        told += [str(file.relative_to(out)).encode(), file.read_bytes()]
        if file.suffix == ".parquet":
            parquet = pq.ParquetFile(file)
            told.append(repr(parquet.read().to_pylist()).encode())
            groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
            told += [repr(g.to_dict()).encode() for g in groups]
    return b"\n".join(told)


def newest(out: Path, version: int | None = None) -> set[str]:
    batches = LabelTable(str(out / "labels")).newest(["asset"], version=version)
    return {asset for batch in batches for asset in batch["asset"].to_pylist()}
