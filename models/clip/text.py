"""Prompts to CLIP text embeddings."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from models.clip.load import CLIPModel, load_clip
from models.device import pick_device

BATCH = 256  # Prompts in a forward pass: about 77 tokens each, a few hundred MB at ViT-L size.


class TextEncoder:
    """Encodes prompts with the text tower of a CLIP folder; every prompt is encoded once and then remembered."""

    def __init__(self, clip_path: str | Path, device: str = "auto") -> None:
        from transformers import AutoTokenizer

        self.device = pick_device(device)
        model = load_clip(clip_path).model
        del model.vision_model  # Only the text tower is needed.
        self.model = model.to(self.device)
        self.max_tokens = int(model.config.text_config.max_position_embeddings)
        self.tokenizer = AutoTokenizer.from_pretrained(clip_path, local_files_only=True)
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    @property
    def dimension(self) -> int:
        """D, the size of an embedding."""
        return int(self.model.text_projection.out_features)

    def encode(self, prompts: list[str]) -> npt.NDArray[np.float32]:
        """Unit-length text embeddings, float32 [P, D]; a prompt longer than the tower's context is cut."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            self._known.update(zip(batch, self._forward(batch), strict=True))
        if not prompts:
            return np.zeros((0, self.dimension), np.float32)
        return np.stack([self._known[prompt] for prompt in prompts])

    @torch.inference_mode()
    def _forward(self, prompts: list[str]) -> npt.NDArray[np.float32]:
        # Always padded to the full context: an embedding must not depend on the prompts beside it.
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        return text_embeddings(self.model, tokens["input_ids"], tokens["attention_mask"]).cpu().numpy()


def text_embeddings(model: CLIPModel, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Unit-length embeddings float32 [P, D] of token ids int64 [P, T]; what `CLIPModel.forward` calls text_embeds."""
    pooled = model.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
    return functional.normalize(model.text_projection(pooled), dim=-1).float()
