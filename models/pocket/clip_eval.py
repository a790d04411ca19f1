"""Measures of the pocket CLIP: mean average precision of image tags, and the IoU of dense maps with tags known."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from models.pocket.clip_data import PATCH_PX, VOC7, VOC_NAMES, Photo, View, load_view, normalise, voc_photos
from models.pocket.clip_net import CLIPModel, build_clip, vision_tokens
from models.pocket.clip_text_train import encode_texts

THRESHOLDS = tuple(np.arange(0.1, 0.86, 0.05).round(2).tolist())


def mask_path(photo: Photo) -> Path:
    """Where the VOC mask of a photograph is; only for measuring, never for learning."""
    return photo.path.parents[1] / "SegmentationClassAug" / f"{photo.path.stem}.png"


def heat_maps(patches: Tensor, text: Tensor, tags: Sequence[int]) -> Tensor:
    """Heat of the tagged classes: dot products, negative ones cut, each map over its maximum.

    Args:
        patches: float [h, w, D]. text: float [20, D].

    Returns:
        float [len(tags), h, w] in 0..1.
    """
    heat = torch.einsum("hwd,kd->khw", patches, text[list(tags)]).clamp_min(0)
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-6)


def average_precision(scores: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps, scores float [N], truth bool [N]; NaN without a positive."""
    hits = truth[np.argsort(-scores, kind="stable")]
    if not hits.any():
        return float("nan")
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def mean_average_precision(scores: npt.NDArray[np.floating], photos: Sequence[Photo]) -> dict[str, float]:
    """mAP over VOC7 of scores float [N, 20], and what chance gives (the share of positives)."""
    truth = np.array([[k in (photo.tags or ()) for k in range(len(VOC_NAMES))] for photo in photos])
    found = [average_precision(scores[:, k], truth[:, k]) for k in VOC7]
    return {"map7": float(np.nanmean(found)), "map7_chance": float(truth[:, list(VOC7)].mean())}


class DenseScore:
    """Confusion at each of several thresholds, for maps of tagged classes against VOC masks."""

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS) -> None:
        self.thresholds = tuple(thresholds)
        self.confusion = np.zeros((len(self.thresholds), 21, 21), np.int64)

    def add(self, heat: Tensor, tags: Sequence[int], mask: npt.NDArray[np.uint8]) -> None:
        """heat float [len(tags), h, w] in 0..1, brought to the mask's size; mask uint8 [H, W], 255 left out."""
        full = F.interpolate(heat[None], mask.shape, mode="bilinear", align_corners=False)[0]
        best, which = full.max(0)
        classes = np.array(tags)[which.numpy()] + 1
        known = mask != 255
        truth, classes, value = mask[known].astype(np.int64), classes[known], best.numpy()[known]
        for i, threshold in enumerate(self.thresholds):
            label = np.where(value >= threshold, classes, 0)
            self.confusion[i] += np.bincount(truth * 21 + label, minlength=441).reshape(21, 21)

    def at(self, i: int) -> dict[str, float]:
        """`miou` over the classes that occur, with background, and `miou_voc7`, at threshold number i."""
        c = self.confusion[i]
        union = c.sum(0) + c.sum(1) - c.diagonal()
        iou = c.diagonal() / np.maximum(union, 1)
        occurs = c.sum(1) > 0
        return {
            "threshold": self.thresholds[i],
            "miou": float(iou[occurs].mean()),
            "miou_voc7": float(np.mean([iou[k + 1] for k in VOC7])),
        }

    def best(self) -> dict[str, float]:
        """The figures at the threshold with the best sum of both."""
        return max((self.at(i) for i in range(len(self.thresholds))), key=lambda s: s["miou"] + s["miou_voc7"])


def read_mask(photo: Photo) -> npt.NDArray[np.uint8]:
    """The VOC mask, uint8 [H, W]."""
    with Image.open(mask_path(photo)) as mask:
        return np.asarray(mask)


def centre_prior(shape: tuple[int, int]) -> Tensor:
    """A map that falls from 1 at the centre to 0 at the border's middles, float [h, w]: what any heat must beat."""
    y, x = (torch.linspace(-1, 1, n) for n in shape)
    return (1 - (x[None] ** 2 + y[:, None] ** 2).sqrt()).clamp(0, 1)


@dataclass(frozen=True)
class Seen:
    """What the model makes of a photograph: patches float32 [h, w, D], unit image embedding float32 [D]."""

    photo: Photo
    patches: Tensor
    image: Tensor


@torch.inference_mode()
def see(model: CLIPModel, photos: Sequence[Photo]) -> Iterator[Seen]:
    """Each photograph at the training grid, aspect kept, in float32."""
    vision = model.vision_model
    for photo in photos:
        pixels = normalise(load_view(photo.path, View(1.0), np.random.default_rng(0))[None])
        tokens = vision_tokens(model, vision.embeddings.patch_embedding.backbone(pixels))[0]
        h, w = pixels.shape[2] // PATCH_PX, pixels.shape[3] // PATCH_PX
        yield Seen(photo, tokens[1:].view(h, w, -1), F.normalize(tokens[0], dim=0))


def dense_score(seen: Sequence[Seen], text: Tensor, prior: bool = False) -> DenseScore:
    """Maps with tags known against the masks; `prior`: the centre prior in place of the model's heat."""
    score = DenseScore()
    for one in seen:
        tags = one.photo.tags or ()
        heat = heat_maps(one.patches, text, tags)
        if prior:
            heat = centre_prior((one.patches.shape[0], one.patches.shape[1])).expand_as(heat)
        score.add(heat, tags, read_mask(one.photo))
    return score


def load_pocket(folder: Path) -> CLIPModel:
    """The shipped model in float32; RuntimeError where weights and config do not fit each other."""
    model = build_clip(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.float().eval()


def evaluate(folder: Path, data: Path, limit: int = 0, say: Callable[[str], None] = print) -> dict[str, float]:
    """mAP, and dense IoU with tags known, on VOC val; thresholds come from gold100.

    Args:
        folder: the pocket CLIP. data: the folder with voc/. limit: only the first N photographs of each split, 0: all.
    """
    model = load_pocket(folder)
    text = class_embeddings(model, folder)
    gold = list(see(model, voc_photos(data / "voc", "gold100")[: limit or None]))
    val = list(see(model, voc_photos(data / "voc", "val")[: limit or None]))
    scores = np.stack([(text @ one.image).numpy() for one in val])
    result = {"photos": float(len(val)), **mean_average_precision(scores, [one.photo for one in val])}
    for name, prior in (("dense", False), ("centre_prior", True)):
        chosen = THRESHOLDS.index(dense_score(gold, text, prior).best()["threshold"])
        for key, value in dense_score(val, text, prior).at(chosen).items():
            result[f"{name}_{key}"] = value
    say(json.dumps({key: round(value, 3) for key, value in result.items()}))
    return result


def class_embeddings(model: CLIPModel, folder: Path) -> Tensor:
    """Unit embeddings of VOC's class names by the shipped text tower, float32 [20, D]: the mean of a few templates."""
    templates = ("a photo of a {}.", "a photo of the {} in the scene.", "a close-up photo of a {}.", "{}")
    made = encode_texts(model, folder, [template.format(name) for name in VOC_NAMES for template in templates])
    return F.normalize(made.view(len(VOC_NAMES), len(templates), -1).mean(1), dim=1)
