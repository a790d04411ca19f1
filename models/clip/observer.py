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
from models.device import autocast, pick_device, pick_dtype
from models.observe_config import ObserveConfig

GPU_BATCH = 16


@dataclass(frozen=True)
class ClipInput:
    """One picture, resized to its bucket once for every scale: uint8 [H, W, 3] each, the base scale first."""

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
        self.labeler = PatchTextLabeler(checkpoint, mode, clip.surgery_blocks).to(self.device).eval()
        self.size_px = clip.size_px or checkpoint.image_size_px
        self.scales = sorted(clip.scales, key=lambda scale: abs(scale - 1))  # The base scale first.
        self.flip = clip.flip

    def prepare(self, picture: npt.NDArray[np.uint8]) -> ClipInput:
        """picture: uint8 [H, W, 3], RGB, any size from 1x1."""
        height, width = picture.shape[:2]
        image = Image.fromarray(picture)
        resized = []
        for scale in self.scales:
            rows, columns = bucket(height, width, round(self.size_px * scale), self.labeler.patch_px)
            resized.append(np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC)))
        return ClipInput(tuple(resized))

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
        """Inputs of one shape: mean over scales and flips of features [B, h, w, D] and embeddings [B, D]."""
        all_features: list[Tensor] = []
        all_embeddings: list[Tensor] = []
        for scale in range(len(self.scales)):
            stacked = torch.from_numpy(np.stack([one.pictures[scale] for one in inputs]))
            pictures = stacked.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            for flipped in (False, True) if self.flip else (False,):
                with autocast(self.device, self.dtype):
                    features, embeddings = self.labeler(pictures.flip(-1) if flipped else pictures)
                all_features.append(features.flip(2) if flipped else features)
                all_embeddings.append(embeddings)
        if len(all_features) == 1:
            return all_features[0], all_embeddings[0]
        grid = all_features[0].shape[1:3]
        on_grid = [features if features.shape[1:3] == grid else _resample(features, grid) for features in all_features]
        embedding = functional.normalize(torch.stack(all_embeddings).mean(0), dim=-1)
        return torch.stack(on_grid).mean(0), embedding


def _resample(features: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Features [B, h, w, D] on another grid."""
    moved = features.permute(0, 3, 1, 2)
    return functional.interpolate(moved, grid, mode="bilinear", align_corners=False, antialias=True).permute(0, 2, 3, 1)
