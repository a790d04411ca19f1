"""Forgetting: nothing of the image is left, everything else is, and a killed run ends like an unbroken one."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pytest
from forget_scene import BYTES, OLDER, digest, everything, newest, uri, write_output

from pipelines import lock, storage
from pipelines.forget import main
from pipelines.forgetting.memory import Forgotten
from pipelines.forgetting.names import Names
from pipelines.nightly.candidates import publish
from pipelines.tables.evidence import EvidenceStore
from pipelines.tables.human import HumanTable
from pipelines.tables.labels import LabelTable
from pipelines.tables.quarantine import QuarantineTable
from pipelines.tracking_pending import load

LEFT = {"my a.jpg", "data.jpg", "sub/a.jpg", "sub/b & c.jpg"}
KEPT_FILES = ["my_a.png", "sub__a.png"]
# `a.jpg` stands within other names, which stay.
ALONE = re.compile(rb"(?<![\w./ ])a\.jpg")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forget")
    write_output(root)
    return root


@pytest.fixture
def root(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the scene at an address of the same meaning."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(scene / "out", tmp_path / "out")
    return tmp_path


def gone(scene: Path, out: Path) -> bool:
    told = everything(out)
    names = [uri(scene, "a.jpg"), uri(scene, "twin.jpg"), "twin.jpg", digest(BYTES["a.jpg"]), digest(OLDER)]
    return not any(name.encode() in told for name in names) and ALONE.search(told) is None


def test_nothing_is_left_of_the_image_and_all_of_the_others(scene: Path, root: Path, capfd: Any) -> None:
    out = root / "out"
    assert not gone(scene, out)
    assert main(["--output", str(out), "--asset", "a.jpg"]) == 0
    assert gone(scene, out)
    # Every snapshot is readable as it was, by other readers of Delta tables too, without the image.
    assert newest(out, 1) == {"my a.jpg", "data.jpg", "sub/a.jpg"}
    assert newest(out) == LEFT
    for version in (1, 2):
        table = deltalake.DeltaTable(str(out / "labels"), version=version)
        query = deltalake.QueryBuilder().register("t", table).execute("select count(*) as n from t")
        counted = query.read_all() if hasattr(query, "read_all") else query
        assert counted["n"][0].as_py() == (3 if version == 1 else 3 + len(LEFT))
    store = EvidenceStore(str(out / "evidence"), "2" * 16)
    index = {row["asset"]: row for row in store.index().to_pylist() if row["shard"]}
    assert set(index) == LEFT | {"bad.jpg"}
    assert len(list(store.read([(row["shard"], row["evidence_key"]) for row in index.values()]))) == len(index)
    [bad] = QuarantineTable(str(out / "quarantine")).rows()
    assert bad["asset"] == "bad.jpg" and "not like [forgotten]" in str(bad["reason"])
    page = (out / "runs/night-2/report.html").read_text()
    assert page.count('class="card"') == 2 and 'data-asset="my a.jpg"' in page and "</html>" in page
    assert json.loads((out / "runs/night-2/summary.json").read_text())["failures"] == [
        ["my a.jpg", "decide", "the same"]
    ]
    coco = json.loads((out / "exports/coco/instances.json").read_text())
    assert [image["id"] for image in coco["images"]] == [a["image_id"] for a in coco["annotations"]] == [2, 3]
    assert coco["categories"] == [{"id": 1, "name": "cat"}]
    assert storage.read_parquet(str(out / "exports/hf/train.parquet")).num_rows == 1
    assert (out / "exports/list.txt").read_text() == "my a.jpg\nsub/a.jpg\n"
    assert json.loads((out / "evaluations/evaluate-1/evaluation.json").read_text())["missing_names"] == ["sub/a"]
    assert {path.name for path in (out / "exports/voc/images").iterdir()} == {"my_a.png", "sub__a.png"}
    assert (out / "exports/voc/ImageSets/train.txt").read_text() == "my_a\nsub__a\n"
    assert (out / "reviews/one/annotations.xml").read_text().count("<image ") == 2
    assert [i["file"] for i in json.loads((out / "reviews/one/review.json").read_text())["images"]] == KEPT_FILES
    assert not list(out.rglob("*.tmp"))
    # What waits for MLflow can still be told, without the image.
    operations = load(str(out / "runs/night-2/mlflow-pending"))[1]
    named = {o.values["name"]: o.content for o in operations if o.kind == "file"}
    assert set(named) == {"overlays/01_my_a.jpg.png", "report.html", "changes.json"}
    assert json.loads(named["changes.json"] or b"")["data"] == [["sub/a.jpg"]]
    assert len(list((out / "runs/night-2/mlflow-pending").iterdir())) == 2 + len(named)
    assert b"PNG of it" not in everything(out)
    changes = (out / "runs/night-9/changes.html").read_text()
    assert changes.count('class="card"') == 1 and 'data-asset="sub/a.jpg"' in changes
    assert storage.read_parquet(str(out / "runs/night-9/changes.parquet"))["asset"].to_pylist() == ["sub/a.jpg"]
    assert set(HumanTable(str(out / "human")).known()) == {"sub/a.jpg"}
    # What the gate refused can be published, as its files are called what they were.
    snapshot = publish(str(out), "night-9", "looked at")
    assert newest(out) == LEFT and LabelTable(str(out / "labels")).version() == snapshot
    told = capfd.readouterr()
    assert "twin.jpg has the same bytes" in told.err


def test_a_uri_means_the_same_and_a_dry_run_changes_nothing(scene: Path, root: Path) -> None:
    out = root / "out"
    before = everything(out)
    assert main(["--output", str(out), "--uri", uri(scene, "a.jpg"), "--dry-run"]) == 0
    assert everything(out) == before
    assert main(["--output", str(out), "--uri", uri(scene, "a.jpg")]) == 0
    assert gone(scene, out)
    once = everything(out, but="lock.json")
    assert main(["--output", str(out), "--uri", uri(scene, "a.jpg")]) == 0  # again: it is known, and there is nothing
    assert everything(out, but="lock.json") == once


def test_what_is_remembered_names_nothing_and_knows_the_image(scene: Path, root: Path) -> None:
    out = root / "out"
    assert main(["--output", str(out), "--asset", "a.jpg,sub/a.jpg"]) == 0
    memory = Forgotten.load(str(out))
    held = [("asset", "a.jpg"), ("asset", "twin.jpg"), ("uri", uri(scene, "sub/a.jpg")), ("digest", digest(OLDER))]
    assert all(memory.holds(*pair) for pair in held)
    assert not any(memory.holds("asset", name) for name in LEFT - {"sub/a.jpg"})
    assert not memory.holds("uri", "a.jpg")
    assert b"jpg" not in (out / "forgotten.json").read_bytes()


class Killed(BaseException):
    """What a kill is to the code: nothing catches it."""


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the process dies instead of its `step`-th change to the disk."""
    done = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            nonlocal done
            done += not str(args[0]).endswith(lock.NAME)
            if done > step:
                raise Killed
            return real(*args, **options)

        return change

    for name in ("write_bytes", "remove"):
        monkeypatch.setattr(storage, name, dying(getattr(storage, name)))


