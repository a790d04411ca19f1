"""Real photographs that installed packages carry, and crops of them."""

from pathlib import Path

import numpy as np
from PIL import Image


def photographs() -> list[np.ndarray]:
    """The photographs that installed packages carry, uint8 [h, w, 3]."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    own = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
    return [*own, *load_sample_images().images]


def write_crops(folder: Path, count: int, seed: int = 0, size: int = 96) -> list[str]:
    """Write `count` different crops of real photographs as JPEG; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    sources = photographs()
    names = []
    for number in range(count):
        source = sources[number % len(sources)]
        height, width = (int(value) for value in random.integers(size // 2, size, 2))
        top = int(random.integers(0, source.shape[0] - height))
        left = int(random.integers(0, source.shape[1] - width))
        name = f"crop-{number:04d}.jpg"
        Image.fromarray(source[top : top + height, left : left + width]).save(folder / name, quality=92)
        names.append(name)
    return names
