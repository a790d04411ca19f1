"""CLIP checkpoints from a local folder, with what the dense labeler has to know about them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import torchvision_cpu

torchvision_cpu.ensure()

from safetensors.torch import load_file  # noqa: E402
from transformers import CLIPModel  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

transformers_logging.disable_progress_bar()  # A bar a worker and model would drown the job's own progress.

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
DENSE_SCALE = 1.5  # Official CLIP learns at 224 px; at 336 its patch grid (21x21) is fine enough to outline objects.


@dataclass(frozen=True)
class ClipCheckpoint:
    """A CLIP in evaluation mode on the CPU, and how its pictures are made.

    image_mean, image_std: per RGB channel, of values in 0..1. image_size_px: side of the dense input.
    attention: "plain" or "vv", the better one for dense labels. dense_normalise: whether patch features become unit
    vectors (cosine scores), or keep their length (dot products: a length then tells an object from its surroundings).
    scales: of image_size_px, whose features are best averaged.
    """

    model: CLIPModel
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_size_px: int
    attention: str
    dense_normalise: bool
    scales: tuple[float, ...] = (1.0,)

    @property
    def patch_px(self) -> int:
        return int(self.model.config.vision_config.patch_size)


def load_clip(path: str | Path) -> ClipCheckpoint:
    """Load a folder that `CLIPModel.from_pretrained` understands, or a pocket CLIP. Only safe formats are opened.

    Raises:
        FileNotFoundError: `path` is not a folder with a config.json.
        ValueError: the weights do not fit the config.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no CLIP: a folder with config.json and model.safetensors is needed, as "
            "`save_pretrained` or `huggingface-cli download` leave it"
        )
    config = json.loads((folder / "config.json").read_text())
    if "maskstream" in config:
        return _load_pocket(folder, config)
    model = CLIPModel.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa").float().eval()
    mean, std = _preprocessing(folder)
    side = round(DENSE_SCALE * model.config.vision_config.image_size)
    return ClipCheckpoint(model, mean, std, side, attention="vv", dense_normalise=True)


def _load_pocket(folder: Path, config: dict[str, Any]) -> ClipCheckpoint:
    from models.pocket.clip_net import build_clip

    model = build_clip(config)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {error}") from error
    spec = config["maskstream"]
    return ClipCheckpoint(
        model.float().eval(),
        tuple(spec["image_mean"]),
        tuple(spec["image_std"]),
        int(spec["image_size_px"]),
        spec["attention"],
        bool(spec["dense_normalise"]),
        tuple(spec.get("scales", (1.0,))),
    )


def _preprocessing(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return OPENAI_MEAN, OPENAI_STD
    spec = json.loads(file.read_text())
    return tuple(spec.get("image_mean", OPENAI_MEAN)), tuple(spec.get("image_std", OPENAI_STD))
