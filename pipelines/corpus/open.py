"""From what the user wrote after `--corpus` to a reader."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from pipelines.corpus.base import Corpus, CorpusError, absolute, forget_listings, join, kind, walk
from pipelines.corpus.folder import may_be_image
from pipelines.corpus.sidecar import WithSidecar
from pipelines.weak import FORMS

LAYOUTS = ("sample", "folder", "voc", "coco", "parquet", "wds", "jsonl")
SHARDS = ((".parquet", "parquet"), (".tar", "wds"))  # files of many images
DETECT_FILES = 1000  # a look at so many files tells what a folder holds
PREFIX = re.compile(rf"({'|'.join(LAYOUTS)}):(?!//)(.*)", re.DOTALL)


class ImageSettings(Protocol):
    """What readers need of the section `images`."""

    column: str | None
    root: str | None


class CorpusSettings(Protocol):
    """What `open_corpus` needs of a job's config. weak: forms, None for all that records carry."""

    corpus: str
    split: str | None
    weak_file: str | None

    @property
    def weak(self) -> Sequence[str] | None: ...

    @property
    def images(self) -> ImageSettings: ...


def open_corpus(config: CorpusSettings) -> Corpus:
    """The corpus at `config.corpus`, its layout by prefix ("voc:PATH") or detected. Raises CorpusError."""
    try:
        match = PREFIX.fullmatch(config.corpus)
        forget_listings(match[2] if match else config.corpus)
        layout, address = split_prefix(config.corpus)
        if not address and layout != "sample":
            raise CorpusError(f"{layout}: needs a path or URL behind it")
        if config.split is not None and layout != "voc":
            raise CorpusError(f"the layout {layout} has no splits: leave --split out, or name a VOC layout")
        corpus = _reader(layout, address, config)
        forms = None if config.weak is None else tuple(config.weak)
        return WithSidecar(corpus, config.weak_file, forms)
    except ImportError as error:
        raise CorpusError(f"{config.corpus} needs a package that is not installed: {error}") from error
    except OSError as error:
        raise CorpusError(f"{config.corpus} cannot be opened: {error}") from error
    except Exception as error:
        # S3 without credentials, or nobody at the endpoint: these errors are no OSErrors
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise
        raise CorpusError(f"{config.corpus} cannot be opened: {error}") from error


def split_prefix(text: str) -> tuple[str, str]:
    """(layout, address): "voc:/data/VOC2012" -> ("voc", "/data/VOC2012"). Without a prefix the layout is detected."""
    if match := PREFIX.fullmatch(text):
        return match[1], match[2]
    if not text.strip():
        raise CorpusError("name a corpus: a path, a URL, or sample: for the photographs that ship")
    if text == "sample" and kind(absolute(text)) == "missing":
        return "sample", ""  # YAML does not like the colon
    return detect(absolute(text)), text


def detect(address: str) -> str:
    """The layout at an address, by its extension and what lies there. Raises CorpusError where nothing does."""
    lower = address.lower()
    endings = (*SHARDS, (".jsonl", "jsonl"), (".ndjson", "jsonl"), (".json", "coco"))
    for suffix, layout in endings:
        if lower.endswith(suffix):
            return layout
    found = kind(address)
    if found == "missing":
        raise CorpusError(f"there is nothing at {address} (layouts: {', '.join(f'{name}:' for name in LAYOUTS)})")
    if found == "file":
        return "folder"
    if kind(join(address, "JPEGImages")) == "folder":
        return "voc"
    names = [entry.path.lower() for entry in islice(walk(address), DETECT_FILES)]
    images = any(map(may_be_image, names))
    held = (layout for suffix, layout in SHARDS if any(name.endswith(suffix) for name in names))
    return "folder" if images else next(held, "folder")


def _reader(layout: str, address: str, config: CorpusSettings) -> Corpus:
    # a reader's imports are only paid where it is used
    forms = tuple(form for form in (*FORMS, "captions") if form in (config.weak or ()))
    if "maps" in (config.weak or ()):
        forms = (*forms, "partial", "noisy")
    if layout == "sample":
        from pipelines.corpus.sample import SampleCorpus

        return SampleCorpus()
    if layout == "voc":
        from pipelines.corpus.voc import VocCorpus

        return VocCorpus(address, config.split, forms)
    if layout == "coco":
        from pipelines.corpus.coco import CocoCorpus

        return CocoCorpus(address, config.images.root, forms)
    if layout == "parquet":
        from pipelines.corpus.parquet import ParquetCorpus

        return ParquetCorpus(address, config.images.column, config.images.root)
    if layout == "wds":
        from pipelines.corpus.webdataset import WebDatasetCorpus

        return WebDatasetCorpus(address)
    if layout == "jsonl":
        from pipelines.corpus.jsonl import JsonlCorpus

        return JsonlCorpus(address, config.images.root)
    from pipelines.corpus.folder import FolderCorpus

    return FolderCorpus(address)
