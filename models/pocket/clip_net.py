"""The pocket CLIP: transformers' `CLIPModel` whose patches come from a frozen ImageNet EfficientNet-Lite0.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021; a convolutional stem
in place of the patch embedding: Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models import torchvision_cpu
from models.pocket.backbone import HEAD_CHANNELS, IMAGE_MEAN, IMAGE_STD, Lite0

torchvision_cpu.ensure()

from transformers import CLIPConfig, CLIPModel  # noqa: E402

PATCH_PX = 16
DENSE_SCALES = (1.0, 1.5)
"""Of the picture, whose patch features the labeler averages. On gold masks, with tags, labels were better by .013 mIoU
(95 % interval .006 to .029) than with 1 alone, for 40 % more time to observe an image."""
_MIDDLE_CHANNELS, _LAST_CHANNELS = 112, 320


class DenseLite0(nn.Module):
    """Both stride-16 levels of the dilated backbone: float [B, 3, H, W] to float [B, 432, H/16, W/16]."""

    def __init__(self) -> None:
        super().__init__()
        self.lite0 = Lite0(dilate_last=True)

    def forward(self, image: Tensor) -> Tensor:
        features = self.lite0(image)
        return torch.cat([features[16], features[32]], dim=1)


class Lite0PatchEmbedding(nn.Module):
    """Stands where `CLIPVisionEmbeddings` has its patch convolution: [B, 3, H, W] to [B, width, H/16, W/16]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = DenseLite0()
        self.head = nn.Conv2d(_LAST_CHANNELS, HEAD_CHANNELS, 1)
        self.project = nn.Linear(HEAD_CHANNELS + _MIDDLE_CHANNELS, width)

    @property
    def weight(self) -> Tensor:
        """CLIPVisionEmbeddings reads the number format of the pixels from here."""
        return self.project.weight

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.embed(self.backbone(pixel_values))

    def embed(self, features: Tensor) -> Tensor:
        """The part behind the backbone: float [B, 432, h, w] to float [B, width, h, w]."""
        middle, last = features.split((_MIDDLE_CHANNELS, _LAST_CHANNELS), dim=1)
        return self.mix(self.deep(last), middle)

    def deep(self, last: Tensor) -> Tensor:
        """What ImageNet's classifier averages: float [B, 320, h, w] to float [B, 1280, h, w]."""
        return nn.functional.relu6(self.head(last))

    def mix(self, deep: Tensor, middle: Tensor) -> Tensor:
        """Both levels to tokens: [B, 1280, h, w] and [B, 112, h, w] to [B, width, h, w]."""
        tokens = torch.cat([deep, middle], dim=1).permute(0, 2, 3, 1)
        return self.project(tokens).permute(0, 3, 1, 2)


def pocket_clip_config(vocabulary: int, eos_token_id: int) -> dict[str, Any]:
    """The `config.json` of the pocket CLIP, as `build_clip` reads it."""
    text = {
        "vocab_size": vocabulary, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 3, "max_position_embeddings": 32, "eos_token_id": eos_token_id, "bos_token_id": 2,
        "pad_token_id": 0, "projection_dim": 256, "hidden_act": "gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 320, "patch_size": PATCH_PX, "projection_dim": 256, "hidden_act": "gelu",
    }  # fmt: skip
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": 256,
        "logit_scale_init_value": 2.6592,
        "text_config": {"model_type": "clip_text_model", **text},
        "vision_config": {"model_type": "clip_vision_model", **vision},
        "maskstream": {
            "patch_embedding": "efficientnet_lite0",
            "image_mean": list(IMAGE_MEAN),
            "image_std": list(IMAGE_STD),
            "image_size_px": 320,
            "dense_normalise": False,
            "scales": list(DENSE_SCALES),
            "attention": "plain",
        },
    }


