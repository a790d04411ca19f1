"""One affinity for all that flows over an image: how much each place takes from every other place.

Where it comes from differs (features, colours, regions, attention), what is done with it does not: balance it, walk
along it, send maps through it. Attention's affinity in ExCEL (2025) is `from_attention(...).sinkhorn(3).power(2)`; the
refinement by instances of P2Seg (2024) is `from_regions(instances)`; PAR's is `from_color(...)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

from models.refine.par import affinity as par_affinity

Floats = npt.NDArray[np.float32]
BALANCED = 1e-4
"""Rows that sum to 1 up to this are balanced: further rounds change nothing that a map shows."""
FLOOR = 1e-12


@dataclass(frozen=True)
class Affinity:
    """Flow between the N = h * w places of a grid.

    matrix: float32 [N, N], dense or sparse, all >= 0; row x is what place x takes from the others.
    size: (h, w). steps: how many times maps are sent through the matrix; see `power`.
    """

    matrix: Floats | csr_matrix
    size: tuple[int, int]
    steps: int = 1

    def __post_init__(self) -> None:
        count = self.size[0] * self.size[1]
        if self.matrix.shape != (count, count):
            raise ValueError(f"a grid of {self.size} has {count} places, the affinity {self.matrix.shape}")

    @classmethod
    def from_features(cls, features: Floats, temperature: float = 0.1) -> "Affinity":
        """exp((cosine - 1) / temperature) of features float [h, w, D]; symmetric, dense.

        The image's mean feature is taken off first: without that all places of one image look alike.
        """
        height, width, depth = features.shape
        flat = np.asarray(features, np.float32).reshape(-1, depth)
        unit = flat - flat.mean(0)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-8)
        return cls(np.asarray(np.exp((unit @ unit.T - 1) / np.float32(temperature)), np.float32), (height, width))

    @classmethod
    def from_color(
        cls,
        guide: Floats,
        dilations: Sequence[int] = (1, 2),
        color_weight: float = 0.15,
        position_weight: float = 0.01,
    ) -> "Affinity":
        """PAR's affinity of near places in a guide float32 [h, w, channels]; rows sum to 1, sparse, not symmetric."""
        flow = par_affinity(guide, tuple(dilations), color_weight, position_weight)
        return cls(flow, (guide.shape[0], guide.shape[1]))

    @classmethod
    def from_regions(cls, regions: npt.NDArray[np.integer] | Floats, weights: Floats | None = None) -> "Affinity":
        """Places of one region take from each other alike; symmetric, dense.

        regions: int [h, w], superpixels or instances that cover the grid; then rows sum to 1, and sending a map through
        is its mean in each region. Or float32 [M, h, w], masks 0..1 that may overlap and leave places out, with weights
        [M] >= 0 (default 1): places share a mask as far as both lie in it, and a place in no mask keeps its own value.
        """
        size = (int(regions.shape[-2]), int(regions.shape[-1]))
        if regions.ndim == 2:
            _, region = np.unique(regions, return_inverse=True)
            region = region.reshape(-1)
            same = (region[:, None] == region[None]).astype(np.float32)
            return cls(same / np.bincount(region)[region][:, None].astype(np.float32), size)
        cover = np.asarray(regions, np.float32).reshape(len(regions), size[0] * size[1])
        given = np.ones(len(cover), np.float32) if weights is None else np.asarray(weights, np.float32)
        matrix = (cover * (given / np.maximum(cover.sum(1), 1e-6))[:, None]).T @ cover
        matrix[np.diag_indices(len(matrix))] += np.where(matrix.sum(1) > 1e-6, np.float32(0), np.float32(1))
        return cls(np.asarray(matrix, np.float32), size)

    @classmethod
    def from_attention(cls, attention: Floats, size: tuple[int, int]) -> "Affinity":
        """Attention between patches, float [N, N] or [L, N, N] (layers or heads, averaged); dense, not symmetric.

        Without the class token: attention[1:, 1:] of most towers.
        """
        mean = attention.mean(0) if attention.ndim == 3 else attention
        return cls(np.asarray(mean, np.float32), size)

    def sinkhorn(self, rounds: int = 20) -> "Affinity":
        """Symmetric and doubly stochastic: rows and columns sum to 1.

        The affinity is averaged with its transpose, then scaled by one diagonal from both sides (Knight, Ruiz and
        Ucar, 2014), which keeps it symmetric in every round, as scaling rows and columns in turn does not. What
        `rounds` leave unbalanced stays where it is, on the diagonal; a place that nothing flows to keeps its value.
        """
        matrix = self._multiplied()
        matrix = (matrix + matrix.T) * np.float32(0.5)
        scale = np.ones(matrix.shape[0], np.float64)
        rows = scale * (matrix @ scale)
        for _ in range(rounds):
            # A row of zeros would be scaled up in every round, to infinity.
            scale /= np.sqrt(np.where(rows > 0, np.maximum(rows, FLOOR), 1))
            rows = scale * (matrix @ scale)
            if np.abs(rows - 1)[rows > 0].max(initial=0) < BALANCED:
                break
        highest = max(float(rows.max(initial=0)), 1.0)
        by = (scale / np.sqrt(highest)).astype(np.float32)
        rest = np.maximum(1 - rows / highest, 0).astype(np.float32)
        if isinstance(matrix, csr_matrix):
            return Affinity((diags(by) @ matrix @ diags(by) + diags(rest)).tocsr(), self.size)
        out = np.asarray(matrix * by[:, None] * by[None], np.float32)
        out[np.diag_indices(len(out))] += rest
        return Affinity(out, self.size)

    def power(self, exponent: int) -> "Affinity":
        """The walk of `exponent` >= 0 steps; 0 leaves maps alone. An even power of a symmetric affinity has no negative
        eigenvalues. Nothing is multiplied until maps are sent."""
        if exponent < 0:
            raise ValueError(f"an affinity has no power {exponent}")
        return replace(self, steps=self.steps * exponent)

    def _multiplied(self) -> Floats | csr_matrix:
        if self.steps == 1:
            return self.matrix
        count = self.matrix.shape[0]
        out = diags(np.ones(count, np.float32), format="csr")
        if not isinstance(self.matrix, csr_matrix):
            return np.asarray(np.linalg.matrix_power(self.matrix, self.steps), np.float32)
        for _ in range(self.steps):
            out = (out @ self.matrix).tocsr()
        return out

    def dense(self) -> Floats:
        """The whole walk as one float32 [N, N]."""
        matrix = self._multiplied()
        return np.asarray(matrix.toarray() if isinstance(matrix, csr_matrix) else matrix, np.float32)

    def apply(self, maps: Floats, strength: float = 1.0) -> Floats:
        """Send float32 [K, h, w] through; strength 0..1 blends from the maps themselves (0: the input, untouched).

        Rows that sum to 1 keep each map within its range, columns that do so keep its sum.
        """
        if tuple(maps.shape[1:]) != self.size:
            raise ValueError(f"the affinity covers {self.size} places, the maps {maps.shape[1:]}")
        if strength == 0 or self.steps == 0 or not len(maps):
            return maps
        sent = np.ascontiguousarray(maps.reshape(len(maps), -1).T, dtype=np.float32)
        for _ in range(self.steps):
            sent = self.matrix @ sent
        out = sent.T.reshape(maps.shape)
        return np.ascontiguousarray(maps + np.float32(strength) * (out - maps), dtype=np.float32)
