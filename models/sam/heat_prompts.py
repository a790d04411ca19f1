"""SAM asked by class heat maps: the optional second kind of evidence.

What prompts best depends on SAM: `HeatPromptConfig.kind` chooses.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.evidence import MASK_SOURCES, MaskBank
from models.observe_config import HeatPromptConfig
from models.prompts.components import component_boxes
from models.prompts.distance import distance_points
from models.prompts.heatmap import heatmap_points
from models.sam.bank import to_frame
from models.sam.observer import Decoded, SamInput, SamObserver
from models.sam.prompts import Prompts

Heat = npt.NDArray[np.float32]
HEAT = MASK_SOURCES.index("heat")


def heat_prompts(heat: Heat, config: HeatPromptConfig) -> Prompts:
    """Prompts from one heat map float32 [h, w]; it is brought to a maximum of 1 first, and nothing comes of no heat."""
    peak = float(heat.max(initial=0))
    if peak <= 0 or config.kind == "none":
        return Prompts.concat([])
    heat = heat / peak
    if config.kind == "heatmap":
        points, positive = heatmap_points(heat, max_points=config.points)
        if len(points):
            return _one_prompt(points, positive, heat.shape)
    if config.kind == "distance":
        return _distance_prompts(heat, config)
    boxes = component_boxes(heat, config.threshold, margin=config.margin)[: config.max_components]
    size = np.array([heat.shape[1], heat.shape[0]] * 2, np.float32)
    return Prompts.of_boxes(boxes / size, HEAT)


def _distance_prompts(heat: Heat, config: HeatPromptConfig) -> Prompts:
    """For each component the deepest points inside it, and as many in what no component covers."""
    components, count = ndimage.label(heat > config.threshold)
    sizes = np.bincount(components.ravel())[1:]
    outside, _ = distance_points(components == 0, config.points)
    parts = []
    for number in 1 + np.argsort(-sizes, kind="stable")[: min(count, config.max_components)]:
        inside, _ = distance_points(components == number, config.points)
        points = np.concatenate([inside, outside])
        parts.append(_one_prompt(points, np.arange(len(points)) < len(inside), heat.shape))
    return Prompts.concat(parts)


def _one_prompt(points: Heat, positive: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> Prompts:
    size = np.array([shape[1], shape[0]], np.float32)
    return Prompts.of_points((points / size)[None], HEAT, positive[None].astype(np.int8), ambiguous=False)


def heat_masks(
    observer: SamObserver, inputs: Sequence[SamInput], asked: Sequence[Sequence[Prompts]]
) -> list[tuple[MaskBank, npt.NDArray[np.int32]]]:
    """SAM's masks for the heat maps of pictures, batched over pictures and classes.

    Args:
        inputs: pictures from `SamObserver.prepare`. asked: for each of them the `heat_prompts` of its classes.

    Returns:
        For each picture one mask a prompt, in their order, source "heat"; and int32 [M], which class asked for it.
    """
    decoded = observer.decode_prompts(inputs, [Prompts.concat(list(of_classes)) for of_classes in asked])
    return [
        answer_bank(observer, answer, [len(one) for one in of_classes])
        for of_classes, answer in zip(asked, decoded, strict=True)
    ]


def answer_bank(
    observer: SamObserver, answer: Decoded, counts: Sequence[int]
) -> tuple[MaskBank, npt.NDArray[np.int32]]:
    """The single masks of a picture's answers, and which class asked for each; counts: prompts of each class."""
    probs, stability = to_frame(answer.logits[:, 0], answer.valid, observer.config)
    bank = MaskBank(
        probs,
        answer.iou[:, 0].clamp(0, 1).cpu().numpy(),
        stability.cpu().numpy(),
        np.full(len(probs), HEAT, np.uint8),
    )
    return bank, np.repeat(np.arange(len(counts), dtype=np.int32), counts)
