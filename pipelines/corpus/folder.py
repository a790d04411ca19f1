"""`folder:PATH_OR_URL`: every image below a folder, or one image file.

Images with a wrong or missing extension are common, so a file counts as an image unless its extension says that it is
text, code, a table, an archive, audio or video, or its name is hidden. What is then not an image after all goes to
quarantine, with its reason, when it is read.
"""

from collections.abc import Iterator

from pipelines.corpus.base import Asset, Corpus, CorpusError, absolute, facts, kind, walk
from pipelines.corpus.read import local_uri

TEXT_AND_CODE = (
    "txt md rst json jsonl ndjson yaml yml toml ini cfg csv tsv xml html htm css js py pyc ipynb sh log srt bib"
)
DATA = (
    "parquet arrow feather npy npz mat pkl pickle h5 hdf5 db sqlite pt pth safetensors onnx crc md5 sha256 lock license"
)
OTHER_MEDIA = "zip tar gz tgz bz2 xz 7z rar mp4 mov avi mkv webm mp3 wav flac pdf doc docx xls xlsx"
NOT_IMAGES = frozenset(f"{TEXT_AND_CODE} {DATA} {OTHER_MEDIA}".split())
NOT_IMAGE_NAMES = frozenset(
    ["readme", "license", "licence", "copying", "notice", "makefile", "thumbs.db", "desktop.ini", "_success"]
)


def may_be_image(path: str) -> bool:
    """Whether a file is worth opening, by its name alone."""
    name = path.rpartition("/")[2].lower()
    return name not in NOT_IMAGE_NAMES and ("." not in name or name.rpartition(".")[2] not in NOT_IMAGES)


class FolderCorpus(Corpus):
    """A folder, recursive. Raises CorpusError where there is nothing at `address`."""

    def __init__(self, address: str) -> None:
        self.root = absolute(address)
        self._kind = kind(self.root)
        if self._kind == "missing":
            raise CorpusError(f"there is no folder or file at {self.root}")

    def list(self) -> Iterator[Asset]:
        if self._kind == "file":
            yield Asset(self.root.rpartition("/")[2], local_uri(self.root), *facts(self.root))
            return
        for entry in walk(self.root):
            if may_be_image(entry.path):
                yield Asset(entry.path, entry.uri, entry.size_bytes, entry.mtag)
