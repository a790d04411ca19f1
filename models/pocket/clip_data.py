"""Photographs, image tags and cached backbone features that the pocket CLIP learns from.

VOC gives photographs and image tags (the classes that occur); BSDS500, CCP and CamVid give more photographs, without
tags. No mask is kept: VOC's are read only to learn which classes occur.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from models.pocket.backbone import Lite0, load_imagenet

PATCH_PX = 16
CACHED_LEVELS = (16, 32)
CACHED_CHANNELS = 112 + 320
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
VOC7 = (7, 9, 11, 12, 14, 16, 17)
"""Positions in VOC_NAMES of the classes with ten or more images in our val: cat cow dog horse person sheep sofa."""


@dataclass(frozen=True)
class Photo:
    """One photograph: its path, and the positions in VOC_NAMES of the classes that occur (None: not known)."""

    path: Path
    tags: tuple[int, ...] | None


@dataclass(frozen=True)
class View:
    """How a photograph is shown to the backbone: `scale` of 320 px, mirrored, colours changed."""

    scale: float
    mirror: bool = False
    jitter: bool = False


VIEWS = (View(1.0), View(0.75, mirror=True, jitter=True), View(1.3, jitter=True))


def grid_of(width: int, height: int, scale: float = 1.0, side: int = 20) -> tuple[int, int]:
    """Rows and columns of the patch grid: aspect kept, about (side * scale)^2 patches, each side at least 4."""
    ratio = (height / width) ** 0.5
    return max(4, round(side * scale * ratio)), max(4, round(side * scale / ratio))


def load_view(path: Path, view: View, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The photograph as uint8 [16 * rows, 16 * columns, 3], upright RGB."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    rows, columns = grid_of(*image.size, view.scale)
    image = image.resize((columns * PATCH_PX, rows * PATCH_PX), Image.Resampling.BICUBIC)
    if view.mirror:
        image = ImageOps.mirror(image)
    if view.jitter:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(float(rng.uniform(0.7, 1.3)))
    return np.array(image)


def normalise(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] as Lite0 wants it."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128


def classes_in_mask(path: Path) -> tuple[int, ...]:
    """Image tags from a VOC mask: positions in VOC_NAMES of the classes that occur."""
    with Image.open(path) as mask:
        ids = np.unique(np.asarray(mask))
    return tuple(int(i) - 1 for i in ids if 1 <= i <= len(VOC_NAMES))


def voc_photos(voc: Path, split: str) -> list[Photo]:
    """Photographs of `train` (without gold100), `gold100` or `val`, with their tags."""
    lists = voc / "ImageSets" / "Segmentation"
    names = (lists / f"{split}.txt").read_text().split()
    if split == "train":
        gold = set((lists / "gold100.txt").read_text().split())
        names = [name for name in names if name not in gold]
    masks = voc / "SegmentationClassAug"
    return [Photo(voc / "JPEGImages" / f"{name}.jpg", classes_in_mask(masks / f"{name}.png")) for name in names]


def other_photos(data: Path, ccp: int = 500, camvid: int = 120) -> list[Photo]:
    """Photographs without VOC tags: BSDS500 train, and evenly spaced ones of CCP and of CamVid train."""

    def some(folder: Path, pattern: str, count: int) -> list[Path]:
        paths = sorted(folder.rglob(pattern)) if folder.is_dir() else []
        return paths[:: max(1, len(paths) // count)][:count]

    paths = some(data / "bsds500" / "images" / "train", "*.jpg", 200)
    paths += some(data / "ccp" / "photos", "*.jpg", ccp) + some(data / "camvid" / "train", "*.png", camvid)
    return [Photo(path, None) for path in paths]


class FeatureCache:
    """Backbone features of one view of many photographs, fp16 on disk, written in order and resumable.

    `index` int64 [N, 3]: first token, rows, columns of each photograph; `tokens` fp16 [T, 432].
    """

    def __init__(self, folder: Path, photos: list[Photo], view: View, backbone_digest: str) -> None:
        self.photos, self.view = photos, view
        key = json.dumps([[str(p.path) for p in photos], repr(view), backbone_digest])
        self.path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.fp16"
        grids = []
        for photo in photos:
            with Image.open(photo.path) as image:
                grids.append(grid_of(*image.size, view.scale))
        self.grids = np.array(grids, np.int64).reshape(-1, 2)
        self.starts = np.concatenate([[0], np.cumsum(self.grids.prod(axis=1))])

    def build(self, backbone: Lite0) -> Iterator[int]:
        """Compute what is missing; yields how many photographs are done, now and then."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        token_bytes = CACHED_CHANNELS * 2
        have = self.path.stat().st_size // token_bytes if self.path.exists() else 0
        done = int(np.searchsorted(self.starts, have, side="right")) - 1
        with self.path.open("ab") as file, torch.inference_mode():
            file.truncate(int(self.starts[done]) * token_bytes)
            for i in range(done, len(self.photos)):
                rng = np.random.default_rng(i)
                picture = load_view(self.photos[i].path, self.view, rng)
                tokens = cached_features(backbone, normalise(picture[None]))[0]
                file.write(tokens.flatten(1).T.contiguous().half().numpy().tobytes())
                if i % 50 == 49:
                    yield i + 1
        yield len(self.photos)

    def open(self) -> None:
        """Map the finished file; RuntimeError if it is not finished."""
        if self.path.stat().st_size != int(self.starts[-1]) * CACHED_CHANNELS * 2:
            raise RuntimeError(f"{self.path} is not finished: call build() first")
        self.tokens = np.memmap(self.path, np.float16, "r", shape=(int(self.starts[-1]), CACHED_CHANNELS))

    def get(self, rows: list[int]) -> Tensor:
        """float16 [B, 432, h, w] of photographs with one and the same grid."""
        h, w = self.grids[rows[0]]
        maps = [np.array(self.tokens[self.starts[i] : self.starts[i + 1]]) for i in rows]
        return torch.from_numpy(np.stack(maps)).view(len(rows), int(h), int(w), -1).permute(0, 3, 1, 2)


def cached_features(backbone: Lite0, image: Tensor) -> Tensor:
    """float32 [B, 432, h, w]: the two stride-16 levels of a dilated backbone, computed in bfloat16."""
    with torch.autocast(image.device.type, torch.bfloat16):
        features = backbone(image)
    return torch.cat([features[level] for level in CACHED_LEVELS], dim=1).float()


def imagenet_backbone() -> Lite0:
    """The frozen dilated backbone with ImageNet weights, without its head."""
    backbone = Lite0(dilate_last=True)
    load_imagenet(backbone)
    return backbone.requires_grad_(False).eval()
