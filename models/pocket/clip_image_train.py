"""The image tower of the pocket CLIP: distillation of ImageNet's voice, image tags, and dense self-training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.pocket.clip_data import FeatureCache
from models.pocket.clip_net import CLIPModel, tokens_of_grid
from models.pocket.clip_teacher import ImageNetVoice, tag_matrix

DENSE_WEIGHT, TAG_WEIGHT = 15.0, 8.0
VIEW_SHARE = (0.35, 0.6, 0.05)
"""How often each of VIEWS is drawn; small ones cost less."""
FREQUENT = 250
"""Photographs from which on a class's absence counts fully."""


@dataclass(frozen=True)
class TextTargets:
    """voc float32 [C, V, 256]: unit embeddings of V ways to name each class; seen from `names` in ImageNetVoice."""

    voc: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """The mean of three random ways to name each class, float32 [C, 256], unit."""
        chosen = torch.randint(self.voc.shape[1], (3,), generator=generator)
        return F.normalize(self.voc[:, chosen].mean(1), dim=1)

    def mean(self) -> Tensor:
        return F.normalize(self.voc.mean(1), dim=1)


class ImageLoss(nn.Module):
    """Loss of one step; its two trained numbers turn a cosine into the log-odds of a tag."""

    def __init__(
        self, model: CLIPModel, caches: Sequence[FeatureCache], voice: ImageNetVoice, text: TextTargets, batch: int,
        seed: int, seeds: Mapping[int, Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tower = nn.ModuleList([model.vision_model, model.visual_projection])
        self.calibration = nn.Parameter(torch.tensor([10.0, -3.0]))
        self.model, self.caches, self.voice, self.text = [model], caches, [voice], text
        self.batch, self.seed, self.seeds = batch, seed, seeds or {}
        self.tags, self.tagged = tag_matrix(caches[0], text.voc.shape[0])
        # A class seen in few photographs must not be pushed away by the many that lack it.
        self.absent = 0.15 * (self.tags.sum(0) / FREQUENT).clamp(max=1.0)
        self.groups = [self._by_grid(cache, self.seeds) for cache in caches]

    @staticmethod
    def _by_grid(cache: FeatureCache, seeds: Mapping[int, Tensor]) -> list[list[int]]:
        """Photographs of each grid; those with seeds are listed, and so drawn, three times as often."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, grid in enumerate(cache.grids):
            groups.setdefault(tuple(grid), []).extend([i] * (3 if i in seeds else 1))
        return list(groups.values())

    def draw(self, generator: torch.Generator) -> tuple[int, list[int]]:
        """A view, and photographs that have one grid in it."""
        share = torch.tensor(VIEW_SHARE[: len(self.caches)])
        view = int(torch.multinomial(share, 1, generator=generator))
        sizes = torch.tensor([float(len(group)) for group in self.groups[view]])
        group = self.groups[view][int(torch.multinomial(sizes, 1, generator=generator))]
        return view, [group[int(j)] for j in torch.randint(len(group), (self.batch,), generator=generator)]

    def forward(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        view, rows = self.draw(generator)
        mirror = bool(torch.rand(1, generator=generator) < 0.5)
        features = self.caches[view].get(rows).float()
        features = features.flip(3) if mirror else features
        text = self.text.draw(generator)
        embed = self.model[0].vision_model.embeddings.patch_embedding
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                deep = embed.deep(features[:, -embed.head.in_channels :])
                tokens = deep.flatten(2).transpose(1, 2)
                voice, voice_global = self.voice[0](tokens).float(), self.voice[0](tokens.mean(1)).float()
            out = tokens_of_grid(self.model[0], embed.mix(deep, features[:, : -embed.head.in_channels]))
        out = out.float()
        image, patches = F.normalize(out[:, 0], dim=1), out[:, 1:]
        loss = self._open_vocabulary(image, patches, voice, voice_global, self.tagged[rows])
        if bool(self.tagged[rows].any()):
            loss = loss + self._tags(image, rows, text, voice_global)
            if self.seeds:
                mirrored = self.caches[view].view.mirror != mirror
                loss = loss + self._dense(patches.unflatten(1, features.shape[2:]), rows, text, mirrored)
        return loss

    def _open_vocabulary(
        self, image: Tensor, patches: Tensor, voice: Tensor, voice_global: Tensor, tagged: Tensor
    ) -> Tensor:
        """What ImageNet says stays heard: as dot products with its names for patches, as a direction for images.

        Where there are no tags its voice is all there is; else images of anything would drift to the tagged classes.
        """
        names = self.voice[0].names[self.seed % 4 :: 4]
        difference = (patches - 2.0 * voice) @ names.T
        weight = torch.where(tagged, voice_global.norm(dim=1), 3.0)
        return 2.0 * difference.square().mean() + (weight * (1 - F.cosine_similarity(image, voice_global))).mean()

    def _tags(self, image: Tensor, rows: list[int], text: Tensor, voice_global: Tensor) -> Tensor:
        known = self.tagged[rows]
        logits = self.calibration[0] * (image @ text.T) + self.calibration[1]
        return TAG_WEIGHT * F.binary_cross_entropy_with_logits(logits[known], self.tags[rows][known])

    def _dense(self, patches: Tensor, rows: list[int], text: Tensor, mirrored: bool) -> Tensor:
        """Each patch against each class: a dot product is to be the seed's heat, and nothing for classes not tagged.

        Learning the heat itself keeps its gradations, which say how sure it is; learning a decision (tried: logistic
        loss on thresholded seeds) makes maps flat, and their best threshold moved to 0.8.
        """
        dots = torch.einsum("bhwd,kd->bkhw", patches, text)
        grid = dots.shape[2:]
        wanted, known = torch.zeros_like(dots), torch.zeros(len(rows), 1, 1, 1)
        for b, i in enumerate(rows):
            if i not in self.seeds:
                continue
            tags = self.caches[0].photos[i].tags or ()
            maps = F.interpolate(self.seeds[i][None].float(), grid, mode="bilinear", antialias=True)[0]
            wanted[b, list(tags)] = maps.flip(2) if mirrored else maps
            known[b] = 1.0
        present = self.tags[rows][:, :, None, None]
        # Where a class is not, any score up to 0 is right; where it is, the heat's own zeros are only probably right.
        off = torch.where((wanted < 0.05) & (dots < 0), 0.3 * dots, dots - wanted)
        balance = present + (1 - present) * self.absent[:, None, None]
        each = ((off.square() * balance).sum(1, keepdim=True) * known).mean((2, 3))
        return DENSE_WEIGHT * each.sum() / known.sum().clamp_min(1)
