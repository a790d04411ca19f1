"""Trains the neck and the decoder of the pocket SAM on cached features of its frozen backbone.

One step is one kind of prompt for a few masks of each of a few images, as in SAM's own training (Kirillov et al., ICCV
2023, appendix A) but without the iterative clicks. The schedule follows the wall clock, so that a busy machine still
ends its cosine; a killed training goes on from its newest checkpoint.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.pocket.backbone import load_imagenet
from models.pocket.sam_config import SamTrainConfig, pocket_sam_architecture
from models.pocket.sam_loss import prompt_loss
from models.pocket.sam_net import Sam, build_sam
from models.pocket.sam_prompts import KINDS, PromptBatch, draw_masks, draw_prompts
from models.pocket.sam_regions import load_sources
from models.pocket.sam_views import ViewCache, build_cache
from models.sam.decode import decode

DATASET_SHARE = {"bsds500": 0.5, "ccp": 0.3, "camvid": 0.2}
"""Share of the drawn images: BSDS500 is the smallest set and the most varied one."""
WARMUP_STEPS = 100
LOG_STEPS = 50


@dataclass(frozen=True)
class TrainResult:
    """Steps in all, mean loss of the first and the last steps, seconds spent in steps, path of the weights."""

    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    weights: Path


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def draw_batch(cache: ViewCache, config: SamTrainConfig, step: int) -> tuple[list[int], PromptBatch]:
    """The views and prompts of a step; a pure function of the seed and the step, so that a resumed run draws on."""
    rng = np.random.default_rng([config.seed, 7, step])
    present = {d: [v for v, name in enumerate(cache.datasets) if name == d] for d in DATASET_SHARE}
    share = np.array([DATASET_SHARE[d] if present[d] else 0.0 for d in present])
    views: list[int] = []
    masks, of_image, sizes = [], [], []
    while len(views) < config.batch_images:
        dataset = list(present)[int(rng.choice(len(share), p=share / share.sum()))]
        view = int(rng.choice(present[dataset]))
        size = (int(cache.sizes[view][0]), int(cache.sizes[view][1]))
        drawn = draw_masks(np.asarray(cache.layers[view]), cache.things[view], size, config.batch_prompts, rng)
        masks += drawn
        of_image += [len(views)] * len(drawn)
        sizes += [size] * len(drawn)
        views.append(view)
    return views, draw_prompts(KINDS[step % len(KINDS)], masks, of_image, sizes, rng)


def forward_prompts(sam: Sam, levels: dict[int, Tensor], prompts: PromptBatch, autocast: bool) -> tuple[Tensor, Tensor]:
    """Logits float [N, 4, S/4, S/4] and predicted IoU [N, 4] for cached features.

    The prompt encoder stays in float32: its coordinates are the arguments of sines and do not survive bfloat16.
    """
    points = None if prompts.points is None else (prompts.points, prompts.labels)
    sparse, _ = sam.prompt_encoder(points=points, boxes=prompts.boxes, masks=None)
    with torch.autocast(sparse.device.type, torch.bfloat16, enabled=autocast):
        embeddings = sam.image_encoder.neck({s: level.float() for s, level in levels.items()})
        return decode(sam, embeddings, prompts.of_image, sparse)


def _learning_rate(config: SamTrainConfig, step: int, progress: float) -> float:
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return config.learning_rate * warm * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def export(sam: Sam, state: dict[str, Tensor], architecture: dict[str, Any], folder: Path) -> Path:
    """Write `config.json` and `model.safetensors` (fp16) so that a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {**sam.state_dict(), **state}
    half = {k: v.detach().half().contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    target = folder / "model.safetensors"
    save_file(half, str(target.with_suffix(".part")), metadata={"format": "pt"})
    target.with_suffix(".part").replace(target)
    (folder / "config.json").write_text(json.dumps(architecture, indent=2) + "\n")
    return target


class Trainer:
    """The state of one training: model, averaged weights, optimiser, clock."""

    def __init__(self, config: SamTrainConfig, folder: Path, say: Callable[[str], None]) -> None:
        self.config, self.folder, self.say = config, folder, say
        self.device = resolve_device(config.device)
        torch.manual_seed(config.seed)
        self.architecture = pocket_sam_architecture(config.size_px)
        self.sam = build_sam(self.architecture)
        load_imagenet(self.sam.image_encoder.backbone)
        self.sam.to(self.device)
        self.sam.image_encoder.backbone.requires_grad_(False)
        self.sam.prompt_encoder.mask_downscaling.requires_grad_(False)  # masks as prompts are not trained
        self.learned = {k: p for k, p in self.sam.named_parameters() if p.requires_grad}
        self.average = {k: p.detach().clone() for k, p in self.learned.items()}
        decay = [p for p in self.learned.values() if p.ndim > 1]
        plain = [p for p in self.learned.values() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
        )
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint beside and move it into place: a kill leaves the last whole one."""
        part = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": self.sam.state_dict(), "average": self.average, "optimiser": self.optimiser.state_dict(),
                "step": self.step, "seconds": self.seconds, "losses": self.losses,
            },
            part,
        )  # fmt: skip
        part.replace(self.checkpoint)

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.sam.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]

    def train_step(self, cache: ViewCache) -> tuple[float, float]:
        """One optimiser step; returns its loss and the mean IoU of the single mask."""
        views, drawn = draw_batch(cache, self.config, self.step)
        prompts = drawn.to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = _learning_rate(self.config, self.step, self.seconds / (60 * self.config.minutes))
        logits, quality = forward_prompts(self.sam, cache.levels(views, self.device), prompts, self.config.autocast)
        loss, iou = prompt_loss(logits, quality, prompts.targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned.values(), 1.0)
        self.optimiser.step()
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.learned.values()), 1 - decay)
        return loss.item(), iou.item()

    def export(self) -> Path:
        return export(self.sam, self.average, self.architecture, Path(self.config.output))

    def run(self, cache: ViewCache) -> TrainResult:
        """Steps until the time (or `max_steps`) is over, with checkpoints and exports on the way."""
        config = self.config
        last_save = last_export = self.seconds
        stretch: dict[str, list[float]] = {}
        while self.seconds < 60 * config.minutes and (not config.max_steps or self.step < config.max_steps):
            began = time.monotonic()
            loss, iou = self.train_step(cache)
            self.losses.append(loss)
            stretch.setdefault(KINDS[self.step % len(KINDS)], []).append(iou)
            self.step += 1
            self.seconds += time.monotonic() - began
            if self.step % LOG_STEPS == 0:
                ious = " ".join(f"{kind} {np.mean(values):.3f}" for kind, values in sorted(stretch.items()))
                mean = np.mean(self.losses[-LOG_STEPS:])
                self.say(f"step {self.step} {self.seconds / 60:.1f} min loss {mean:.3f} train IoU {ious}")
                stretch = {}
            if self.seconds - last_save > 60 * config.checkpoint_minutes:
                self.save()
                last_save = self.seconds
            if self.seconds - last_export > 60 * config.export_minutes:
                self.export()
                last_export = self.seconds
        self.save()
        few = max(1, min(LOG_STEPS, len(self.losses) // 4))
        first, last = float(np.mean(self.losses[:few])), float(np.mean(self.losses[-few:]))
        return TrainResult(self.step, first, last, self.seconds, self.export())


def train(config: SamTrainConfig, say: Callable[[str], None] = print) -> TrainResult:
    """Train the pocket SAM and write `config.json` and `model.safetensors` into `config.output`.

    Args:
        config: see its fields; with `resume`, the checkpoint in the cache is gone on from, if there is one.
        say: gets a line of progress every 50 steps.

    Raises:
        FileNotFoundError: a data set is missing. ImportError: the `pretrain` extra is not installed.
    """
    torch.set_num_threads(config.threads)
    folder = Path(config.cache) if config.cache else Path(config.output) / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, folder, say)
    sources = load_sources(Path(config.data), config.images_per_set)
    say(f"{len(sources)} photographs, {sum(len(s.things) for s in sources)} things; features in {folder}")
    cache = build_cache(config, sources, trainer.sam.image_encoder, folder / "views", trainer.device)
    if config.resume and trainer.checkpoint.exists():
        trainer.load()
        say(f"resumed at step {trainer.step}")
    return trainer.run(cache)
