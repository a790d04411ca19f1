"""Model references: one string that names a checkpoint, resolved to a local path and the digest of its content.

`models/` only ever sees local paths. References:

    pocket:clip, pocket:sam              the small weights that ship with the project
    hf:openai/clip-vit-base-patch16      a repository of the Hugging Face hub, from its cache or the network
    /path/to/folder, sam_vit_b.pth       a local file or folder
    s3://bucket/sam_vit_h_4b8939.pth     any URL that fsspec reads (https, s3, gs, ...); downloaded once
    models:/NAME@ALIAS, models:/NAME/3   a model of the MLflow registry; downloaded once a version
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.core import split_protocol, url_to_fs

POCKET = Path(__file__).resolve().parents[1] / "models" / "pocket"
IGNORED = {".md", ".txt.lock", ".lock"}  # A folder's digest is that of its weights and configuration, not of prose.
VERSION_FIELDS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created", "size")  # As each store calls them.
STUDENT_CARD = "card.json"  # What makes a folder a student's, or a localiser's.
HUB_FILES = ["*.json", "*.txt", "*.model"]  # Configuration and tokenizer.
HUB_WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin", "*.pth"])  # The first kind that the repository has.


class ModelReferenceError(ValueError):
    """A model reference that cannot be resolved; the message names the reference and what to do."""


@dataclass(frozen=True)
class Resolved:
    """reference: as given. path: local file or folder. digest: sha256 (hex) of the content."""

    reference: str
    path: Path
    digest: str


def resolve(reference: str, cache: str | Path | None = None, tracking_uri: str = "") -> Resolved:
    """The local checkpoint that a model reference names; downloaded if need be.

    Args:
        reference: see the module's text.
        cache: folder for downloads; $MASKSTREAM_CACHE or ~/.cache/maskstream otherwise.
        tracking_uri: whose registry `models:/` means; $MLFLOW_TRACKING_URI otherwise.

    Raises:
        ModelReferenceError: nothing is there, or it cannot be reached.
    """
    path = _locate(reference, Path(cache or _default_cache()), tracking_uri)
    return Resolved(reference, path, content_digest(path))


def resolve_student(reference: str, cache: str | Path | None = None, tracking_uri: str = "") -> Resolved:
    """The folder with a student's card and weights, of what train_student.py wrote or registered.

    `reference` may be its OUTPUT, the `student` folder in it, a URL of either, or a model of the registry; of a remote
    OUTPUT only that folder is downloaded. Raises ModelReferenceError.
    """
    return _resolve_trained(reference, "student", cache, tracking_uri)


def resolve_localiser(reference: str, cache: str | Path | None = None, tracking_uri: str = "") -> Resolved:
    """The same of a localiser, of train_localiser.py."""
    return _resolve_trained(reference, "localiser", cache, tracking_uri)


def _resolve_trained(reference: str, kind: str, cache: str | Path | None, tracking_uri: str) -> Resolved:
    inner = f"{reference.rstrip('/')}/{kind}"
    source = inner if _is_remote(reference) and _has_card(inner) else reference
    found = _locate(source, Path(cache or _default_cache()), tracking_uri)
    folders = [found, found / kind]
    if reference.startswith("models:"):  # MLflow keeps a model's files in a folder of its own making
        folders += sorted(card.parent for card in found.rglob(STUDENT_CARD))
    for folder in folders:
        if (folder / STUDENT_CARD).is_file():
            return Resolved(reference, folder, content_digest(folder))
    raise ModelReferenceError(
        f"model reference {reference!r}: there is no {kind} at {found}, which would be a folder with {STUDENT_CARD}; "
        f"give the --output of train_{kind}.py, or the `{kind}` folder in it"
    )


def resolve_file(reference: str, name: str, cache: str | Path | None = None, tracking_uri: str = "") -> Path:
    """A file of this name among those of a registered model, such as the decide.yaml of a promoted search.

    Raises ModelReferenceError.
    """
    folder = _locate(reference, Path(cache or _default_cache()), tracking_uri)
    found = sorted(folder.rglob(name))
    if not found:
        raise ModelReferenceError(f"model reference {reference!r} holds no {name}: what is it a model of?")
    return found[0]


def student_digest(folder: Path) -> str:
    """sha256 of what a student predicts with, its card and weights: the same wherever it lies, and whatever a registry
    keeps beside it."""
    files = [folder / STUDENT_CARD, *sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(f"{file.name}\0{content_digest(file)}\n" for file in files).encode()).hexdigest()


def _has_card(folder: str) -> bool:
    """Whether a remote folder is a student's. An unreachable store says no here; `resolve` says why."""
    try:
        fs, remote = url_to_fs(f"{folder.rstrip('/')}/{STUDENT_CARD}")
        return bool(fs.exists(remote))
    except Exception:
        return False


