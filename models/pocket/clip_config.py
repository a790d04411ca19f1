"""How the pocket CLIP is trained; imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClipTrainConfig:
    """Training of the pocket CLIP on photographs and image tags."""

    data: str = field(default="../shared/data", metadata={"help": "folder with voc/, bsds500/, ccp/ and camvid/"})
    output: str = field(default="models/pocket/clip", metadata={"help": "folder for config, weights and tokenizer"})
    cache: str = field(
        default="", metadata={"help": "folder for features and checkpoints, 5 GB; OUTPUT/cache if empty"}
    )
    minutes: float = field(
        default=60.0, metadata={"help": "wall time of all optimisation, minutes; a third is the text tower's"}
    )
    photos: int = field(default=0, metadata={"help": "use only the first N photographs of each set; 0: all"})
    batch_images: int = field(default=16, metadata={"help": "images in a step"})
    batch_prompts: int = field(default=256, metadata={"help": "prompts in a step of the text tower"})
    prompts: int = field(default=40000, metadata={"help": "different prompts that the text tower learns"})
    text_learning_rate: float = field(default=2e-3, metadata={"help": "AdamW, cosine over the wall time"})
    image_learning_rate: float = field(default=4e-4, metadata={"help": "AdamW, cosine over the wall time"})
    tags: bool = field(default=True, metadata={"help": "learn from VOC's image tags; off: only from ImageNet's names"})
    rounds: int = field(default=2, metadata={"help": "rounds of dense self-training, each on maps of the one before"})
    sam: str = field(default="models/pocket/sam", metadata={"help": "pocket SAM that sharpens seeds from round 2 on"})
    sharpened: int = field(default=1200, metadata={"help": "photographs whose seeds are made anew from round 2 on"})
    max_steps: int = field(default=0, metadata={"help": "stop each phase after N steps; 0: when its time is over"})
    checkpoint_minutes: float = field(default=2.0, metadata={"help": "between two checkpoints, minutes"})
    resume: bool = field(default=False, metadata={"help": "go on from the checkpoints in the cache"})
    threads: int = field(default=1, metadata={"help": "torch threads on the CPU"})
    seed: int = field(default=0, metadata={"help": "of prompts, batches and first weights"})


def quick_clip_config(**changes: Any) -> ClipTrainConfig:
    """The one-minute variant: two dozen photographs, a few hundred prompts, enough to see both losses fall."""
    settings: dict[str, Any] = {
        "minutes": 0.6, "photos": 24, "prompts": 400, "batch_images": 8, "batch_prompts": 64, "rounds": 1,
        "checkpoint_minutes": 0.05,
    }  # fmt: skip
    return ClipTrainConfig(**{**settings, **changes})
