"""Backbone features of images, computed once: by actors of Ray Data, kept in files, whatever head they are for.

A file holds some images, each a float16 tensor [432, h, w] under the digest of its bytes. What the headers of the files
name is done, so a run that was killed goes on with the rest.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from pipelines import storage
from pipelines.execution import WRITER_CPUS, Layout, set_up_data
from pipelines.flow.observing import TODO
from pipelines.flow.progress import Progress, say
from pipelines.flow.run import digest
from pipelines.stages.base import Record
from pipelines.stages.coordinator import Coordinator
from pipelines.stages.observe import ARRAY, ModelStage, ObservePool, PoolConfig, pool_columns, unpack
from pipelines.stages.read import ReadConfig

VERSION = 1
"""Raise it when the same picture gives other features."""
CHUNK_IMAGES = 4
_HEADER = 8
_DONE = pa.schema([("rows", pa.int64()), ("seconds", pa.float64()), ("bad", pa.string())])

Wanted = tuple[str, str, str]
"""Asset, address and digest of an image."""


def features_id(size_px: int, picture_px: int) -> str:
    """Of what features depend on beside the bytes. picture_px: longer side that pictures are read with."""
    return digest(["lite0", "imagenet", size_px, picture_px, VERSION])


class FeatureStage(ModelStage):
    """The frozen backbone as a stage: a picture to `cells`, float16 [432, h, w]."""

    def __init__(self, size_px: int, device: str) -> None:
        from models.localize.localiser import Localiser, LocaliserConfig

        self.localiser = Localiser(LocaliserConfig(1, size_px=size_px), pretrained=True).to(device).eval()

    def prepare(self, record: Record) -> npt.NDArray[np.uint8]:
        picture: npt.NDArray[np.uint8] = record["picture"]
        return picture

    def forward(self, prepared: list[npt.NDArray[np.uint8]]) -> list[Tensor]:
        return [self.localiser.features(picture) for picture in prepared]

    def finish(self, raw: list[Tensor], records: list[Record]) -> None:
        for record, cells in zip(records, raw, strict=True):
            record["cells"] = cells.half().cpu().numpy()
            record.pop("picture", None)


class FeatureStore:
    """The files of a folder, local or a URL; nothing is lost when it is copied to a process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files: dict[str, Any] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __reduce__(self) -> Any:
        return FeatureStore, (self.url,)

    def known(self) -> dict[str, str]:
        """Digest of each image that there is, to the name of its file."""
        fs, _ = storage.filesystem(self.url)
        found: dict[str, str] = {}
        for address in storage.list_files(self.url):
            if not address.endswith(".safetensors"):
                continue
            path = storage.filesystem(address)[1]
            length = int.from_bytes(fs.cat_file(path, start=0, end=_HEADER), "little")
            header = json.loads(fs.cat_file(path, start=_HEADER, end=_HEADER + length))
            found |= dict.fromkeys(header.keys() - {"__metadata__"}, address.rpartition("/")[2])
        return found

    def write(self, images: Mapping[str, npt.NDArray[np.float16]]) -> None:
        """One file, whole or not at all, of images by digest."""
        from safetensors.numpy import save

        name = hashlib.sha256("".join(sorted(images)).encode()).hexdigest()[:32]
        storage.write_bytes(storage.join(self.url, f"{name}.safetensors"), save(dict(images)))

    def read(self, file: str, digest: str) -> Tensor:
        """float16 [432, h, w]; the file is mapped into memory, and fetched first where it is far away."""
        from safetensors import safe_open

        if file not in self._files:
            self._files[file] = safe_open(self._local(file), framework="pt")
        cells: Tensor = self._files[file].get_tensor(digest)
        return cells

    def _local(self, file: str) -> str:
        if "://" not in self.url:
            return storage.join(self.url, file)
        self._scratch = self._scratch or tempfile.TemporaryDirectory()
        path = Path(self._scratch.name) / file
        path.write_bytes(storage.read_bytes(storage.join(self.url, file)))
        return str(path)


def extract(
    store: FeatureStore, images: Iterable[Wanted], size_px: int, read: ReadConfig, plan: Layout, every_seconds: float
) -> dict[str, str]:
    """Compute what is missing; asset to reason of images that have no features.

    Raises whatever Ray Data does where an actor cannot be made. Images whose bytes are no more what they were are bad;
    but where another address has the same bytes, that one is read.
    """
    known = store.known()
    copies: dict[str, list[Wanted]] = {}
    for one in images:
        if one[2] not in known:
            copies.setdefault(one[2], []).append(one)
    how = size_px, read, plan, every_seconds
    bad = _compute(store, [same[-1] for same in copies.values()], *how, f"{len(known):,} are there")
    failed = [same for same in copies.values() if same[-1][0] in bad]
    others = [one for same in failed for one in same[:-1]]
    bad |= _compute(store, others, *how, "copies of what could not be read")
    return {one[0]: bad[one[0]] for same in failed if all(one[0] in bad for one in same) for one in same}


def _compute(
    store: FeatureStore,
    rows: Sequence[Wanted],
    size_px: int,
    read: ReadConfig,
    plan: Layout,
    every_seconds: float,
    remark: str,
) -> dict[str, str]:
    """Of these images, into files; asset to reason of those that have no features."""
    import ray

    if not rows:
        return {}
    set_up_data()
    size = plan.rows_per_shard
    blocks = [_block(rows[start : start + size]) for start in range(0, len(rows), size)]
    actors = min(plan.actors, len(blocks))
    say(f"features: {len(rows):,} images on {actors} {plan.device} actors; {remark}")
    build = partial(FeatureStage, size_px, plan.device)
    pool = PoolConfig(build, read, pool_columns(pa.field("cells", ARRAY)), CHUNK_IMAGES, threads=1)
    coordinator = ray.remote(Coordinator).options(num_cpus=0).remote([])
    done = (
        ray.data.from_arrow(blocks)
        .map_batches(
            ObservePool,
            fn_constructor_args=(pool, coordinator),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
            num_cpus=plan.resources.cpus,
            num_gpus=plan.resources.gpus or None,
        )
        .map_batches(
            partial(_write, store=store, wanted={asset: digest for asset, _, digest in rows}),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=WRITER_CPUS,
        )
    )
    progress = Progress("features", len(rows), every_seconds, actors)
    bad: dict[str, str] = {}
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            reasons = json.loads(row["bad"])
            bad |= reasons
            progress.add(row["rows"], len(reasons), 0, row["seconds"])
    progress.close()
    ray.kill(coordinator)
    return bad


def _block(rows: Sequence[Wanted]) -> pa.Table:
    plain = {"size_bytes": 0, "mtag": "", "hints": "", "hints_digest": ""}
    return pa.Table.from_pylist([{"asset": asset, "uri": uri, **plain} for asset, uri, _ in rows], schema=TODO)


def _write(block: pa.Table, store: FeatureStore, wanted: Mapping[str, str]) -> pa.Table:
    """In a task: the features of a block to one file."""
    rows = [unpack(row) for row in block.to_pylist()]
    good, bad = {}, {}
    for row in rows:
        if row["outcome"] != "ok":
            bad[row["asset"]] = str(row["reason"]).strip().splitlines()[-1]
        elif row["digest"] != wanted[row["asset"]]:
            bad[row["asset"]] = "it has other bytes now than when it was labeled"
        else:
            good[row["digest"]] = row["cells"]
    if good:
        store.write(good)
    seconds = sum(row.get("pool_seconds", 0.0) for row in rows)
    return pa.Table.from_pylist([{"rows": len(rows), "seconds": seconds, "bad": json.dumps(bad)}], schema=_DONE)
