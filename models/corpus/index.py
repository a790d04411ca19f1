"""An index of unit embeddings: exact nearest neighbours in bounded memory."""

import json
import os
import uuid
from collections import Counter
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Names = npt.NDArray[np.str_]

MANIFEST = "index.json"
VERSION = 1
CHUNK = 16384
"""Embeddings compared at once: about 30 MB beside the queries for 256 numbers each."""


@dataclass(frozen=True)
class _Part:
    """Embeddings that were added together. ids: UTF-8 [n]. rows: float16 [n, D]. name: of their files, once saved."""

    ids: npt.NDArray[np.bytes_]
    rows: npt.NDArray[np.float16]
    name: str | None = None


class Index:
    """Embeddings by id, half precision: 0.5 GB a million of 256 numbers, on disk once saved.

    Rows keep the order in which they were added. What is in it is never changed.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._parts: list[_Part] = []
        self._known: set[str] = set()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def keys(self) -> Set[str]:
        """All ids."""
        return self._known

    def add(self, ids: Sequence[str], embeddings: Floats) -> None:
        """Add embeddings float [N, D], scaled to unit length here, under N ids.

        Raises ValueError, and adds nothing, for another shape, an id that is there already, or an embedding that is
        not finite or zero.
        """
        names = [str(id) for id in ids]
        if embeddings.shape != (len(names), self.dimension):
            raise ValueError(
                f"{len(names)} ids need embeddings [{len(names)}, {self.dimension}], not {embeddings.shape}"
            )
        if not names:
            return
        new = set(names)
        if len(new) < len(names) or new & self._known:
            twice = new & self._known or {name for name, times in Counter(names).items() if times > 1}
            raise ValueError(f"{len(twice)} ids are in the index already or given twice, such as {min(twice)!r}")
        # Half precision from the start, so that a search before saving equals one after.
        self._parts.append(_Part(np.array([name.encode() for name in names]), _unit(embeddings).astype(np.float16)))
        self._known |= new

    def query(
        self, queries: Floats, k: int, chunk: int = CHUNK, among: Collection[str] | None = None
    ) -> tuple[Names, Floats]:
        """The k most similar embeddings of each query: ids str [Q, k] and cosines float32 [Q, k], best first.

        queries: float [Q, D], scaled to unit length here. k: at least 1; fewer come from a smaller index. chunk:
        embeddings compared at once; changes nothing but memory. Ties go to what was added first. among: the ids that
        may be answered; None: all.
        Raises ValueError for another shape, or a query that is not finite or zero.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries must be [Q, {self.dimension}], not {queries.shape}")
        if k < 1 or chunk < 1:
            raise ValueError(f"k and chunk must be at least 1, not {k} and {chunk}")
        # Double precision rounded to single: a matrix product's last digits depend on how its rows are grouped.
        unit = _unit(queries).astype(np.float64)
        best = np.zeros((len(queries), 0), np.float32)
        rows = np.zeros((len(queries), 0), np.int64)
        only = None if among is None else np.array(sorted(id.encode() for id in among), "S")
        offset = 0
        for part in self._parts:
            for start in range(0, len(part.rows), chunk):
                block = np.asarray(part.rows[start : start + chunk], np.float64)
                numbers = np.arange(len(block))
                if only is not None:
                    numbers = _found(part.ids[start : start + chunk], only)
                    block = block[numbers]
                sims = (unit @ block.T).astype(np.float32)
                best, rows = _merge(best, rows, sims, offset + start + numbers, k)
            offset += len(part.rows)
        return self._names(rows), best

    def save(self, folder: str | Path) -> None:
        """Write what is not in the folder yet, then the list of parts in one step: a reader sees all of it or none.

        Saving to the folder it was loaded from adds to it. Any other index in the folder is replaced. One writer at a
        time.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads((folder / MANIFEST).read_text())["parts"] if (folder / MANIFEST).exists() else []
        parts = []
        for part in self._parts:
            name = part.name or uuid.uuid4().hex
            if not (folder / f"{name}.rows.npy").exists():
                _write(folder / f"{name}.rows.npy", part.rows)
                _write(folder / f"{name}.ids.npy", part.ids)
            parts.append(_Part(part.ids, part.rows, name))
        listed = {"version": VERSION, "dimension": self.dimension, "parts": [part.name for part in parts]}
        draft = folder / f"{uuid.uuid4().hex}.tmp"
        draft.write_text(json.dumps(listed))
        draft.replace(folder / MANIFEST)
        self._parts = parts
        for name in set(before) - {part.name for part in parts}:
            (folder / f"{name}.rows.npy").unlink(missing_ok=True)
            (folder / f"{name}.ids.npy").unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Index":
        """The index that was saved in a folder; embeddings stay on disk and are mapped.

        Raises FileNotFoundError without one, ValueError if its files do not fit each other.
        """
        folder = Path(folder)
        listed = json.loads((folder / MANIFEST).read_text())
        if listed.get("version") != VERSION:
            raise ValueError(f"{folder / MANIFEST} is of version {listed.get('version')}; this is version {VERSION}")
        index = cls(listed["dimension"])
        for name in listed["parts"]:
            ids = np.load(folder / f"{name}.ids.npy", allow_pickle=False)
            rows = np.load(folder / f"{name}.rows.npy", mmap_mode="r", allow_pickle=False)
            if rows.shape != (len(ids), index.dimension) or rows.dtype != np.float16:
                raise ValueError(f"{name} in {folder} holds {len(ids)} ids but embeddings {rows.dtype} {rows.shape}")
            index._parts.append(_Part(ids, rows, name))
            index._known.update(id.decode() for id in ids.tolist())
        return index

    def _names(self, rows: npt.NDArray[np.int64]) -> Names:
        if not self._parts or not rows.size:
            return np.zeros(rows.shape, "<U1")
        starts = np.cumsum([0] + [len(part.ids) for part in self._parts])
        where = np.searchsorted(starts, rows.ravel(), side="right") - 1
        places = zip(where, rows.ravel(), strict=True)
        found = [self._parts[part].ids[row - starts[part]].decode() for part, row in places]
        return np.array(found).reshape(rows.shape)


def _found(ids: npt.NDArray[np.bytes_], only: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """The places of those ids that are among the sorted `only`."""
    if not len(only):
        return np.zeros(0, np.int64)
    place = np.minimum(np.searchsorted(only, ids), len(only) - 1)
    return np.flatnonzero(only[place] == ids)


def _merge(
    best: Floats, rows: npt.NDArray[np.int64], sims: Floats, numbers: npt.NDArray[np.int64], k: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The k best of what was best so far and of sims float32 [Q, n], whose columns are the rows `numbers`."""
    if not len(numbers):
        return best, rows
    new_rows = np.broadcast_to(numbers, sims.shape)
    sims, rows = np.concatenate([best, sims], 1), np.concatenate([rows, new_rows], 1)
    k = min(k, sims.shape[1])
    # Only what reaches the k-th best is sorted. Earlier rows come first, so a stable sort settles ties their way.
    limit = -np.partition(-sims, k - 1, axis=1)[:, k - 1]
    kept_sims, kept_rows = np.empty((len(sims), k), np.float32), np.empty((len(sims), k), np.int64)
    for query, (values, least) in enumerate(zip(sims, limit, strict=True)):
        reach = np.flatnonzero(values >= least)
        order = reach[np.argsort(-values[reach], kind="stable")[:k]]
        kept_sims[query], kept_rows[query] = values[order], rows[query, order]
    return kept_sims, kept_rows


def _unit(embeddings: Floats) -> Floats:
    values = np.asarray(embeddings, np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        raise ValueError("an embedding is not finite or zero: it has no direction")
    return np.asarray(values / length, np.float32)


def _write(path: Path, array: npt.NDArray[np.generic]) -> None:
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with draft.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
