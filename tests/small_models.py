"""Small CLIP and SAM checkpoints with random weights, in the formats that the loaders read."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from models import torchvision_cpu

torchvision_cpu.ensure()

from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast  # noqa: E402

from models.pocket.sam_config import pocket_sam_architecture  # noqa: E402
from models.pocket.sam_net import build_sam  # noqa: E402

WORDS = ["a", "photo", "of", "the", "cat", "dog", "person", "sky", "road", "clean", "origami", "background"]


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP as `save_pretrained` leaves it: 64 px, patches of 16 px, width 32, 24 dimensions, a tokenizer of WORDS."""
    torch.manual_seed(seed)
    specials = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    config = CLIPConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": len(specials) + len(WORDS),
            "max_position_embeddings": 12,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        projection_dim=24,
    )
    model = CLIPModel(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.05 * torch.randn_like(weights))  # The library's own start is too small to tell paths apart.
    model.save_pretrained(folder)
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(specials + WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    ).save_pretrained(folder)
    return folder


def write_sam(folder: Path, size_px: int = 64, seed: int = 0) -> Path:
    """A pocket SAM with random weights: input of `size_px`, masks of a quarter of that."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = pocket_sam_architecture(size_px)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(build_sam(config).state_dict(), folder / "model.safetensors")
    return folder
