"""Lets torchvision be imported beside a CPU build of torch.

The torchvision wheels on the package index link CUDA. Beside a CPU build of torch their compiled part cannot be
loaded, `torchvision::nms` is then undefined, and `import torchvision` fails, which takes transformers' CLIP and
segment_anything down with it. `ensure()` defines the missing operator in plain PyTorch (and declares
`qnms`, which torchvision only asks to exist). Where the real operator
exists it does nothing. Every module of this project that imports transformers or segment_anything calls it first.
"""

import torch
from torch import Tensor

_kept_alive: list[torch.library.Library] = []


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression, the contract of `torchvision.ops.nms`.

    Args:
        boxes: float [N, 4], (x1, y1, x2, y2) in pixels.
        scores: float [N].
        iou_threshold: a box that overlaps a better one by more than this is dropped, in 0..1.

    Returns:
        int64 [K], indices of the boxes that stay, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep: list[int] = []
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        keep.append(i)
        rest = boxes[i + 1 :]
        low = torch.maximum(boxes[i, :2], rest[:, :2])
        high = torch.minimum(boxes[i, 2:], rest[:, 2:])
        overlap = (high - low).clamp(min=0).prod(dim=1)
        iou = overlap / (area[i] + area[i + 1 :] - overlap)
        alive[i + 1 :] &= ~(iou > iou_threshold)
    return order[torch.tensor(keep, dtype=torch.int64, device=order.device)]


def ensure() -> None:
    """Make `import torchvision` work; call it before the first import of transformers or segment_anything."""
    if _kept_alive:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    _kept_alive.append(library)

    import torchvision.ops.boxes

    torchvision.ops.boxes._assert_has_ops = lambda: None
