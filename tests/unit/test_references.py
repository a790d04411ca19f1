"""Model references: what they resolve to, and what a person reads when they do not."""

from pathlib import Path

import fsspec
import pytest

from pipelines import references
from pipelines.references import ModelReferenceError, content_digest, resolve


def test_a_local_file_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_b.pth"
    file.write_bytes(b"abc")
    found = resolve(str(file))
    assert found.path == file
    assert found.digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert resolve(f"file://{file}") == references.Resolved(f"file://{file}", file, found.digest)
    assert resolve(str(tmp_path)).path == tmp_path


def test_the_digest_of_a_folder_follows_its_weights_not_its_prose(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> str:
        (tmp_path / name / "sub").mkdir(parents=True)
        for file, content in files.items():
            (tmp_path / name / file.replace("__", "/").replace("_DOT_", ".")).write_text(content)
        return content_digest(tmp_path / name)

    first = folder("a", config_DOT_json="{}", sub__weights="1", README_DOT_md="old")
    assert folder("b", config_DOT_json="{}", sub__weights="1", README_DOT_md="new", _DOT_cache="x") == first
    assert folder("c", config_DOT_json="{}", sub__weights="2") != first
    assert folder("d", config_DOT_json="{}", weights="1") != first


def test_a_url_is_downloaded_once_and_again_when_it_changed(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/models/sam.pth", b"one")
    first = resolve("memory://models/sam.pth", cache=tmp_path)
    assert first.path.read_bytes() == b"one" and first.path.name == "sam.pth" and tmp_path in first.path.parents
    stamp = first.path.stat().st_mtime_ns
    assert resolve("memory://models/sam.pth", cache=tmp_path) == first and first.path.stat().st_mtime_ns == stamp
    store.pipe("/models/sam.pth", b"another")
    second = resolve("memory://models/sam.pth", cache=tmp_path)
    assert second.path.read_bytes() == b"another" and second.digest != first.digest


def test_a_folder_behind_a_url(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/hub/clip/config.json": b"{}", "/hub/clip/sub/model.safetensors": b"w"})
    found = resolve("memory://hub/clip", cache=tmp_path)
    assert sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file()) == [
        "config.json",
        "sub/model.safetensors",
    ]


def test_a_broken_download_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/models/broken.pth", b"whole")

    def die_half_way(remote: str, local: str, **options: object) -> None:
        Path(local).write_bytes(b"who")
        raise ConnectionResetError("peer went away")

    monkeypatch.setattr(store, "get", die_half_way)
    with pytest.raises(ModelReferenceError, match="peer went away"):
        resolve("memory://models/broken.pth", cache=tmp_path)
    monkeypatch.undo()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert resolve("memory://models/broken.pth", cache=tmp_path).path.read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("reference", "fix"),
    [
        ("/nowhere/clip", "there is no such file or folder"),
        ("pocket:vit", "the pocket models are pocket:clip and pocket:sam"),
        ("memory://models/never.pth", "check the address"),
        ("nosuch://models/x", "Protocol not known"),
        ("hf:not/a/name", "write hf:ORGANISATION/NAME"),
    ],
)
def test_errors_name_the_reference_and_what_to_do(reference: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError) as caught:
        resolve(reference, cache=tmp_path)
    assert reference in str(caught.value) and fix in str(caught.value)


def test_offline_hub_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelReferenceError, match="hf download openai/clip-vit-base-patch16"):
        resolve("hf:openai/clip-vit-base-patch16")


def test_the_hub_cache_is_used_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--acme--clip"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"w")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve("hf:acme/clip").path == snapshot
