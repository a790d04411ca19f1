"""Frozen models to learn from: another student, an ensemble, CLIP. Each returns "logits", "feats", or both."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.clip.shapes import bucket
from models.decide.config import DecideConfig


class FrozenTeacher(nn.Module):
    """Base of all teachers: never in training mode, no gradients.

    forward takes images float32 [B, 3, H, W] in 0..1.
    """

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in evaluation mode, whatever is asked."""
        return super().train(False)


class StudentTeacher(FrozenTeacher):
    """A trained student (usually a larger one); its channels must be those of the student that learns."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student.requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """logits float [B, C, h, w] and feats float [B, D, h, w], as the student gives them."""
        seen = self.student(images)
        return {"logits": seen["logits"], "feats": seen["feats"]}


class EnsembleTeacher(FrozenTeacher):
    """Several teachers as one.

    logits: logarithm of the mean probability. feats: each member's unit-length features side by side, so that a cosine
    of the ensemble is the mean of its members' cosines.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = nn.ModuleList(members)
        self.requires_grad_(False).train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """logits float32 [B, C, h, w] and feats float32 [B, sum of D, h, w], each on the finest grid of its members."""
        seen = [member(images) for member in self.members]
        merged = {}
        probs = _one_grid([s["logits"].float().softmax(1) for s in seen if "logits" in s])
        if probs:
            merged["logits"] = torch.stack(probs).mean(0).clamp(min=1e-8).log()
        feats = _one_grid([F.normalize(s["feats"].float(), dim=1) for s in seen if "feats" in s])
        if feats:
            merged["feats"] = torch.cat(feats, 1)
        return merged


def _one_grid(maps: list[Tensor]) -> list[Tensor]:
    size = max((tuple(m.shape[-2:]) for m in maps), key=lambda s: s[0] * s[1], default=(0, 0))
    return [m if m.shape[-2:] == size else F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]


class ClipTeacher(FrozenTeacher):
    """CLIP's patches as features, and their match with the classes' prompts as logits.

    Where patch features keep their length (the pocket CLIP), which tells objects from surroundings, logits are what
    *decide* makes of them: products with the text, less a share of the best background word's, as shares of the
    image's maximum, over the temperature that calibrates them; the background has a fixed strength. Where they are
    unit vectors (official CLIP), logits are CLIP's own: cosines times its logit scale, the background's being the best
    of its words'. The latter is untuned.

    Args:
        folder: a local CLIP (`models.clip.load`): the pocket one or an official checkpoint.
        prompts: the prompts of every channel, in channel order; of the background its words. Empty: no logits.
        background: channel 0 is the background.
        size_px: the picture is resized, aspect kept, to about the area of a square of this side; 0: what the
            checkpoint asks for. Time grows with its square.

    Raises:
        FileNotFoundError: no CLIP in the folder. ValueError: a channel without a prompt.
    """

    words: Tensor
    classes: Tensor

    def __init__(
        self, folder: str | Path, prompts: Sequence[Sequence[str]] = (), background: bool = False, size_px: int = 0
    ) -> None:
        super().__init__()
        from models.clip.labeler import PatchTextLabeler
        from models.clip.load import load_clip
        from models.clip.text import TextEncoder

        without = [channel for channel, texts in enumerate(prompts) if not texts]
        if without:
            raise ValueError(f"channels {without} have no prompt")
        checkpoint = load_clip(folder)
        self.labeler = PatchTextLabeler(checkpoint, checkpoint.attention)
        self.size_px = size_px or checkpoint.image_size_px
        self.scale = float(checkpoint.model.logit_scale.detach().exp())
        self.unit_length, self.background = checkpoint.dense_normalise, background
        rows = []
        if prompts:
            encoder = TextEncoder(folder, "cpu")
            rows = [torch.from_numpy(encoder.encode(list(texts))) for texts in prompts]
        means = [F.normalize(texts.mean(0), dim=0) for texts in (rows[1:] if background else rows)]
        self.register_buffer("words", rows[0] if background and rows else torch.zeros(0, 1))
        self.register_buffer("classes", torch.stack(means) if means else torch.zeros(0, 1))
        self.requires_grad_(False).train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """feats float32 [B, D, h, w], one for each patch; logits float32 [B, C, h, w] if there are prompts."""
        size = bucket(images.shape[-2], images.shape[-1], self.size_px, self.labeler.patch_px)
        resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
        feats = self.labeler(resized.clamp(0, 1) * 255)[0].permute(0, 3, 1, 2).contiguous()
        if not len(self.classes):
            return {"feats": feats}
        with torch.autocast(images.device.type, enabled=False):
            return {"feats": feats, "logits": self._logits(feats)}

    def _logits(self, feats: Tensor) -> Tensor:
        scores = torch.einsum("cd,bdhw->bchw", self.classes, feats)
        best = torch.zeros_like(scores[:, :1])
        if self.background:
            best = torch.einsum("kd,bdhw->bkhw", self.words, feats).amax(1, keepdim=True)
        if self.unit_length:
            return self.scale * (torch.cat([best, scores], 1) if self.background else scores)
        settings = DecideConfig()
        heat = (scores - settings.background_words_weight * best.clamp(min=0)).clamp(min=0)
        heat = heat / heat.amax((1, 2, 3), keepdim=True).clamp(min=1e-8)
        if self.background:
            heat = torch.cat([torch.full_like(best, settings.confidence_middle), heat], 1)
        return heat / settings.confidence_temperature
