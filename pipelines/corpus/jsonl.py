"""`jsonl:PATH_OR_URL`: a manifest, one JSON object a line, with the address of an image and its weak labels:

    {"path": "cats/1.jpg", "tags": ["cat"], "license": "CC0"}
    {"path": "s3://bucket/2.jpg", "weak": {"boxes": [{"box": [10, 20, 110, 220], "class": "cat"}]}}

Addresses are relative to the manifest's folder, or to `--images.root`. `size_bytes` and `mtag` may be given for
storage that does not tell them. Text under a key that is no weak label is a tag of the asset (licence, source).
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from pipelines.corpus.base import UNKNOWN_SIZE, Asset, Corpus, CorpusError, absolute, facts, join, kind
from pipelines.corpus.read import local_path
from pipelines.corpus.sidecar import Record, read_records, resolve_maps
from pipelines.weak import KEYS

REMOTE_REQUESTS = 32  # requests at once: each tells the size of one image, and is latency rather than work


class JsonlCorpus(Corpus):
    """The images that a manifest names, in its order. Raises CorpusError where the file is missing."""

    def __init__(self, address: str, images_root: str | None = None) -> None:
        self.manifest = absolute(address)
        self.root = absolute(images_root) if images_root else self.manifest.rpartition("/")[0]
        if kind(self.manifest) != "file":
            raise CorpusError(f"there is no manifest at {self.manifest}")

    def list(self) -> Iterator[Asset]:
        seen: dict[bytes, bytes] = {}
        for number, asset in self._assets():
            # digests only, so that memory stays small for millions of lines
            key, value = _short_digest(asset.asset), _short_digest([asset.weak, asset.tags])
            if seen.setdefault(key, value) != value:
                raise CorpusError(f"{self.manifest}, line {number}, names {asset.asset!r} again, with other labels")
            if seen[key] is value:  # the first of equal lines
                yield asset

    def _assets(self) -> Iterator[tuple[int, Asset]]:
        records = read_records(self.manifest)
        if local_path(self.root) is not None:
            yield from (self._asset(record) for record in records)
            return
        with ThreadPoolExecutor(REMOTE_REQUESTS) as pool:
            while part := list(islice(records, 1024)):
                yield from pool.map(self._asset, part)

    def _asset(self, record: Record) -> tuple[int, Asset]:
        number, path, rest = record
        uri = join(self.root, path)
        weak = {key: rest.pop(key) for key in KEYS if key in rest}
        size_bytes, mtag = rest.pop("size_bytes", None), rest.pop("mtag", None)
        if size_bytes is None and mtag is None:
            size_bytes, mtag = facts(uri)
        elif not isinstance(size_bytes or 0, int):
            raise CorpusError(f"{self.manifest}, line {number}: size_bytes is no number: {size_bytes!r}")
        tags = {key: value for key, value in rest.items() if isinstance(value, str)}
        weak |= {key: value for key, value in rest.items() if key not in tags and isinstance(value, dict | list)}
        size_bytes = UNKNOWN_SIZE if size_bytes is None else size_bytes
        return number, Asset(path, uri, size_bytes, str(mtag or ""), resolve_maps(weak, self.root), tags)


def _short_digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).digest()
