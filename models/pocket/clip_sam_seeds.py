"""Seeds sharpened by the pocket SAM, which never saw a VOC mask: heat says what and about where, SAM says how far."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from torch import Tensor
from torch.nn import functional as F

from models.pocket.clip_data import FeatureCache, View, load_view
from models.pocket.clip_seeds import PIXELS_A_PATCH, unit_maps
from models.sam.load import load_sam

BOX_HEAT = 0.35
"""Components of the heat above this share of its maximum become boxes."""
SMALLEST_SHARE = 0.01


def _boxes(fine: Tensor) -> tuple[list[list[float]], list[float]]:
    """Boxes x0 y0 x1 y1 in fractions of the frame around the components of a heat map [H, W], and their peaks."""
    heat = fine.numpy()
    parts, _ = label(heat > BOX_HEAT)
    boxes, peaks = [], []
    for number, (rows, columns) in enumerate(find_objects(parts), start=1):
        inside = parts[rows, columns] == number
        if inside.sum() >= SMALLEST_SHARE * heat.size:
            edges = (columns.start, rows.start, columns.stop, rows.stop)
            boxes.append(
                [edge / size for edge, size in zip(edges, (*heat.shape[::-1], *heat.shape[::-1]), strict=True)]
            )
            peaks.append(float(heat[rows, columns][inside].max()))
    return boxes, peaks


@torch.inference_mode()
def sharpen(seeds: Iterable[tuple[int, Tensor]], cache: FeatureCache, folder: Path) -> Iterator[tuple[int, Tensor]]:
    """The mean of each heat map and of the SAM masks of its boxes, brought back to the patch grid.

    Args:
        seeds: rows of the cache, and their seeds float16 [tags, h, w], as `make_seeds` yields them.
        folder: the pocket SAM.

    Yields:
        The row and its new seeds, float16 [tags, h, w] in 0..1.
    """
    from segment_anything import SamPredictor

    predictor = SamPredictor(load_sam(folder))
    for i, old in seeds:
        h, w = old.shape[1:]
        predictor.set_image(load_view(cache.photos[i].path, View(1.0), np.random.default_rng(0)))
        height, width = predictor.original_size
        fine = F.interpolate(old[None].float(), (h * PIXELS_A_PATCH, w * PIXELS_A_PATCH), mode="bilinear")[0]
        masks = torch.zeros_like(fine)
        for k, heat in enumerate(fine):
            boxes, peaks = _boxes(heat)
            if boxes:
                pixels = torch.tensor(boxes) * torch.tensor([width, height, width, height])
                pixels = predictor.transform.apply_boxes_torch(pixels, predictor.original_size)
                logits, _, _ = predictor.predict_torch(None, None, pixels, multimask_output=False, return_logits=True)
                found = F.interpolate(logits.sigmoid(), fine.shape[1:], mode="bilinear", antialias=True)[:, 0]
                masks[k] = (found * torch.tensor(peaks)[:, None, None]).amax(0)
        yield i, unit_maps(F.adaptive_avg_pool2d(fine + masks, (h, w))).half()