def _locate(reference: str, cache: Path, tracking_uri: str) -> Path:
    """The local file or folder, downloaded if need be. Raises ModelReferenceError."""
    kind, _, rest = reference.partition(":")
    if kind == "pocket":
        return _pocket(reference, rest)
    if kind == "hf":
        return _hub(reference, rest)
    if kind == "models":
        return _registered(reference, cache, tracking_uri)
    if _is_remote(reference):
        return _download(reference, cache)
    path = Path(reference.removeprefix("file://").removeprefix("local://")).expanduser()
    if not path.exists():
        raise ModelReferenceError(f"model reference {reference!r}: there is no such file or folder ({path.absolute()})")
    return path


def _is_remote(reference: str) -> bool:
    return split_protocol(reference)[0] not in (None, "file", "local")


def content_digest(path: Path) -> str:
    """sha256 of a file; of a folder, that of its files' names and digests, text documents (.md) left out."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and file.suffix not in IGNORED and not any(part.startswith(".") for part in inside.parts):
            total.update(f"{inside.as_posix()}\0{content_digest(file)}\n".encode())
    return total.hexdigest()


def _pocket(reference: str, name: str) -> Path:
    path = POCKET / name
    if name not in ("clip", "sam"):
        raise ModelReferenceError(f"model reference {reference!r}: the pocket models are pocket:clip and pocket:sam")
    if not (path / "model.safetensors").is_file():
        raise ModelReferenceError(
            f"model reference {reference!r}: its weights are missing at {path / 'model.safetensors'}; "
            "check them out again, or train them with `python pipelines/pretrain_pocket.py`"
        )
    return path


def _hub(reference: str, repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = repository.partition("@")
    try:
        for weights in HUB_WEIGHTS:
            path = Path(snapshot_download(repository, revision=revision or None, allow_patterns=HUB_FILES + weights))
            if any(file for pattern in weights for file in path.glob(pattern)):
                return path
    except HFValidationError as error:
        raise ModelReferenceError(
            f"model reference {reference!r}: write hf:ORGANISATION/NAME, optionally @REVISION ({error})"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelReferenceError(
            f"model reference {reference!r}: not in the local cache, and huggingface.co cannot be reached. "
            f"On a machine with access run `hf download {repository}`, copy the folder, and give its path instead"
        ) from error
    except HfHubHTTPError as error:
        raise ModelReferenceError(
            f"model reference {reference!r}: huggingface.co refuses it ({error.response.status_code}); check the name, "
            "and for a gated repository set HF_TOKEN"
        ) from error
    raise ModelReferenceError(
        f"model reference {reference!r}: the repository holds no safetensors, .bin or .pth weights"
    )


def _registered(reference: str, cache: Path, tracking_uri: str) -> Path:
    from pipelines.tracking import fetch_model

    try:
        return fetch_model(reference, cache / "models", tracking_uri)
    except Exception as error:  # MLflow's stores have errors of their own kinds.
        raise ModelReferenceError(
            f"model reference {reference!r} cannot be had from the registry ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); write models:/NAME@ALIAS or "
            "models:/NAME/VERSION, and give the registry's address with MLFLOW_TRACKING_URI (or --tracking.uri, where "
            "a job has it)"
        ) from error


def _download(reference: str, cache: Path) -> Path:
    """The file or folder behind a URL, in a folder of the cache named by the URL and what the server says of it.

    It appears there under its name only when it is complete, so a broken download is never taken for the file.
    """
    try:
        fs, remote = url_to_fs(reference)
        # What stores say of a folder does not change with the files in it.
        files = fs.find(remote, detail=True) if fs.isdir(remote) else {remote: fs.info(remote)}
        versions = [[name, *(info.get(key) for key in VERSION_FIELDS)] for name, info in sorted(files.items())]
        identity = repr([reference, versions])
        name = remote.rstrip("/").rsplit("/", 1)[-1]
        target = cache / "models" / hashlib.sha256(identity.encode()).hexdigest()[:16] / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(fs, remote, target)
        return target
    except ImportError as error:
        raise ModelReferenceError(
            f"model reference {reference!r}: reading it needs another package ({error})"
        ) from error
    except Exception as error:  # Every store has errors of its own kind; the person needs the same help with each.
        raise ModelReferenceError(
            f"model reference {reference!r} cannot be read ({type(error).__name__}: {error}); check the address, the "
            "credentials and the network, or download it and give the local path"
        ) from error


def _fetch(fs: fsspec.AbstractFileSystem, remote: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        part = Path(scratch) / target.name
        fs.get(remote, str(part), recursive=fs.isdir(remote))
        try:
            part.replace(target)
        except OSError:
            # Another process was faster with a folder, which rename does not replace.
            if not target.exists():
                raise
            shutil.rmtree(part, ignore_errors=True)


def _default_cache() -> str:
    return os.environ.get("MASKSTREAM_CACHE") or str(Path.home() / ".cache" / "maskstream")
