"""Distillation at three levels from frozen teachers (MGD, multi-granularity distillation, ECCV 2022)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses.confidence import pseudo_labels
from models.losses.config import DistillConfig
from models.losses.supervised import weighted_cross_entropy
from models.losses.types import IGNORE, Terms, in_float32

Outputs = Mapping[str, Tensor]
"""What a teacher says of a batch: "logits" float [B, C, h, w], "feats" float [B, D, h, w], or one of them."""


@in_float32
def image_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over images and classes of |pooled student logit - pooled teacher logit|; any grids, float32.

    A mean, so that neither batch size nor number of classes changes it (released code sums over both). Logits are
    taken relative to their mean over classes, since a softmax leaves that undetermined: a teacher of another kind
    (text against patches) may have any.
    """
    pooled = [logits.mean((2, 3)) for logits in (student_logits, teacher_logits.detach())]
    mine, theirs = (values - values.mean(1, keepdim=True) for values in pooled)
    return (mine - theirs).abs().mean() if mine.numel() else mine.sum()


@in_float32
def region_similarity(feats: Tensor, grid: int) -> Tensor:
    """Cosines float32 [B, grid^2, grid^2] between the average-pooled regions of features [B, D, h, w]."""
    regions = F.normalize(F.adaptive_avg_pool2d(feats, grid).flatten(2), dim=1)
    return regions.transpose(1, 2) @ regions


@in_float32
def region_loss(student_feats: Tensor, teacher_feats: Tensor, grid: int = 7) -> Tensor:
    """Mean squared difference of the two region similarities; channels and grids may differ, float32.

    0 for identical features, and unchanged when either are multiplied by a positive number.
    """
    difference = region_similarity(student_feats, grid) - region_similarity(teacher_feats.detach(), grid)
    return difference.square().mean() if difference.numel() else student_feats.sum() * 0


@in_float32
def pixel_loss(student_logits: Tensor, hard: Tensor) -> Tensor:
    """Mean cross-entropy to hard labels int64 [B, H, W], IGNORE left out; 0 where nothing is labeled."""
    return weighted_cross_entropy(student_logits, hard)


@torch.no_grad()
def teacher_labels(
    logits: Tensor, size: tuple[int, ...], threshold: float = 0.0, absent: Tensor | None = None
) -> Tensor:
    """A teacher's hard labels int64 [B, *size], IGNORE where its probability is below threshold.

    absent: bool [B, C], classes that the images' tags exclude; they are never given.
    """
    if absent is not None:
        logits = logits.float().masked_fill(absent[:, :, None, None], -1e4)
    pseudo = pseudo_labels(logits, size)
    return pseudo.hard.masked_fill(pseudo.confidence < threshold, IGNORE)


class Distiller:
    """The three levels over any number of teachers; a level's loss is the mean over the teachers that serve it.

    In the paper a deep, narrow teacher serves the image level (`image_teacher`), a wide, shallow one the region level
    (`region_teacher`), and both the pixel level. Teachers are frozen: there is no term that would teach them.
    """

    def __init__(self, config: DistillConfig) -> None:
        self.config = config

    def __call__(self, student: Outputs, teachers: Sequence[Outputs], labels: Sequence[Tensor]) -> Terms:
        """Weighted terms "image", "region", "pixel", as far as their weights are not 0 and some teacher serves them.

        Args:
            student: its output.
            teachers: one output for each teacher, of the same images.
            labels: `teacher_labels` of every teacher with logits, int64 [B, H, W] at the students' input size.

        Raises:
            ValueError: a level is on and no teacher can serve it.
        """
        config = self.config
        terms: Terms = {}
        if config.image:
            served = self._serving(teachers, "logits", config.image_teacher, "image")
            losses = [image_loss(student["logits"], teacher["logits"]) for teacher in served]
            terms["image"] = config.image * torch.stack(losses).mean()
        if config.region:
            served = self._serving(teachers, "feats", config.region_teacher, "region")
            losses = [region_loss(student["feats"], teacher["feats"], config.region_grid) for teacher in served]
            terms["region"] = config.region * torch.stack(losses).mean()
        if config.pixel:
            if not labels:
                raise ValueError("the pixel level needs a teacher with logits; set losses.mgd.pixel to 0 without one")
            losses = [pixel_loss(student["logits"], hard) for hard in labels]
            terms["pixel"] = config.pixel * torch.stack(losses).mean()
        return terms

    def _serving(self, teachers: Sequence[Outputs], output: str, place: int, level: str) -> list[Outputs]:
        if place >= len(teachers):
            raise ValueError(f"losses.mgd.{level}_teacher is {place}, but there are {len(teachers)} teachers")
        chosen = teachers if place < 0 else [teachers[place]]
        served = [teacher for teacher in chosen if output in teacher]
        if not served:
            raise ValueError(
                f"the {level} level needs a teacher with {output}; give one, or set losses.mgd.{level} to 0"
            )
        return served
