"""From a block of the stream to what the student sees: batches to learn from, pictures to validate with."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.device import autocast
from models.losses.types import TargetBatch
from models.metrics import Confusion
from models.students.augment import IGNORE
from pipelines.training.stream import Shape
from pipelines.training.targets import PRESENT, UNKNOWN

Rows = dict[str, npt.NDArray[Any]]
# Blocks lie in shared memory that must not be written to, which torch warns of; all that follows makes copies.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def train_batches(rows: Rows, shape: Shape, device: torch.device) -> Iterator[TargetBatch]:
    """The batches of a training block, in order, on the device."""
    size = shape.batch_rows
    labeled = torch.arange(size) < shape.labeled
    for first in range(0, len(rows["index"]), size):
        part = {name: values[first : first + size] for name, values in rows.items()}
        tags = torch.from_numpy(part["tags"])
        yield TargetBatch(
            images=images(part["image"], device),
            hard=torch.from_numpy(part["target"]).to(device, torch.int64),
            weight=torch.from_numpy(part["weight"]).to(device, torch.float32).div_(255),
            labeled=labeled.to(device),
            index=torch.from_numpy(part["index"]).to(device, copy=True),
            tags=(tags == PRESENT).to(device),
            tags_known=(tags != UNKNOWN).to(device),
        )


def images(pictures: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] as float32 [B, 3, H, W] in 0..1, channels last in memory."""
    moved = torch.from_numpy(pictures).to(device, non_blocking=True)
    return moved.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last).div_(255)


@torch.inference_mode()
def validate_block(
    model: nn.Module, rows: Rows, confusion: Confusion, device: torch.device, dtype: torch.dtype, batch: int
) -> int:
    """Add a validation block to `confusion` (channels, gold in rows); returns how many images it held.

    Pictures are judged at their own size in the block, `batch` of one size at once.
    """
    sizes = rows["size"]
    real = np.flatnonzero(sizes[:, 0] > 0)
    for size in sorted({tuple(int(side) for side in sizes[row]) for row in real}):
        same = real[(sizes[real] == size).all(1)]
        height, width = size
        for start in range(0, len(same), batch):
            chosen = same[start : start + batch]
            with autocast(device, dtype):
                logits = model(images(rows["image"][chosen][:, :height, :width], device))["logits"]
            full = nn.functional.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
            labels = full.argmax(1).cpu().numpy()
            for label, row in zip(labels, chosen, strict=True):
                weight = rows["weight"][row, :height, :width]
                confusion.update(rows["target"][row, :height, :width], label, weight > 0)
    return len(real)


def new_confusion(num_classes: int) -> Confusion:
    return Confusion(num_classes, IGNORE)
