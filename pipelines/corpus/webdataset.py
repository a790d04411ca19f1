"""`wds:FILE_FOLDER_OR_GLOB`: WebDataset tars. Members that share a name up to its first dot are one sample:

    000123.jpg  000123.json  000123.txt  000123.cls

jpg, png and other images; json: weak labels (pipelines/weak.py's keys), `caption`, and text that becomes tags of the
asset; txt: a caption; cls: a class, by name or id. The tars are not compressed: an image is read from its place in one.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipelines.corpus.base import Asset, Corpus, CorpusError, Entry, absolute, shards
from pipelines.corpus.read import filesystem, local_path, part_uri
from pipelines.weak import KEYS

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
BESIDE = ("json", "txt", "cls")
# What is said of one image; more is no label.
MAX_BESIDE_BYTES = 64_000_000
Sample = dict[str, tarfile.TarInfo]


class WebDatasetCorpus(Corpus):
    """The samples of one or more tars, the tars by name, the samples in their order; only headers and labels are read.

    An asset is "TAR/MEMBER". Raises CorpusError where there is no such file, or one that cannot be read.
    """

    def __init__(self, address: str) -> None:
        self.root = absolute(address)
        self._files = list(shards(self.root, (".tar",)))
        self._without = 0
        if not self._files:
            raise CorpusError(f"there is no .tar file at {self.root}")

    def remarks(self) -> tuple[str, ...]:
        return (f"{self._without} samples of {self.root} hold no image",) if self._without else ()

    def list(self) -> Iterator[Asset]:
        self._without = 0
        for file in self._files:
            try:
                with _opened(file.uri) as tar:
                    yield from self._assets(file, tar)
            except (OSError, tarfile.TarError) as error:
                hint = "; a compressed tar has to be unpacked once" if "invalid header" in str(error) else ""
                raise CorpusError(f"{file.uri} cannot be read: {error}{hint}") from error

    def _assets(self, file: Entry, tar: tarfile.TarFile) -> Iterator[Asset]:
        seen: set[str] = set()
        for sample in _samples(tar):
            image = next((sample[kind] for kind in IMAGES if kind in sample), None)
            if image is None:
                self._without += 1
                continue
            if image.name in seen:
                raise CorpusError(f"{file.uri} holds {image.name!r} twice")
            seen.add(image.name)
            weak, tags = _said({kind: _content(tar, sample[kind]) for kind in BESIDE if kind in sample})
            uri = part_uri(file.uri, image.offset_data, image.size)
            yield Asset(f"{file.path}/{image.name}", uri, image.size, f"{file.size_bytes}-{file.mtag}", weak, tags)


@contextmanager
def _opened(uri: str) -> Iterator[tarfile.TarFile]:
    path = local_path(uri)
    if path is not None:
        stream: IO[bytes] = Path(path).open("rb")  # noqa: SIM115 - closed below
    else:
        fs, inner = filesystem(uri)
        stream = fs.open(inner, "rb")
    with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        yield tar


def _samples(tar: tarfile.TarFile) -> Iterator[Sample]:
    """Extension to member, of every run of members of one name."""
    name, sample = "", Sample()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # a tar remembers them all, and corpora are large
        folder, slash, file = member.name.rpartition("/")
        stem, _, kind = file.partition(".")
        if not member.isfile() or not stem:
            continue
        if sample and folder + slash + stem != name:
            yield sample
            sample = {}
        name = folder + slash + stem
        sample[kind.lower()] = member
    if sample:
        yield sample
    # A damaged header in the middle is the end to tarfile; what lies behind it must not be lost unsaid.
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"it is damaged behind {name!r}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None or member.size > MAX_BESIDE_BYTES:
        return b""
    with stream:
        return stream.read()


def _said(beside: dict[str, bytes]) -> tuple[dict[str, Any], dict[str, str]]:
    """(weak labels, tags of the asset) that stand beside an image."""
    weak: dict[str, Any] = {}
    tags: dict[str, str] = {}
    problems = []
    texts = {kind: data.decode("utf-8-sig", "replace").strip() for kind, data in beside.items()}
    if texts.get("txt"):
        weak["captions"] = [texts["txt"]]
    if name := texts.get("cls"):
        weak["tags"] = [int(name) if name.isdecimal() else name]
    if "json" in texts:
        try:
            record = json.loads(texts["json"])
        except ValueError as error:
            record, problems = {}, [f"the member .json is not JSON: {error}"]
        if not isinstance(record, dict):
            record, problems = {}, [f"the member .json is not a mapping: {record!r:.60}"]
        if isinstance(record.get("caption"), str):
            weak["captions"] = [*weak.get("captions", []), record.pop("caption")]
        inner = record.pop("weak", None)
        record |= inner if isinstance(inner, dict) else {}
        weak |= {key: record.pop(key) for key in KEYS if key in record}
        tags = {key: value for key, value in record.items() if isinstance(value, str)}
    return ({**weak, "problems": problems} if problems else weak), tags
