"""SAM checkpoints: the official `sam_vit_{b,l,h}.pth`, the same weights as safetensors, or a pocket SAM."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models import torchvision_cpu

torchvision_cpu.ensure()

from segment_anything import sam_model_registry  # noqa: E402
from segment_anything.modeling import Sam  # noqa: E402

# The width of the image encoder tells the three official models apart.
ARCHITECTURE_OF_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
WIDTH_KEY = "image_encoder.patch_embed.proj.weight"


def load_sam(path: str | Path) -> Sam:
    """Load a SAM in float32 and evaluation mode, on the CPU. Only tensors are read from the file, never code.

    Args:
        path: a .pth or .safetensors file, or a folder that holds one (a pocket SAM is a folder with config.json).

    Raises:
        FileNotFoundError: there is no checkpoint at `path`.
        ValueError: the file holds something else than the weights of a segment-anything model.
    """
    file = _checkpoint_file(Path(path))
    config_file = file.parent / "config.json"
    if config_file.is_file() and "maskstream" in (config := json.loads(config_file.read_text())):
        from models.pocket.sam_net import build_sam

        return _with_weights(build_sam(config), load_file(file), file)
    weights = _read(file)
    return _with_weights(sam_model_registry[_architecture(weights, file)](), weights, file)


def _with_weights(sam: Sam, weights: Mapping[str, Tensor], file: Path) -> Sam:
    try:
        sam.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of this SAM: {error}") from error
    return sam.float().eval()


def _checkpoint_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [file for end in ("*.safetensors", "*.pth", "*.pt") for file in sorted(path.glob(end))]
    if len(found) != 1:
        raise FileNotFoundError(f"{path} should be one SAM checkpoint (.pth or .safetensors); found {len(found)} there")
    return found[0]


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} is not a file of weights that can be opened safely: {error}") from error


def _architecture(weights: Mapping[str, Tensor], file: Path) -> str:
    if WIDTH_KEY not in weights:
        raise ValueError(
            f"{file} does not hold the weights of a segment-anything model (no {WIDTH_KEY}); "
            "use the official sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth or sam_vit_h_4b8939.pth"
        )
    width = weights[WIDTH_KEY].shape[0]
    if width not in ARCHITECTURE_OF_WIDTH:
        raise ValueError(f"{file}: no segment-anything model has an image encoder of width {width}")
    return ARCHITECTURE_OF_WIDTH[width]
