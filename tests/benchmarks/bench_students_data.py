"""The data folders of bench_students.py: annotations made worse or scarcer, with a fixed seed."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

VOID = 11  # CamVid's id of pixels that nobody judged
SWAPPED = 0.2
MIN_REGION_PX = 64  # smaller ones are the ragged rims of larger ones
CLICK_RADIUS_PX = 2  # survives the reduction of a mask to half its side

Ids = np.ndarray


def frames(data: Path) -> list[str]:
    """Names of CamVid's training masks, in the order of the drive."""
    return sorted(path.name for path in (data / "camvid" / "trainannot").glob("*.png"))


def noisy_masks(data: Path, folder: Path, seed: int) -> Path:
    """CamVid's training masks as they were one frame before, with a fifth of their regions given each other's class.

    The first frame of a sequence (the names' part before "_") has no frame before it, and is left out.
    """

    def write(target: Path) -> None:
        names = frames(data)
        rng = np.random.default_rng(seed)
        for before, name in pairwise(names):
            if before.split("_")[0] == name.split("_")[0]:
                save(target / name, swap_regions(read(data, before), SWAPPED, rng))

    return made_once(folder, {"what": "noisy", "seed": seed, "swapped": SWAPPED}, write)


def clicked_masks(data: Path, folder: Path, seed: int) -> Path:
    """One click a class and image; every other pixel says nothing."""

    def write(target: Path) -> None:
        rng = np.random.default_rng(seed)
        for name in frames(data):
            save(target / name, clicks(read(data, name), rng))

    return made_once(folder, {"what": "clicks", "seed": seed, "radius_px": CLICK_RADIUS_PX}, write)


def swap_regions(mask: Ids, share: float, rng: np.random.Generator) -> Ids:
    """A share of the connected regions, drawn at random, exchange their classes; void keeps its place."""
    regions, classes = [], []
    for class_id in np.unique(mask[mask != VOID]):
        found, count = ndimage.label(mask == class_id)
        sizes = np.bincount(found.ravel(), minlength=count + 1)
        for number in range(1, count + 1):
            if sizes[number] >= MIN_REGION_PX:
                regions.append(found == number)
                classes.append(class_id)
    chosen = rng.permutation(len(regions))[: round(share * len(regions))]
    out = mask.copy()
    # In a ring, sorted by class: neighbours of one class would exchange nothing.
    ring = sorted(chosen, key=lambda i: classes[i])
    for i, j in zip(ring, np.roll(ring, len(ring) // 2), strict=True):
        out[regions[i]] = classes[j]
    return out


def clicks(mask: Ids, rng: np.random.Generator) -> Ids:
    """A small disc for each class, around a random pixel of its inner half (people click into the middle)."""
    out = np.full_like(mask, VOID)
    rows, columns = np.indices(mask.shape)
    for class_id in np.unique(mask[mask != VOID]):
        depth = ndimage.distance_transform_edt(np.pad(mask == class_id, 1))[1:-1, 1:-1]
        inside = np.argwhere(depth >= max(1.0, depth.max() / 2))
        row, column = inside[rng.integers(len(inside))]
        out[(rows - row) ** 2 + (columns - column) ** 2 <= CLICK_RADIUS_PX**2] = class_id
    return out


def noise_rate(data: Path, folder: Path) -> float:
    """Share of the judged pixels on which made masks differ from CamVid's own."""
    wrong = judged = 0
    for path in sorted(folder.glob("*.png")):
        gold, given = read(data, path.name), np.array(Image.open(path))
        known = (gold != VOID) & (given != VOID)
        wrong, judged = wrong + int((gold != given)[known].sum()), judged + int(known.sum())
    return wrong / max(1, judged)


def read(data: Path, name: str) -> Ids:
    return np.array(Image.open(data / "camvid" / "trainannot" / name))


def save(path: Path, mask: Ids) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(path)


def made_once(folder: Path, recipe: dict[str, object], write: Callable[[Path], None]) -> Path:
    """`folder`, written unless the same recipe has written it before."""
    note = folder.with_suffix(".json")
    if not note.exists() or json.loads(note.read_text()) != recipe:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        write(folder)
        note.write_text(json.dumps(recipe))
    return folder
