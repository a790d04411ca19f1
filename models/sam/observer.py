"""SAM as an observer: pictures and their CLIP features to banks of class-free masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from models.device import autocast, pick_device, pick_dtype
from models.evidence import MASK_SOURCES, Hints, MaskBank
from models.observe_config import ObserveConfig
from models.sam.attention import fuse_attention
from models.sam.bank import select
from models.sam.decode import decode, embed_prompts
from models.sam.load import load_sam
from models.sam.prompts import Prompts
from models.sam.proposals import propose

GPU_BATCH = 8
# Prompts x embedding cells in one decoder pass. On a GPU 64 prompts of the official 64x64 grid, about 2 GB; on the CPU
# 20 of the pocket's 20x20 grid, so that activations stay near the cache (a sixth faster than all at once).
GPU_CELLS, CPU_CELLS = 2**18, 2**13


@dataclass(frozen=True)
class SamInput:
    """One picture as SAM takes it, uint8 [H, W, 3] with the longer side at SAM's input size, and its own prompts."""

    picture: npt.NDArray[np.uint8]
    prompts: Prompts


@dataclass(frozen=True)
class Decoded:
    """What SAM answered to the N prompts of one picture, on the device.

    logits: float [N, 4, m, m] over the padded square (0 the single mask, 1..3 the alternatives); iou: float [N, 4].
    valid: rows and columns, of m, that the picture covers.
    """

    logits: Tensor
    iou: Tensor
    valid: tuple[float, float]


class SamObserver:
    """Class-free masks of pictures: clusters of CLIP features, a sparse grid and hints become prompts."""

    def __init__(self, config: ObserveConfig, path: str, device: str = "auto") -> None:
        self.config = config.sam
        self.device = pick_device(device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.micro_batch = config.micro_batch or (GPU_BATCH if self.device.type == "cuda" else 1)
        self.sam = load_sam(path).to(self.device)
        fuse_attention(self.sam)
        self.size_px = int(self.sam.image_encoder.img_size)

    def prepare(self, picture: npt.NDArray[np.uint8], prompts: Prompts | None = None) -> SamInput:
        """picture: uint8 [H, W, 3], RGB, any size. prompts: of this picture, asked in addition to the proposals."""
        height, width = picture.shape[:2]
        scale = self.size_px / max(height, width)
        size = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        return SamInput(np.array(resized), prompts or Prompts.concat([]))

    @torch.inference_mode()
    def forward(self, inputs: Sequence[SamInput], features: Sequence[npt.NDArray[np.float32]]) -> list[MaskBank]:
        """Mask banks.

        Args:
            inputs: from `prepare`. features: float32 [h, w, D] of each input, from the CLIP observer.
        """
        banks: list[MaskBank] = []
        for start in range(0, len(inputs), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            embeddings = self.encode(inputs[part])  # The device works on it while the host clusters.
            asked = [
                Prompts.concat([one.prompts, propose(seen, self.config)])
                for one, seen in zip(inputs[part], features[part], strict=True)
            ]
            decoded = self.decode(inputs[part], embeddings, asked)
            banks += [
                select(one.logits, one.iou, prompts, one.valid, self.config)
                for one, prompts in zip(decoded, asked, strict=True)
            ]
        return banks

    def decode_prompts(self, inputs: Sequence[SamInput], prompts: Sequence[Prompts]) -> list[Decoded]:
        """SAM's answers to given prompts of pictures, without proposals, filter or suppression."""
        answers: list[Decoded] = []
        with torch.inference_mode():
            for start in range(0, len(inputs), self.micro_batch):
                part = slice(start, start + self.micro_batch)
                answers += self.decode(inputs[part], self.encode(inputs[part]), prompts[part])
        return answers

    def encode(self, inputs: Sequence[SamInput]) -> Tensor:
        """Image embeddings float32 [B, C, h, w] of pictures of any shapes, each padded to SAM's square."""
        pixels = torch.zeros(len(inputs), 3, self.size_px, self.size_px, device=self.device)
        for row, one in enumerate(inputs):
            picture = torch.from_numpy(one.picture).to(self.device, non_blocking=True).permute(2, 0, 1)
            pixels[row, :, : picture.shape[1], : picture.shape[2]] = (
                picture - self.sam.pixel_mean
            ) / self.sam.pixel_std
        with autocast(self.device, self.dtype):
            return self.sam.image_encoder(pixels).float()

    def decode(
        self,
        inputs: Sequence[SamInput],
        embeddings: Tensor,
        prompts: Sequence[Prompts],
        masks: Sequence[Tensor] | None = None,
    ) -> list[Decoded]:
        """Answers to the prompts of all pictures; prompts with as many tokens share a pass, whoever's they are.

        masks: for each picture float [N, m, m], logits of earlier answers that its prompts come with.
        """
        side = embeddings.shape[-1] * 4
        answers = [self._empty(one, len(asked), side) for one, asked in zip(inputs, prompts, strict=True)]
        groups: dict[int, list[tuple[int, Tensor, Tensor]]] = {}
        for picture, (one, asked) in enumerate(zip(inputs, prompts, strict=True)):
            for rows, tokens in embed_prompts(self.sam, asked, one.picture.shape[:2]):
                groups.setdefault(tokens.shape[1], []).append((picture, rows, tokens))
        cells = GPU_CELLS if self.device.type == "cuda" else CPU_CELLS
        limit = max(2, cells // (embeddings.shape[-1] * embeddings.shape[-2]))
        for parts in groups.values():
            picture_of = torch.cat([torch.full_like(rows, picture) for picture, rows, _ in parts])
            rows = torch.cat([rows for _, rows, _ in parts])
            tokens = torch.cat([tokens for _, _, tokens in parts])
            for start in range(0, len(rows), limit):
                part = slice(start, start + limit)
                whose = zip(picture_of[part].tolist(), rows[part].tolist(), strict=True)
                given = None if masks is None else torch.stack([masks[picture][row] for picture, row in whose])
                with autocast(self.device, self.dtype):
                    logits, iou = decode(self.sam, embeddings, picture_of[part].to(self.device), tokens[part], given)
                for picture in picture_of[part].unique().tolist():
                    mine = picture_of[part] == picture
                    answers[picture].logits[rows[part][mine]] = logits[mine].float()
                    answers[picture].iou[rows[part][mine]] = iou[mine].float()
        return answers

    def _empty(self, one: SamInput, count: int, side: int) -> Decoded:
        height, width = one.picture.shape[:2]
        return Decoded(
            torch.empty(count, 4, side, side, device=self.device),
            torch.empty(count, 4, device=self.device),
            (side * height / self.size_px, side * width / self.size_px),
        )


def hint_prompts(hints: Hints, frame: tuple[float, float, float, float]) -> Prompts:
    """The points and boxes of `hints` that lie in `frame` (x0 y0 x1 y1, full-size pixels), relative to it."""
    origin, size = np.array(frame[:2], np.float32), np.array([frame[2] - frame[0], frame[3] - frame[1]], np.float32)
    points = (hints.points - origin) / size
    points = points[((points >= 0) & (points <= 1)).all(axis=1)]
    corners = ((hints.boxes.reshape(-1, 2, 2) - origin) / size).clip(0, 1).reshape(-1, 4)
    boxes = corners[(corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])]
    return Prompts.concat(
        [
            Prompts.of_boxes(boxes, MASK_SOURCES.index("box")),
            Prompts.of_points(points, MASK_SOURCES.index("point")),
        ]
    )
