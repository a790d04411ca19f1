"""SAM asked about a class again and again, each time where its last answer and the heat agree: GenSAM (2023).

GenSAM darkens the picture by the heat map before the next round, so that SAM's encoder runs every time. Here the
picture is not encoded again: its embedding is kept, and the *heat* is darkened by SAM's answer instead, so that what
the answer leaves out prompts less in the next round. A round then costs a few milliseconds of SAM's decoder. No answer
is trusted for being the last: the one nearest to the mean of all is taken, whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.evidence import MaskBank
from models.observe_config import HeatPromptConfig
from models.sam.bank import resampling
from models.sam.heat_prompts import answer_bank, heat_masks, heat_prompts
from models.sam.observer import Decoded, SamInput, SamObserver
from models.sam.prompts import Prompts

Heat = npt.NDArray[np.float32]
DARKEN = 0.3
"""How much of its heat a place loses in a round whose answer leaves it out; GenSAM's share of the darkened picture."""
SETTLED = 0.003
"""An answer whose probability moved by less than this, in the mean over the picture, is the last of its class."""


@dataclass
class _Asking:
    """One class of a picture: its heat now, and of each round its prompts' logits [P, m, m], predicted IoU [P] and
    probability as one map [h, w]."""

    heat: Heat
    logits: list[Tensor] = field(default_factory=list)
    iou: list[Tensor] = field(default_factory=list)
    probs: list[Heat] = field(default_factory=list)
    done: bool = False


def ask_by_heat(
    observer: SamObserver, inputs: Sequence[SamInput], heat: Sequence[Heat], config: HeatPromptConfig
) -> list[tuple[MaskBank, npt.NDArray[np.int32]]]:
    """SAM's masks for the heat of each picture's classes, float32 [K, h, w]; the result is that of `heat_masks`.

    With config.iterations above 1 the answer to each class is that of one of its rounds.
    """
    if config.iterations == 1 or config.kind == "none":
        return heat_masks(observer, inputs, [[heat_prompts(one, config) for one in maps] for maps in heat])
    answers = []
    with torch.inference_mode():
        for start in range(0, len(inputs), observer.micro_batch):
            part = slice(start, start + observer.micro_batch)
            answers += progressive(observer, inputs[part], observer.encode(inputs[part]), heat[part], config)
    return answers


def progressive(
    observer: SamObserver,
    inputs: Sequence[SamInput],
    embeddings: Tensor,
    heat: Sequence[Heat],
    config: HeatPromptConfig,
) -> list[tuple[MaskBank, npt.NDArray[np.int32]]]:
    """`ask_by_heat` for pictures whose embeddings, float [B, C, h, w], are known; deterministic."""
    asking = [[_Asking(one) for one in maps] for maps in heat]
    valid = [(0.0, 0.0)] * len(inputs)
    for turn in range(config.iterations):
        still = [[one for one in of_picture if not one.done] for of_picture in asking]
        if turn and not any(still):
            break
        prompts = [[heat_prompts(one.heat, config) for one in of_picture] for of_picture in still]
        fed = _last_answers(still, prompts) if config.feed_logit else None
        asked = [Prompts.concat(of_picture) for of_picture in prompts]
        decoded = observer.decode(inputs, embeddings, asked, fed)
        valid = [answer.valid for answer in decoded]
        for of_picture, own, answer in zip(still, prompts, decoded, strict=True):
            starts = np.cumsum([0, *(len(one) for one in own)])
            for one, begin, end in zip(of_picture, starts[:-1], starts[1:], strict=True):
                _take(one, answer, slice(int(begin), int(end)))
    side = embeddings.shape[-1] * 4
    return [_chosen(observer, of_picture, size, side) for of_picture, size in zip(asking, valid, strict=True)]


def _last_answers(still: list[list[_Asking]], prompts: list[list[Prompts]]) -> list[Tensor] | None:
    """The mask prompt of every prompt: its class's last answer, as one mask; None in the first round.

    A class has as many prompts as its heat has parts, which may change from round to round: its answers are joined.
    """
    if not any(one.logits for of_picture in still for one in of_picture):
        return None
    return [
        torch.cat([one.logits[-1].amax(0, keepdim=True).expand(len(own), -1, -1) for one, own in pairs])
        if (pairs := [(one, own) for one, own in zip(of_picture, prompted, strict=True) if len(own)])
        else torch.zeros(0)
        for of_picture, prompted in zip(still, prompts, strict=True)
    ]


def _take(one: _Asking, answer: Decoded, rows: slice) -> None:
    """Note a round's answer, darken the heat by it, and see whether another round can change anything."""
    logits = answer.logits[rows, 0]
    if not len(logits):
        one.done = True
        return
    height, width = one.heat.shape
    down = resampling(answer.valid[0], logits.shape[1], height, logits.device)
    across = resampling(answer.valid[1], logits.shape[2], width, logits.device)
    probs = (down @ logits.amax(0).sigmoid() @ across.T).float().cpu().numpy()
    one.done = bool(one.probs) and float(np.abs(probs - one.probs[-1]).mean()) < SETTLED
    one.logits.append(logits.clone())
    one.iou.append(answer.iou[rows].clone())
    one.probs.append(probs)
    one.heat = np.asarray(one.heat * (1 - DARKEN + DARKEN * probs), np.float32)


def nearest_to_mean(probs: Sequence[Heat]) -> int:
    """Which of some maps has the least squared distance to their mean; of several, the first."""
    stacked = np.stack(probs)
    return int(np.square(stacked - stacked.mean(0)).sum((1, 2)).argmin())


def _chosen(
    observer: SamObserver, asking: list[_Asking], valid: tuple[float, float], side: int
) -> tuple[MaskBank, npt.NDArray[np.int32]]:
    """The bank of a picture: of each class the answers of one round."""
    logits = [torch.empty(0, side, side, device=observer.device)]
    iou = [torch.empty(0, 4, device=observer.device)]
    counts = []
    for one in asking:
        if one.probs:
            best = nearest_to_mean(one.probs)
            logits.append(one.logits[best])
            iou.append(one.iou[best])
        counts.append(len(logits[-1]) if one.probs else 0)
    return answer_bank(observer, Decoded(torch.cat(logits)[:, None], torch.cat(iou), valid), counts)
