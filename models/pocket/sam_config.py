"""What the pocket SAM is, and how it is trained; imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Any


def pocket_sam_architecture(size_px: int = 320) -> dict[str, Any]:
    """The `config.json` of the pocket SAM: every number that `build_sam` needs.

    Args:
        size_px: longer side of the square that photographs are resized and padded to; a multiple of 32.
    """
    return {
        "maskstream": {
            "image_encoder": "efficientnet_lite0",
            "image_size_px": size_px,
            "embedding_stride_px": 16,
            "decoder_width": 128,
            "decoder_depth": 2,
            "decoder_heads": 8,
            "decoder_mlp_width": 512,
            "mask_prompt_width": 16,
            "neck_blocks": 2,
            "image_mean": [127.0, 127.0, 127.0],
            "image_std": [128.0, 128.0, 128.0],
        }
    }


@dataclass(frozen=True)
class SamTrainConfig:
    """Training of the pocket SAM on masks that need no class."""

    data: str = field(
        default="../shared/data",
        metadata={"help": "folder with bsds500/, ccp/ and camvid/; their train masks are learned from"},
    )
    output: str = field(default="models/pocket/sam", metadata={"help": "folder for config.json and model.safetensors"})
    cache: str = field(
        default="", metadata={"help": "folder for features and checkpoints, 4 GB; OUTPUT/cache if empty"}
    )
    minutes: float = field(
        default=70.0, metadata={"help": "wall time of the optimisation, minutes; the schedule follows it"}
    )
    size_px: int = field(default=320, metadata={"help": "input size of the image encoder, px, a multiple of 32"})
    views_bsds: int = field(default=16, metadata={"help": "augmented views of a BSDS500 photograph in the cache"})
    views_ccp: int = field(default=3, metadata={"help": "augmented views of a CCP photograph"})
    views_camvid: int = field(default=3, metadata={"help": "augmented views of a CamVid frame"})
    images_per_set: int = field(default=0, metadata={"help": "use only the first N images of each data set; 0: all"})
    batch_images: int = field(default=8, metadata={"help": "images in a step"})
    batch_prompts: int = field(default=6, metadata={"help": "prompts for each image in a step"})
    learning_rate: float = field(default=8e-4, metadata={"help": "AdamW, cosine over the wall time"})
    ema_decay: float = field(default=0.999, metadata={"help": "of the averaged weights that are exported"})
    checkpoint_minutes: float = field(default=3.0, metadata={"help": "between two checkpoints, minutes"})
    export_minutes: float = field(default=10.0, metadata={"help": "between two exports of the weights, minutes"})
    max_steps: int = field(default=0, metadata={"help": "stop after N steps, 0: when the time is over"})
    resume: bool = field(default=False, metadata={"help": "go on from the newest checkpoint in the cache"})
    threads: int = field(default=1, metadata={"help": "torch threads on the CPU"})
    device: str = field(default="auto", metadata={"help": "auto, cpu or cuda"})
    autocast: bool = field(default=True, metadata={"help": "bfloat16 where it is safe"})
    seed: int = field(default=0, metadata={"help": "of views, prompts and first weights"})


def quick_sam_config(**changes: Any) -> SamTrainConfig:
    """The one-minute variant: 24 photographs, one view each, enough to see the loss fall; never over real weights."""
    settings: dict[str, Any] = {
        "output": "out/quick/sam",
        "minutes": 0.5,
        "size_px": 128,
        "views_bsds": 1,
        "views_ccp": 1,
        "views_camvid": 1,
        "images_per_set": 8,
        "batch_images": 4,
        "batch_prompts": 4,
        "ema_decay": 0.9,
        "checkpoint_minutes": 0.05,
        "export_minutes": 60.0,
    }
    return SamTrainConfig(**{**settings, **changes})
