"""The first teacher: one linear map from ImageNet's features into the text space, and what ImageNet itself says.

The classifier's softmax, as a weighted mean of the embeddings of its 1,000 names (Norouzi et al., "Zero-Shot Learning
by Convex Combination of Semantic Embeddings", ICLR 2014), tells where in the text space a patch or a photograph lies.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.pocket.backbone import HEAD_CHANNELS, Lite0, imagenet_classifier, load_imagenet
from models.pocket.clip_data import FeatureCache
from models.pocket.text_space import SPACE_DIM

PATCHES_A_PHOTO = 32


class ImageNetVoice(nn.Module):
    """Deep features to what ImageNet's classifier says, in the text space; nothing in it is trained.

    Args:
        names: float32 [1000, 256], unit embeddings of the class names.
    """

    weight: Tensor
    bias: Tensor
    names: Tensor

    def __init__(self, names: Tensor) -> None:
        super().__init__()
        full = Lite0(dilate_last=True, head=True)
        load_imagenet(full)
        assert full.head is not None
        self.head = full.head.conv.requires_grad_(False)
        weight, bias = imagenet_classifier()
        for name, value in (("weight", weight), ("bias", bias), ("names", names)):
            self.register_buffer(name, value)

    def deep(self, features: Tensor) -> Tensor:
        """Cached features float [B, 432, h, w] to ImageNet's own, float [B, 1280, h, w]."""
        return F.relu6(self.head(features[:, -self.head.in_channels :]))

    def forward(self, deep: Tensor) -> Tensor:
        """Deep features float [..., 1280] to float [..., 256]: the longer the vector, the surer the classifier."""
        return F.linear(deep, self.weight, self.bias).softmax(-1) @ self.names


@dataclass(frozen=True)
class PooledFeatures:
    """pooled float32 [N, 1280]: mean patch of each photograph; patches float16 [32 N, 1280]: some of its patches."""

    pooled: Tensor
    patches: Tensor


@torch.inference_mode()
def pool(cache: FeatureCache, voice: ImageNetVoice, seed: int) -> PooledFeatures:
    """One pass over the cached photographs."""
    generator = torch.Generator().manual_seed(seed)
    pooled, patches = [], []
    for i in range(len(cache.photos)):
        tokens = voice.deep(cache.get([i]).float())[0].flatten(1).T
        pooled.append(tokens.mean(0))
        patches.append(tokens[torch.randperm(len(tokens), generator=generator)[:PATCHES_A_PHOTO]].half())
    return PooledFeatures(torch.stack(pooled), torch.cat(patches))


def tag_matrix(cache: FeatureCache, classes: int) -> tuple[Tensor, Tensor]:
    """float32 [N, classes] of zeros and ones, and bool [N]: whether the photograph has tags at all."""
    tags = torch.zeros(len(cache.photos), classes)
    for i, photo in enumerate(cache.photos):
        tags[i, list(photo.tags or ())] = 1
    return tags, torch.tensor([photo.tags is not None for photo in cache.photos])


def linear_teacher(
    features: PooledFeatures, voice: ImageNetVoice, text: Tensor, tags: Tensor, steps: int = 800, seed: int = 0
) -> nn.Linear:
    """Fit the map: patches and photographs to ImageNet's voice, and, where there are tags, photographs to tags.

    The mean over patches commutes with the map, so learning from tags is learning class activation maps (Zhou et al.,
    "Learning Deep Features for Discriminative Localization", CVPR 2016).

    Args:
        text: float32 [C, 256], unit embeddings of the tags' names.
        tags: float32 [M, C], of the first M photographs; M = 0: no tags are used.
    """
    torch.manual_seed(seed)
    linear = nn.Linear(HEAD_CHANNELS, SPACE_DIM)
    calibration = nn.Parameter(torch.tensor([10.0, -3.0]))
    optimizer = torch.optim.AdamW([*linear.parameters(), calibration], 2e-3, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps) + 1e-5
        patches = features.patches[torch.randint(len(features.patches), (1024,))].float()
        pooled = features.pooled[torch.randint(len(features.pooled), (256,))]
        loss = 10 * F.mse_loss(linear(patches), voice(patches)) + 20 * F.mse_loss(linear(pooled), voice(pooled))
        if len(tags):
            rows = torch.randint(len(tags), (256,))
            logits = calibration[0] * (linear(features.pooled[rows]) @ text.T) + calibration[1]
            loss = loss + 4 * F.binary_cross_entropy_with_logits(logits, tags[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return linear.requires_grad_(False)
