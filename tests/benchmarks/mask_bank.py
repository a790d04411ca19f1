"""What the mask bank holds, and what class heat maps get from SAM, on annotated photographs:

    python tests/benchmarks/mask_bank.py --split gold100

Every object is a connected part of one class that covers at least 1 % of its photograph. Prints one JSON line:
`bank`: mean IoU of the best mask in the bank for each object (and by the prompts' source), the share of objects above
0.5 and 0.7; `true_box`: SAM asked with the object's own box; `filled_box`, `ellipse`: no model at all; `heat`: for each
class that is present, the IoU of the thresholded heat map, and of SAM's masks where the heat map prompts it, for every
kind of prompt.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.clip.text import TextEncoder  # noqa: E402
from models.evidence import MASK_SOURCES, Evidence, decode, encode  # noqa: E402
from models.observe import Observer  # noqa: E402
from models.observe_config import HeatPromptConfig, ObserveConfig, SamObserveConfig  # noqa: E402
from models.sam.heat_prompts import heat_masks, heat_prompts  # noqa: E402
from models.sam.prompts import Prompts  # noqa: E402
from pipelines.classes import ClassSet  # noqa: E402
from pipelines.references import resolve  # noqa: E402

Mask = npt.NDArray[np.bool_]
HEAT_THRESHOLD = 0.4
KINDS = ("box", "distance", "heatmap")


def iou(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def objects(labels: npt.NDArray[np.uint8], min_share: float = 0.01) -> list[tuple[Mask, tuple[slice, slice]]]:
    """Connected parts of each class, and the rows and columns that they span."""
    found = []
    for value in np.unique(labels[(labels > 0) & (labels < 255)]):
        parts, _ = ndimage.label(labels == value)
        for number, place in enumerate(ndimage.find_objects(parts), start=1):
            if (parts == number).sum() >= min_share * labels.size:
                found.append((parts == number, place))
    return found


def enlarged(probs: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    image = Image.fromarray(probs).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


def bank_scores(evidence: Evidence, labels: npt.NDArray[np.uint8]) -> list[dict[str, float]]:
    """For each object the best IoU of the bank and of each source in it."""
    masks = [enlarged(one, labels.shape) for one in evidence.bank.probs]
    known = labels < 255
    scores = []
    for truth, _ in objects(labels):
        all_iou = np.array([iou(mask & known, truth) for mask in masks] or [0.0])
        one = {"bank": float(all_iou.max())}
        for number, source in enumerate(MASK_SOURCES):
            if (evidence.bank.source == number).any():
                one[source] = float(all_iou[evidence.bank.source == number].max())
        scores.append(one)
    return scores


def box_scores(
    observer: Observer, picture: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
) -> list[dict[str, float]]:
    """SAM from the true box of each object, the filled box and the ellipse in it."""
    height, width = labels.shape
    found = objects(labels)
    boxes = [(c.start / width, r.start / height, c.stop / width, r.stop / height) for _, (r, c) in found]
    assert observer.sam is not None
    (answer,) = observer.sam.decode_prompts(
        [observer.sam.prepare(picture)], [Prompts.of_boxes(np.array(boxes, np.float32), 0)]
    )
    rows, columns = (max(1, round(side)) for side in answer.valid)
    probs = (answer.logits[:, 0, :rows, :columns].sigmoid() * 255).byte().cpu().numpy()
    yy, xx = np.mgrid[:height, :width]
    scores = []
    for (truth, (r, c)), mask in zip(found, probs, strict=True):
        filled = np.zeros_like(truth)
        filled[r, c] = True
        ry, rx = (r.stop - r.start) / 2, (c.stop - c.start) / 2
        ellipse = ((yy + 0.5 - r.start - ry) / ry) ** 2 + ((xx + 0.5 - c.start - rx) / rx) ** 2 <= 1
        known = labels < 255
        scores.append(
            {
                "true_box": iou(enlarged(mask, labels.shape) & known, truth),
                "filled_box": iou(filled & known, truth),
                "ellipse": iou(ellipse & known, truth),
            }
        )
    return scores


def heat_scores(
    observer: Observer, evidence: Evidence, picture: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], text: Any
) -> list[dict[str, float]]:
    """For each class that is present: IoU of its heat map and of what SAM makes of it, for every kind of prompt."""
    classes = [int(value) for value in np.unique(labels[(labels > 0) & (labels < 255)])]
    maps = np.maximum(np.einsum("hwd,cd->chw", evidence.features, text[[c - 1 for c in classes]]), 0)
    maps /= np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-6)
    known = labels < 255
    scores = []
    for row, value in enumerate(classes):
        truth = labels == value
        heat = np.asarray(Image.fromarray(maps[row]).resize(labels.shape[::-1], Image.Resampling.BILINEAR))
        one = {"heat": iou((heat > HEAT_THRESHOLD) & known, truth)}
        for kind in KINDS:
            assert observer.sam is not None
            asked = [heat_prompts(maps[row], HeatPromptConfig(kind=kind))]
            ((bank, _),) = heat_masks(observer.sam, [observer.sam.prepare(picture)], [asked])
            union = np.zeros(labels.shape, bool)
            for probs in bank.probs:
                union |= enlarged(probs, labels.shape)
            one[kind] = iou(union & known, truth)
        scores.append(one)
    return scores


def mean(scores: list[dict[str, float]], name: str) -> float:
    return round(float(np.mean([one.get(name, 0.0) for one in scores])), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "voc")
    parser.add_argument("--split", default="gold100")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--clip", default="pocket:clip")
    parser.add_argument("--sam", default="pocket:sam")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="a field of SamObserveConfig")
    parser.add_argument("--heat", action="store_true", help="also measure masks prompted by heat maps")
    options = parser.parse_args()
    sam = SamObserveConfig(**{k: _value(v) for k, v in (one.split("=", 1) for one in options.set)})
    clip_path = resolve(options.clip).path
    observer = Observer(ObserveConfig(sam=sam), str(clip_path), str(resolve(options.sam).path))
    names = (options.data / "ImageSets" / "Segmentation" / f"{options.split}.txt").read_text().split()
    text = _class_text(clip_path) if options.heat else None
    bank, boxes, heat, seconds, count = [], [], [], 0.0, []
    for name in names[: options.limit or None]:
        picture = np.asarray(Image.open(options.data / "JPEGImages" / f"{name}.jpg").convert("RGB"))
        labels = np.asarray(Image.open(options.data / "SegmentationClassAug" / f"{name}.png"))
        start = time.process_time()
        (evidence,) = observer([picture])
        seconds += time.process_time() - start
        evidence = decode(encode(evidence))
        count.append(len(evidence.bank.iou))
        bank += bank_scores(evidence, labels)
        boxes += box_scores(observer, picture, labels)
        if text is not None:
            heat += heat_scores(observer, evidence, picture, labels, text)
    best = np.array([one["bank"] for one in bank])
    report = {
        "split": options.split,
        "images": len(count),
        "objects": len(bank),
        "masks": round(float(np.mean(count)), 1),
        "observe_cpu_ms": round(1000 * seconds / len(count)),
        **{name: mean(bank, name) for name in ("bank", *MASK_SOURCES[:2])},
        "above_0.5": round(float((best > 0.5).mean()), 3),
        "above_0.7": round(float((best > 0.7).mean()), 3),
        **{name: mean(boxes, name) for name in ("true_box", "filled_box", "ellipse")},
        "heat": {name: mean(heat, name) for name in ("heat", *KINDS)} if heat else None,
    }
    print(json.dumps(report))


def _value(text: str) -> Any:
    value = json.loads(text)
    return tuple(value) if isinstance(value, list) else value


def _class_text(path: Path) -> npt.NDArray[np.float32]:
    """Text embedding of each VOC class, mean over its prompts."""
    prompts, of_class = ClassSet.load("voc").prompts()
    embedded = TextEncoder(path).encode(prompts)
    rows = np.stack([embedded[np.asarray(of_class) == c].mean(axis=0) for c in range(20)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
