"""Model references: what they resolve to, and what a person reads when they do not."""

from pathlib import Path

import fsspec
import pytest

from pipelines import references
from pipelines.references import ModelReferenceError, content_digest, resolve, resolve_student


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


def test_a_folder_behind_a_url_is_fetched_again_when_a_file_in_it_changed(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/runs/again/model.safetensors", b"one")
    first = resolve("memory://runs/again", cache=tmp_path)
    assert resolve("memory://runs/again", cache=tmp_path) == first
    store.pipe("/runs/again/model.safetensors", b"another")
    assert (resolve("memory://runs/again", cache=tmp_path).path / "model.safetensors").read_bytes() == b"another"


def test_a_student_is_found_in_the_output_of_its_training(tmp_path: Path) -> None:
    (tmp_path / "out/student").mkdir(parents=True)
    (tmp_path / "out/student/card.json").write_text("{}")
    (tmp_path / "out/checkpoints").mkdir()
    (tmp_path / "out/checkpoints/weights").write_text("large")
    found = resolve_student(str(tmp_path / "out"))
    assert found.path == tmp_path / "out/student"
    assert found.digest == resolve_student(str(tmp_path / "out/student")).digest == content_digest(found.path)
    with pytest.raises(ModelReferenceError, match=r"no student .*card\.json; give the --output of train_student\.py"):
        resolve_student(str(tmp_path / "out/checkpoints"))
    with pytest.raises(ModelReferenceError, match="no such file or folder"):
        resolve_student(str(tmp_path / "absent"))


def test_of_a_remote_output_only_the_student_is_fetched(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/runs/7/student/card.json": b"{}", "/runs/7/checkpoints/weights": b"large"})
    found = resolve_student("memory://runs/7", cache=tmp_path)
    assert (found.path / "card.json").is_file() and not list(tmp_path.rglob("weights"))
    assert resolve_student("memory://runs/7/student", cache=tmp_path).digest == found.digest


def test_a_registered_model_is_fetched_by_alias_and_by_version(tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'registry.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("students", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_registered_model("small")
    for number in (1, 2):
        folder = tmp_path / f"model-{number}" / "student"
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(f'{{"number": {number}}}')
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(folder.parent), "model")
        client.create_model_version("small", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("small", "champion", "1")
    cache = tmp_path / "cache"

    def number(reference: str) -> str:
        return (resolve_student(reference, cache, uri).path / "card.json").read_text()

    assert number("models:/small@champion") == '{"number": 1}' == number("models:/small/1")
    client.set_registered_model_alias("small", "champion", "2")
    assert number("models:/small@champion") == '{"number": 2}'
    for wrong in ("models:/small@nobody", "models:/other/1", "models:/small"):
        with pytest.raises(ModelReferenceError, match="cannot be had from the registry"):
            resolve_student(wrong, cache, uri)