def build_clip(config: dict[str, Any]) -> CLIPModel:
    """A pocket `CLIPModel` with random weights, into which `model.safetensors` loads.

    Pictures may have any height and width that are multiples of 16, with `interpolate_pos_encoding=True`.

    Args:
        config: what `config.json` holds: a CLIPConfig as a dict; the key "maskstream" is for whoever prepares pictures.
    """
    options = {key: value for key, value in config.items() if key != "maskstream"}
    model = CLIPModel(CLIPConfig(**options))
    model.vision_model.embeddings.patch_embedding = Lite0PatchEmbedding(model.config.vision_config.hidden_size)
    return model.eval()


_CARRIER = 255
_LEVEL = 6.0


@torch.no_grad()
def start_as_linear(model: CLIPModel, linear: nn.Linear) -> None:
    """Make the image tower, in place, equal to one linear map of the deep features; training then adds to it.

    A layer norm would take the length of a token away, and with it what tells an object from its surroundings. So the
    last channel (in the text space: the axis of least variance) carries a constant far above the others; beside it, a
    layer norm is all but linear. The class token starts as the mean of the patches, by the first layer's attention.

    Args:
        linear: 1280 to 256, into the text space.
    """
    vision, width = model.vision_model, _CARRIER + 1
    pull = _LEVEL / width
    spread = (_LEVEL**2 / width - pull**2) ** 0.5
    keep = torch.ones(width)
    keep[_CARRIER] = 0.0

    def through(norm: nn.LayerNorm, gain: float, carrier: float) -> None:
        """The layer norm multiplies by `gain`, and leaves `carrier` in the last channel."""
        norm.weight.copy_(spread * gain * keep)
        norm.bias.copy_(pull * gain * keep)
        norm.bias[_CARRIER] = carrier

    embeddings = vision.embeddings
    embeddings.patch_embedding.project.weight.zero_()
    embeddings.patch_embedding.project.weight[:_CARRIER, : linear.in_features] = linear.weight[:_CARRIER]
    embeddings.patch_embedding.project.bias.copy_(linear.bias * keep)
    embeddings.patch_embedding.project.bias[_CARRIER] = _LEVEL
    embeddings.position_embedding.weight.zero_()
    embeddings.class_embedding.copy_(_LEVEL * (1 - keep))
    through(vision.pre_layrnorm, 1.0, _LEVEL)
    gain = 16.0
    for i, layer in enumerate(vision.encoder.layers):
        through(layer.layer_norm1, gain, 0.0)
        through(layer.layer_norm2, gain, 0.0)
        for part in (layer.self_attn.out_proj, layer.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
        if i == 0:
            layer.self_attn.v_proj.weight.copy_(torch.eye(width))
            layer.self_attn.v_proj.bias.zero_()
            layer.self_attn.out_proj.weight.copy_(torch.diag(keep) * 0.1 / gain)
    through(vision.post_layernorm, 1.0, 0.0)
    model.visual_projection.weight.copy_(torch.eye(width))


def vision_tokens(model: CLIPModel, features: Tensor) -> Tensor:
    """What `CLIPModel` does behind the backbone, from cached backbone features.

    Args:
        features: float [B, 432, h, w].

    Returns:
        Projected tokens float [B, 1 + h * w, 256], in the text space, not normalised: the class token (whose unit
        vector is `get_image_features`), then the patches (`post_layernorm` and `visual_projection` on each).
    """
    return tokens_of_grid(model, model.vision_model.embeddings.patch_embedding.embed(features))


def tokens_of_grid(model: CLIPModel, grid: Tensor) -> Tensor:
    """`vision_tokens` from the embedded patches float [B, width, h, w] on."""
    vision = model.vision_model
    h, w = grid.shape[2:]
    patches = grid.flatten(2).transpose(1, 2)
    tokens = torch.cat([vision.embeddings.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
    tokens = tokens + vision.embeddings.interpolate_pos_encoding(tokens, h * PATCH_PX, w * PATCH_PX)
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state
    return model.visual_projection(vision.post_layernorm(hidden))
