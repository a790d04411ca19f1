"""A student that learned to tell red from green within seconds, and the pictures that it can be judged on."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from models.students.build import build_student
from models.students.card import StudentCard, save_student
from models.students.config import StudentConfig

#: Ids as VOC has them, in channel order.
CLASSES = ({"id": 0, "name": "background"}, {"id": 8, "name": "cat"}, {"id": 12, "name": "dog"})
COLORS = {8: (200, 40, 40), 12: (40, 180, 40)}
HEIGHT, WIDTH = 64, 96


def picture(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """(photograph uint8 [H, W, 3], mask uint8 [H, W]): a red rectangle is a cat, a green one a dog, on grey noise."""
    photo = rng.integers(90, 150, (height, width, 3))
    mask = np.zeros((height, width), np.uint8)
    for column, class_id in ((0, 8), (width // 2, 12)):
        top, left = rng.integers(4, height // 3), column + rng.integers(4, width // 6)
        bottom, right = top + rng.integers(height // 3, height // 2), left + rng.integers(width // 6, width // 4)
        photo[top:bottom, left:right] = COLORS[class_id] + rng.integers(-20, 20, 3)
        mask[top:bottom, left:right] = class_id
    return photo.clip(0, 255).astype(np.uint8), mask


def write_student(folder: Path, steps: int = 60) -> Path:
    """Train an ffnet-xs and save it in OUTPUT/student, as train_student.py does. Returns OUTPUT."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    student = build_student(StudentConfig("ffnet-xs"), len(CLASSES))
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    channel = np.zeros(256, np.int64)
    for index, entry in enumerate(CLASSES):
        channel[entry["id"]] = index
    for _ in range(steps):
        photos, masks = zip(*(picture(rng) for _ in range(4)), strict=True)
        images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255
        logits = student(images)["logits"]
        logits = F.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, torch.from_numpy(channel[np.stack(masks)]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_student(folder / "student", student, StudentCard(StudentConfig("ffnet-xs"), CLASSES, True, WIDTH))
    return folder


def write_gold(folder: Path, count: int, seed: int = 1) -> Path:
    """Photographs in folder/photos and masks in folder/masks, the last rows of which nobody judged."""
    rng = np.random.default_rng(seed)
    for part in ("photos", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        photo, mask = picture(rng)
        mask[-3:] = 255
        Image.fromarray(photo).save(folder / f"photos/{number:02d}.png")
        Image.fromarray(mask).save(folder / f"masks/{number:02d}.png")
    return folder
