"""The index of a corpus: the global embeddings of its images, from stored evidence, to be searched.

`FOLDER/learned/index/<observe id>/` holds them by evidence key. What is there is never read again; what is new is
added, a part at a time, and each part counts as soon as it is written. Evidence that is gone leaves the index with it.
"""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.corpus.index import MANIFEST, Index
from pipelines import storage
from pipelines.execution import WRITER_CPUS, set_up_data
from pipelines.flow.progress import Progress, say
from pipelines.flow.stop import RunFailed
from pipelines.learned import FOLDER
from pipelines.tables.evidence import EvidenceStore

NAME = "index"
PLACES = pa.schema([("shard", pa.string()), ("evidence_key", pa.string())])
FOUND = pa.schema([("evidence_key", pa.string()), ("embedding", pa.binary())])
# Images that one task reads the embeddings of: a second of work.
ROWS_PER_TASK = 512
# Embeddings in one part of the index: what is in memory at once, 16 MB of 256 numbers, and what a kill costs.
PART = 16384


@contextlib.contextmanager
def opened(
    root: str,
    store: EvidenceStore,
    places: Mapping[str, str],
    there: Collection[str],
    every_seconds: float,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Index]:
    """The index of `store` below `root`, with the images at `places` (evidence key to shard) in it. there: further keys
    that may stay. prepare: is called before something is added, and has to see to it that Ray runs. Raises RunFailed
    where there is no evidence."""
    url = storage.join(root, FOLDER, NAME, store.url.rsplit("/", 1)[-1])
    with _local(url) as folder:
        index = load(folder)
        if index is not None and not index.keys() <= {*places, *there}:
            say("index: evidence of some images is gone; made anew")
            index = None
        missing = [(shard, key) for key, shard in places.items() if index is None or key not in index]
        if missing:
            prepare()
            index = _add(index, folder, store, missing, every_seconds)
            _bring(folder, url)
        if index is None:
            raise RunFailed("index: there is no evidence to search")
        yield index


def load(folder: Path) -> Index | None:
    """None where there is none, or a part of it is gone or was changed."""
    try:
        return Index.load(folder)
    except (FileNotFoundError, ValueError):
        return None


def _add(
    index: Index | None, folder: Path, store: EvidenceStore, places: list[tuple[str, str]], every_seconds: float
) -> Index | None:
    import ray

    set_up_data()
    places = sorted(places)  # One task reads few shards.
    blocks = [
        pa.Table.from_pylist([dict(zip(PLACES.names, place, strict=True)) for place in places[i : i + ROWS_PER_TASK]])
        for i in range(0, len(places), ROWS_PER_TASK)
    ]
    dataset = ray.data.from_arrow(blocks).map_batches(
        partial(read_embeddings, store=store), batch_size=None, batch_format="pyarrow", num_cpus=WRITER_CPUS
    )
    progress = Progress("index", len(places), every_seconds)
    held: dict[str, bytes] = {}
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        held |= dict(zip(batch["evidence_key"].to_pylist(), batch["embedding"].to_pylist(), strict=True))
        progress.add(batch.num_rows)
        if len(held) >= PART:
            index, held = _saved(index, folder, held), {}
    progress.close()
    return _saved(index, folder, held) if held else index


def _saved(index: Index | None, folder: Path, held: Mapping[str, bytes]) -> Index:
    """The index with these embeddings, read back, so that they are mapped and no longer in memory."""
    keys = sorted(held)
    rows: npt.NDArray[np.float32] = np.stack([np.frombuffer(held[key], "<f4") for key in keys])
    index = Index(rows.shape[1]) if index is None else index
    index.add(keys, rows)
    index.save(folder)
    return Index.load(folder)


def read_embeddings(block: pa.Table, store: EvidenceStore) -> pa.Table:
    """In a worker: PLACES in, FOUND out; evidence that is gone is left out."""
    rows: list[dict[str, Any]] = []
    for row in store.read(zip(block["shard"].to_pylist(), block["evidence_key"].to_pylist(), strict=True), FOUND.names):
        if any(row["embedding"]):  # Nothing but zeros has no direction, and nothing like it.
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=FOUND)


@contextlib.contextmanager
def _local(url: str) -> Iterator[Path]:
    """The folder itself, or of a URL a copy that lasts as long as this."""
    if "://" not in url:
        yield Path(url)
        return
    with tempfile.TemporaryDirectory() as name:
        for address in storage.list_files(url):
            (Path(name) / address.rpartition("/")[2]).write_bytes(storage.read_bytes(address))
        yield Path(name)


def _bring(folder: Path, url: str) -> None:
    """Of a URL: upload what is new, then the list of parts; what is no part any more goes after that."""
    if "://" not in url:
        return
    there = {address.rpartition("/")[2] for address in storage.list_files(url)}
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
        if path.name not in there or path.name == MANIFEST:
            storage.write_bytes(storage.join(url, path.name), path.read_bytes())
    for name in there - {path.name for path in folder.iterdir()}:
        storage.remove(storage.join(url, name))


def remove(root: str) -> int:
    """Remove the indices of a folder, and of what lies below it; returns how many files. They are made again from the
    evidence that is left."""
    paths = [path for path in storage.tree(root) if f"/{FOLDER}/{NAME}/" in f"/{path}"]
    for path in paths:
        storage.remove(storage.join(root, path))
    return len(paths)
