"""Which images there are, where their targets lie and what they are for: some 250 bytes an image, no picture."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NO_SOURCE = -1
"""`source` of images that have no target."""
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Images in a stable order, one row each; N rows.

    assets, uris: Arrow strings. source: int8 [N], which of the sources has the target (NO_SOURCE: none). item: int64
    [N], the target's place in its source. shard: int32 [N], the part of the source that is read at once, counted over
    all sources. areas: float16 [N, C], share of the image by channel. quality: float32 [N], 0..1. digests: of the
    bytes, "" where unknown.
    """

    assets: pa.StringArray
    uris: pa.StringArray
    source: npt.NDArray[np.int8]
    item: Indices
    shard: npt.NDArray[np.int32]
    areas: npt.NDArray[np.float16]
    quality: npt.NDArray[np.float32]
    digests: Sequence[str] | pa.StringArray

    def __len__(self) -> int:
        return len(self.source)

    def asset(self, index: int) -> str:
        return str(self.assets[index].as_py())

    def uri(self, index: int) -> str:
        return str(self.uris[index].as_py())

    def take(self, rows: Indices) -> "Images":
        """The images of these rows, in their order."""
        picked = pa.array(rows)
        return Images(
            self.assets.take(picked),
            self.uris.take(picked),
            self.source[rows],
            self.item[rows],
            self.shard[rows],
            self.areas[rows],
            self.quality[rows],
            pa.array(self.digests, pa.string()).take(picked),
        )

    @classmethod
    def join(cls, parts: Sequence["Images"]) -> "Images":
        """All rows of the parts; their shards are counted on."""
        shards, offset = [], 0
        for part in parts:
            shards.append(part.shard + offset)
            offset += int(part.shard.max(initial=-1)) + 1
        return cls(
            pa.chunked_array([part.assets for part in parts], pa.string()).combine_chunks(),
            pa.chunked_array([part.uris for part in parts], pa.string()).combine_chunks(),
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.item for part in parts]),
            np.concatenate(shards).astype(np.int32),
            np.concatenate([part.areas for part in parts]),
            np.concatenate([part.quality for part in parts]),
            pa.chunked_array([pa.array(part.digests, pa.string()) for part in parts], pa.string()).combine_chunks(),
        )


@dataclass(frozen=True)
class Plan:
    """images, and which of them train, validate, or are there without a target: disjoint rows of `images`."""

    images: Images
    train: Indices
    validation: Indices
    unlabeled: Indices

    @property
    def digest(self) -> str:
        """sha256, hex, of what is seen in which role; what pictures show is not in it."""
        total = hashlib.sha256()
        for name in ("train", "validation", "unlabeled"):
            total.update(f"{name}:{len(getattr(self, name))}\n".encode())
            for index in getattr(self, name):
                total.update(f"{self.images.asset(int(index))}\n".encode())
        return total.hexdigest()
