"""Augmented views of the training photographs and their backbone features, computed once and read by memory map.

The backbone is frozen, so its features for a fixed set of views cost one pass; training then pays for the neck and
the decoder alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from models.pocket.backbone import CHANNELS
from models.pocket.sam_config import SamTrainConfig
from models.pocket.sam_net import PocketImageEncoder
from models.pocket.sam_regions import MAX_LAYERS, Source, Thing

MIN_CROP = 0.55
"""Smallest side of a crop, as a share of the photograph's side: photographs are small, more would only blur."""


@dataclass(frozen=True)
class View:
    """One view of a photograph: cropped, flipped, coloured, resized, padded at the right and bottom."""

    image: NDArray[np.uint8]  # [S, S, 3], RGB, zero where padded
    layers: NDArray[np.uint8]  # [L, S/2, S/2], region numbers, 0 where there is none
    size: tuple[int, int]  # height and width of the part that is not padding, px


def make_view(source: Source, size_px: int, rng: np.random.Generator, plain: bool) -> View:
    """One view of a photograph.

    Args:
        size_px: side S of the square, px.
        rng: drawn from for crop, flip and colour.
        plain: the whole photograph, neither cropped nor coloured.
    """
    image = Image.open(source.photo).convert("RGB")
    layers = source.layers
    if image.size != layers.shape[:0:-1]:
        raise ValueError(f"{source.photo}: photograph and regions differ in size")
    if not plain:
        width, height = image.size
        share = rng.uniform(MIN_CROP, 1.0)
        w, h = (round(side * min(1.0, share * rng.uniform(0.9, 1.1))) for side in (width, height))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        image, layers = image.crop((x, y, x + w, y + h)), layers[:, y : y + h, x : x + w]
        image = _recolour(image, rng)
        if rng.random() < 0.5:
            image, layers = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), layers[:, :, ::-1]
    scale = size_px / max(image.size)
    width, height = (max(2, round(side * scale / 2) * 2) for side in image.size)
    canvas = np.zeros((size_px, size_px, 3), np.uint8)
    canvas[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    half = np.zeros((len(layers), size_px // 2, size_px // 2), np.uint8)
    for index, layer in enumerate(layers):
        small = Image.fromarray(np.ascontiguousarray(layer)).resize((width // 2, height // 2), Image.Resampling.NEAREST)
        half[index, : height // 2, : width // 2] = np.asarray(small)
    return View(canvas, half, (height, width))


def _recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(rng.uniform(0.7, 1.3)))
    return image.convert("L").convert("RGB") if rng.random() < 0.05 else image


class ViewCache:
    """Views on disk: backbone features fp16 by level, region layers, sizes, and each view's things.

    `features[stride]` is float16 [V, C, S/stride, S/stride]; `layers` uint8 [V, 3, S/2, S/2]; `sizes` int [V, 2].
    """

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.size_px = int(meta["size_px"])
        self.source_of: list[int] = meta["source_of"]
        self.features = {s: np.load(folder / f"stride{s}.npy", mmap_mode="r") for s in CHANNELS}
        self.layers = np.load(folder / "layers.npy", mmap_mode="r")
        self.sizes = np.load(folder / "sizes.npy")
        self.datasets = [sources[i].dataset for i in self.source_of]
        self.things: list[tuple[Thing, ...]] = [sources[i].things for i in self.source_of]

    def __len__(self) -> int:
        return len(self.source_of)

    def levels(self, views: Sequence[int], device: torch.device) -> dict[int, torch.Tensor]:
        """Backbone features of some views, {stride s: float16 [len(views), C, S/s, S/s]}."""
        return {s: torch.from_numpy(np.stack([f[v] for v in views])).to(device) for s, f in self.features.items()}


def build_cache(
    config: SamTrainConfig, sources: Sequence[Source], encoder: PocketImageEncoder, folder: Path, device: torch.device
) -> ViewCache:
    """Fill `folder` with views and features, unless it holds them already for the same settings.

    Views are seeded by photograph and number, so that a rebuilt cache is the same.
    """
    views_of = {"bsds500": config.views_bsds, "ccp": config.views_ccp, "camvid": config.views_camvid}
    plan = [(i, k) for i, source in enumerate(sources) for k in range(views_of[source.dataset])]
    meta = {"size_px": config.size_px, "seed": config.seed, "plan": plan, "source_of": [i for i, _ in plan]}
    done = folder / "meta.json"
    if not done.exists() or json.loads(done.read_text()) != json.loads(json.dumps(meta)):
        done.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        _fill(config, sources, plan, encoder, folder, device)
        done.write_text(json.dumps(meta))
    return ViewCache(folder, sources)


@torch.inference_mode()
def _fill(
    config: SamTrainConfig, sources: Sequence[Source], plan: list[tuple[int, int]], encoder: PocketImageEncoder,
    folder: Path, device: torch.device,
) -> None:  # fmt: skip
    size, count = config.size_px, len(plan)
    maps = {
        s: np.lib.format.open_memmap(folder / f"stride{s}.npy", "w+", np.float16, (count, c, size // s, size // s))
        for s, c in CHANNELS.items()
    }
    layers = np.lib.format.open_memmap(folder / "layers.npy", "w+", np.uint8, (count, MAX_LAYERS, size // 2, size // 2))
    sizes = np.zeros((count, 2), np.int64)
    for start in range(0, count, config.batch_images):
        part = plan[start : start + config.batch_images]
        views = [make_view(sources[i], size, np.random.default_rng([config.seed, i, k]), plain=k == 0) for i, k in part]
        for offset, view in enumerate(views):
            layers[start + offset, : len(view.layers)] = view.layers
            sizes[start + offset] = view.size
        for s, level in encoder.backbone(normalise(views).to(device)).items():
            maps[s][start : start + len(part)] = level.cpu().numpy()
        if start % (config.batch_images * 50) == 0:
            print(f"features of {start} / {count} views", flush=True)
    np.save(folder / "sizes.npy", sizes)
    for array in (*maps.values(), layers):
        array.flush()


def normalise(views: Sequence[View]) -> torch.Tensor:
    """float32 [B, 3, S, S] as `Sam.preprocess` makes it: (x - 127) / 128, zero where padded."""
    batch = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2).float()
    batch = (batch - 127.0) / 128.0
    for row, view in zip(batch, views, strict=True):
        row[:, view.size[0] :] = 0.0
        row[:, :, view.size[1] :] = 0.0
    return batch