def test_killed_before_any_change_it_goes_on_and_ends_the_same(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    whole = tmp_path / "whole"
    shutil.copytree(scene / "out", whole)
    assert main(["--output", str(whole), "--asset", "a.jpg"]) == 0
    kills = 0
    for step in range(0, 300, 11):
        out = tmp_path / f"out-{step}"
        shutil.copytree(scene / "out", out)
        with monkeypatch.context() as patch:
            stopped_at(step, patch)
            try:
                main(["--output", str(out), "--asset", "a.jpg"])
                break
            except Killed:
                kills += 1
        monkeypatch.setattr(lock, "_is_gone", lambda record: True)  # the process that holds it would be
        assert newest(out, 1) >= {"my a.jpg", "data.jpg", "sub/a.jpg"}  # a reader meanwhile
        if step:
            assert main(["--output", str(out)]) == 0  # the names are known from the interrupted run
        else:
            assert main(["--output", str(out), "--asset", "a.jpg"]) == 0
        assert gone(scene, out)
        assert newest(out) == LEFT
        assert not (out / "forgetting.json").exists()
        names = [{str(p.relative_to(x)) for p in x.rglob("*") if p.is_file()} for x in (out, whole)]
        assert names[0] == names[1]
        shutil.rmtree(out)
    assert kills > 3


def test_it_stops_where_another_run_took_the_lock_over(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    out = root / "out"
    real, changes = storage.write_bytes, 0

    def taking_over(url: str, data: bytes) -> None:
        nonlocal changes
        changes += not url.endswith("lock.json")
        if changes == 4:
            other = {"holder": "another", "pid": 1, "host": "h", "since": "now", "command": "label_corpus.py"}
            (out / "lock.json").write_text(json.dumps({**other, "expires_at": 9e9}))
        real(url, data)

    monkeypatch.setattr(storage, "write_bytes", taking_over)
    assert main(["--output", str(out), "--asset", "a.jpg"]) == 1
    assert "was taken over" in capfd.readouterr().err
    assert changes < 30 and (out / "forgetting.json").exists()


def test_what_was_exported_after_a_kill_is_found_when_it_goes_on(
    scene: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = root / "out"
    with monkeypatch.context() as patch:
        stopped_at(10, patch)
        with pytest.raises(Killed):
            main(["--output", str(out), "--asset", "a.jpg"])
    monkeypatch.setattr(lock, "_is_gone", lambda record: True)
    for folder in (out / "exports/later", root / "elsewhere"):
        storage.write_bytes(str(folder / "assets.json"), json.dumps([{"name": "y", "asset": "a.jpg"}]).encode())
        storage.write_bytes(str(folder / "images/y.png"), b"the picture")
    assert main(["--output", str(out), "--also", str(root / "elsewhere")]) == 0
    assert not list(root.rglob("y.png")) and gone(scene, out)


def test_names_that_nothing_knows_are_mistakes_and_name_the_nearest(root: Path, capfd: Any) -> None:
    out = root / "out"
    assert main(["--output", str(out), "--asset", "dota.jpg"]) == 2
    assert "did you mean 'data.jpg'" in capfd.readouterr().err
    assert main(["--output", str(out)]) == 2
    assert main(["--output", str(root / "nowhere"), "--asset", "a.jpg"]) == 2
    assert not (out / "forgotten.json").exists()


def test_what_cannot_be_cleaned_is_named_and_the_run_fails(root: Path, capfd: Any) -> None:
    out = root / "out"
    (out / "notes.bin").write_bytes(b"\0\1 a.jpg \2")
    assert main(["--output", str(out), "--asset", "a.jpg"]) == 1
    assert "notes.bin" in capfd.readouterr().err
    (out / "notes.bin").unlink()
    assert main(["--output", str(out)]) == 0


def test_students_that_learned_from_it_are_named(root: Path, capfd: Any) -> None:
    out = root / "out"
    for name, snapshot in (("early", 0), ("late", 2)):
        record = {"run_id": "r", "learned": {"labels": str(out)}, "snapshot": snapshot, "plan_digest": ""}
        storage.write_bytes(str(root / name / "training.json"), json.dumps(record).encode())
    assert main(["--output", str(out), "--asset", "a.jpg", "--dry-run"]) == 0
    told = json.loads(capfd.readouterr().out.splitlines()[-1])["unreachable"]
    assert any(line.startswith(f"student {root / 'late'}") for line in told)
    assert not any("early" in line for line in told)


def test_a_checkpoint_of_the_log_forgets_too(root: Path) -> None:
    out = root / "out"
    for table in ("labels", "manifest", "quarantine"):
        deltalake.DeltaTable(str(out / table)).create_checkpoint()
    for commit in (out / "labels/_delta_log").glob("*.json"):
        if commit.name < f"{2:020}.json":
            commit.unlink()  # as a log is that was cleaned up: only the checkpoint knows the first files
    assert main(["--output", str(out), "--asset", "a.jpg"]) == 0
    assert newest(out) == LEFT
    assert b"minValues" not in everything(out)


def test_a_name_within_another_one_is_not_mentioned() -> None:
    names = Names({"a.jpg", "cat"}, {"/p/a.jpg"}, set(), {"my a.jpg"})
    for text in ("a.jpg", "x: a.jpg.", '"/p/a.jpg"', "file:///p/a.jpg", "%2Fp%2Fa.jpg"):
        assert names.mentioned(text), text
    for text in ("data.jpg", "sub/a.jpg", "my a.jpg", "a.jpg.png", "/q/p/a.jpg", "a cat"):
        assert not names.mentioned(text), text
    assert names.is_one("cat", "asset") and not names.is_one("cat", "class")
