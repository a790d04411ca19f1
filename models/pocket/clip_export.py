"""Writes the pocket CLIP as the folder that ships: fp16 weights, config; the tokenizer is already there."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn


def export_clip(model: nn.Module, config: dict[str, Any], folder: Path) -> Path:
    """Write `model.safetensors` (fp16) and `config.json`, each whole or not at all; returns the weights' path."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    weights = folder / "model.safetensors"
    save_file(state, weights.with_suffix(".part"), metadata={"format": "pt"})
    weights.with_suffix(".part").chmod(0o644)
    weights.with_suffix(".part").replace(weights)
    part = folder / "config.part"
    part.write_text(json.dumps(config, indent=1) + "\n")
    part.replace(folder / "config.json")
    return weights
