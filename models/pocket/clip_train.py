"""Trains the pocket CLIP: text tower, linear teacher, then rounds of dense self-training. See `train`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.pocket import text_words
from models.pocket.clip_config import ClipTrainConfig
from models.pocket.clip_data import (
    VIEWS,
    VOC_NAMES,
    FeatureCache,
    Photo,
    View,
    imagenet_backbone,
    other_photos,
    voc_photos,
)  # fmt: skip
from models.pocket.clip_export import export_clip
from models.pocket.clip_image_train import ImageLoss, TextTargets
from models.pocket.clip_net import start_as_linear, tokens_of_grid
from models.pocket.clip_sam_seeds import sharpen
from models.pocket.clip_seeds import choose_photos, make_seeds
from models.pocket.clip_teacher import ImageNetVoice, linear_teacher, pool, tag_matrix
from models.pocket.clip_text_train import encode_texts, new_clip, prepare_text, train_text
from models.pocket.fit import Phase, fit

Say = Callable[[str], None]
WAYS = ("{}", "a {}", "a photo of a {}.", "a photo of the {} in the scene.", "a close-up photo of a {}.",
        "a clean origami {}.", "a picture of a {}.")  # fmt: skip
SYNONYMS = {
    "aeroplane": ("airplane", "plane"), "bicycle": ("bike",), "boat": ("ship",), "cow": ("cattle",),
    "dining table": ("table",), "motorbike": ("motorcycle",), "person": ("people", "human"), "sofa": ("couch",),
    "potted plant": ("plant",), "tv monitor": ("television", "monitor"), "sheep": ("lamb",), "dog": ("puppy",),
    "cat": ("kitten",), "car": ("automobile",),
}  # fmt: skip


START_SCALE = 0.6
"""The teacher's scores reach about 1.7 on an object; the tower's are to reach 1, like the seeds."""


@dataclass(frozen=True)
class ClipTrainResult:
    """Losses of each phase, in order of steps, and where the weights are."""

    losses: dict[str, list[float]]
    weights: Path


def build_caches(photos: Sequence[Photo], views: Sequence[View], folder: Path, say: Say) -> list[FeatureCache]:
    """Backbone features of the photographs in every view; what is on disk already is not computed again."""
    backbone, caches = imagenet_backbone(), []
    for view in views:
        cache = FeatureCache(folder, list(photos), view, "imagenet")
        for done in cache.build(backbone):
            if done % 500 == 0 or done == len(photos):
                say(f"features: {done} of {len(photos)} photographs at scale {view.scale}")
        cache.open()
        caches.append(cache)
    return caches


def class_texts(encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Ways to name each VOC class, float32 [20, V, 256]; V is the same for all, the name itself comes most often."""
    rows = []
    for name in VOC_NAMES:
        names = [name, *SYNONYMS.get(name, ())]
        ways = encode([way.format(n) for n in names for way in WAYS]).view(len(names), len(WAYS), -1)
        rest = ways[1:].flatten(0, 1) if len(names) > 1 else ways[0]
        rows.append(torch.cat([ways[0], rest[:: max(1, len(rest) // len(WAYS))][: len(WAYS)]]))
    return torch.stack(rows)


def imagenet_texts(encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Embeddings of the 1,000 ImageNet names, float32 [1000, 256], unit."""
    names = text_words.imagenet_names()
    made = encode([way.format(name) for name in names for way in WAYS[:3]])
    return F.normalize(made.view(len(names), 3, -1).mean(1), dim=1)


def train(config: ClipTrainConfig, say: Say = print) -> ClipTrainResult:
    """Make `output` a pocket CLIP. Goes on from what `cache` holds if `config.resume`.

    1. The text tower learns MiniLM's embeddings of prompts.
    2. A linear map of ImageNet's features learns ImageNet's names and VOC's tags; the image tower starts as this map.
    3. Rounds of self-training: heat maps of the present classes, refined along colours, are what the tower learns.
       What is exported, and goes on, is the mean of the weights after each round (Wortsman et al., "Model Soups", ICML
       2022): it was better on gold100 than either round.

    Raises:
        FileNotFoundError: no VOC in `data`. ImportError: the `pretrain` extra is not installed.
    """
    torch.set_num_threads(config.threads)
    output, data = Path(config.output), Path(config.data)
    cache = Path(config.cache) if config.cache else output / "cache"
    texts, _, _ = prepare_text(config, cache)
    model, description = new_clip(texts, output, config.seed)
    losses = {"text": train_text(config, model, cache, output)}
    photos = voc_photos(data / "voc", "train")
    others = other_photos(data)
    if config.photos:
        photos, others = photos[: config.photos], others[: config.photos // 2]
    if not config.tags:
        photos = [Photo(photo.path, None) for photo in photos]
    caches = build_caches([*photos, *others], VIEWS[: 1 if config.photos else len(VIEWS)], cache, say)

    def encode(words: list[str]) -> Tensor:
        return encode_texts(model, output, words)

    text = TextTargets(class_texts(encode))
    voice = ImageNetVoice(imagenet_texts(encode))
    linear = _teacher(config, cache, caches[0], voice, text, say)
    embed = model.vision_model.embeddings.patch_embedding
    embed.backbone.lite0.load_state_dict(imagenet_backbone().state_dict())
    embed.backbone.requires_grad_(False)
    embed.head.load_state_dict(voice.head.state_dict())
    embed.head.requires_grad_(False)
    start_as_linear(model, linear)
    with torch.no_grad():
        model.visual_projection.weight.mul_(START_SCALE)
    export_clip(model, description, output)

    def heat(features: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            grid = embed.embed(features)
            patches = tokens_of_grid(model, grid)[0, 1:].float()
        return (patches @ text.mean().T).T.unflatten(1, grid.shape[2:])

    towers: list[dict[str, Tensor]] = []
    for number in range(config.rounds):
        name = f"image{number}"
        seeds = _seeds(config, number, cache / f"seeds{number}.pt", caches[:2], heat, say)
        loss = ImageLoss(model, caches, voice, text, config.batch_images, config.seed + number, seeds)
        minutes = config.minutes * 2 / 3 / config.rounds
        rate = config.image_learning_rate * (1.0 if number == 0 else 0.6)
        phase = Phase(name, cache, minutes, rate, config.max_steps, config.checkpoint_minutes)
        chosen = [p for p in loss.parameters() if p.requires_grad]
        model.train()
        losses[name] = fit(phase, loss, chosen, loss, config.resume, say)
        model.eval()
        towers.append({key: value.clone() for key, value in loss.tower.state_dict().items()})
        loss.tower.load_state_dict({key: torch.stack([t[key] for t in towers]).mean(0) for key in towers[0]
                                    if towers[0][key].is_floating_point()}, strict=False)  # fmt: skip
        export_clip(model, description, output)
    return ClipTrainResult(losses, output / "model.safetensors")


def _teacher(
    config: ClipTrainConfig, folder: Path, cache: FeatureCache, voice: ImageNetVoice, text: TextTargets, say: Say
) -> torch.nn.Linear:
    say("teacher: one pass over the features")
    tags, known = tag_matrix(cache, len(VOC_NAMES))
    steps = min(800, config.max_steps or 800)
    return linear_teacher(pool(cache, voice, config.seed), voice, text.mean(), tags[known], steps, config.seed)


def _seeds(
    config: ClipTrainConfig, number: int, path: Path, caches: Sequence[FeatureCache],
    heat: Callable[[Tensor], Tensor], say: Say,
) -> dict[int, Tensor]:  # fmt: skip
    """Seeds of all tagged photographs; later only of some, sharpened by SAM. Read from `path` if there."""
    if config.resume and path.exists():
        return dict(torch.load(path, weights_only=True))
    photos = caches[0].photos
    rows = choose_photos(photos, config.sharpened if number else len(photos), config.seed)
    made = make_seeds(caches, heat, rows)
    if number:
        made = sharpen(made, caches[0], Path(config.sam))
    seeds: dict[int, Tensor] = {}
    for row, maps in made:
        seeds[row] = maps
        if len(seeds) % 200 == 0:
            say(f"seeds {number}: {len(seeds)} of {len(rows)} photographs")
    torch.save(seeds, path)
    return seeds
