"""CLIP as an observer: pictures to dense features and a global embedding, batched over mixed shapes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.clip.labeler import PatchTextLabeler
from models.clip.load import load_clip
from models.clip.shapes import bucket
from models.clip.tiling import Tile, cut, resample, stitch
from models.device import autocast, pick_device, pick_dtype
from models.observe_config import ObserveConfig

GPU_BATCH = 16


@dataclass(frozen=True)
class ClipInput:
    """One picture, resized to its bucket once for every scale: uint8 [H, W, 3] each, the base scale first; then its
    tiles, if any, likewise resized."""

    pictures: tuple[npt.NDArray[np.uint8], ...]


@dataclass(frozen=True)
class ClipSeen:
    """features: float32 [h, w, D], the picture's frame cut into h x w patches. embedding: float32 [D], unit length."""

    features: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]


class ClipObserver:
    """Dense CLIP features of pictures."""

    def __init__(self, config: ObserveConfig, path: str, device: str = "auto") -> None:
        checkpoint = load_clip(path)
        clip = config.clip
        self.device = pick_device(device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.micro_batch = config.micro_batch or (GPU_BATCH if self.device.type == "cuda" else 1)
        mode = checkpoint.attention if clip.attention == "auto" else clip.attention
        hooks = clip.surgery_blocks, clip.extra_attention, clip.token_weight
        self.labeler = PatchTextLabeler(checkpoint, mode, *hooks).to(self.device).eval()
        self.size_px = clip.size_px or checkpoint.image_size_px
        # The base scale first.
        self.scales = sorted(clip.scales or checkpoint.scales, key=lambda scale: abs(scale - 1))
        self.flip = clip.flip
        self.tiles, self.tiles_overlap, self.tiles_grid = clip.tiles, clip.tiles_overlap, clip.tiles_grid

    def prepare(self, picture: npt.NDArray[np.uint8]) -> ClipInput:
        """picture: uint8 [H, W, 3], RGB, any size from 1x1."""
        height, width = picture.shape[:2]
        image = Image.fromarray(picture)
        resized = []
        for scale in self.scales:
            rows, columns = bucket(height, width, round(self.size_px * scale), self.labeler.patch_px)
            resized.append(np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC)))
        grid, levels = self._tiling(resized[0].shape)
        down, across = height / grid[0], width / grid[1]
        for tile in (tile for level in levels for tile in level):
            box = tile.x0 * across, tile.y0 * down, tile.x1 * across, tile.y1 * down
            shape = bucket(box[3] - box[1], box[2] - box[0], self.size_px, self.labeler.patch_px)
            resized.append(np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC, box=box)))
        return ClipInput(tuple(resized))

    def _tiling(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], list[list[Tile]]]:
        """The common grid of a picture of this shape [H, W, 3] and its tiles, and those tiles for each k."""
        rows, columns = (round(side // self.labeler.patch_px * self.tiles_grid) for side in shape[:2])
        return (rows, columns), [cut((rows, columns), k, self.tiles_overlap) for k in self.tiles]

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ClipInput]) -> list[tuple[Tensor, Tensor]]:
        """Features float32 [h, w, D] and embedding [D] of each input, on the device, in the order of the inputs."""
        seen: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(inputs)
        of_shapes: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
        for index, one in enumerate(inputs):
            of_shapes[tuple(picture.shape for picture in one.pictures)].append(index)
        for indices in of_shapes.values():
            for start in range(0, len(indices), self.micro_batch):
                batch = indices[start : start + self.micro_batch]
                features, embeddings = self._forward_batch([inputs[index] for index in batch])
                for row, index in enumerate(batch):
                    seen[index] = (features[row], embeddings[row])
        return seen

    def finish(self, raw: Sequence[tuple[Tensor, Tensor]]) -> list[ClipSeen]:
        """To the host."""
        return [ClipSeen(features.cpu().numpy(), embedding.cpu().numpy()) for features, embedding in raw]

    def _forward_batch(self, inputs: Sequence[ClipInput]) -> tuple[Tensor, Tensor]:
        """Inputs of one shape: features [B, h, w, D], the mean of the whole picture's and, with tiles, of what each k
        makes of it; and the whole picture's embeddings [B, D]."""
        whole, embedding = self._whole(inputs)
        grid, levels = self._tiling(inputs[0].pictures[0].shape)
        if not levels:
            return whole, embedding
        views = [resample(whole, grid)]
        at = len(self.scales)
        for tiles in levels:
            seen = [self._see(inputs, at + i) for i in range(len(tiles))]
            views.append(stitch([torch.stack([features for features, _ in one]).mean(0) for one in seen], tiles, grid))
            at += len(tiles)
        return torch.stack(views).mean(0), embedding

    def _whole(self, inputs: Sequence[ClipInput]) -> tuple[Tensor, Tensor]:
        """Mean over scales and flips of features [B, h, w, D] and embeddings [B, D]."""
        seen = [one for scale in range(len(self.scales)) for one in self._see(inputs, scale)]
        if len(seen) == 1:
            return seen[0]
        rows, columns = seen[0][0].shape[1:3]
        on_grid = torch.stack([resample(features, (rows, columns)) for features, _ in seen])
        return on_grid.mean(0), functional.normalize(torch.stack([one for _, one in seen]).mean(0), dim=-1)

    def _see(self, inputs: Sequence[ClipInput], index: int) -> list[tuple[Tensor, Tensor]]:
        """Features [B, h, w, D] and embeddings [B, D] of one picture of each input, as it is and, with flip, mirrored
        (and the features mirrored back)."""
        stacked = torch.from_numpy(np.stack([one.pictures[index] for one in inputs]))
        pictures = stacked.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        with autocast(self.device, self.dtype):
            seen = [self.labeler(pictures)]
            if self.flip:
                features, embeddings = self.labeler(pictures.flip(-1))
                seen.append((features.flip(2), embeddings))
        return seen
