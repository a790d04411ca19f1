"""A tiny segmentation task, a tiny student, and a training loop, for the tests of losses."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses.config import LossesConfig, RecipeName
from models.losses.ema import make_ema, update_ema
from models.losses.recipes import RECIPES, extra_modules
from models.losses.types import IGNORE, TargetBatch, TrainState

CLASSES = 4
SIZE = 48
COLOURS = torch.tensor([[0.45, 0.45, 0.45], [0.6, 0.4, 0.35], [0.35, 0.6, 0.4], [0.4, 0.4, 0.6]])


class TinyStudent(nn.Module):
    """A student's interface on 12,000 parameters: logits and features on a quarter of the grid."""

    def __init__(self, num_classes: int = CLASSES, width: int = 16) -> None:
        super().__init__()

        def layer(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(layer(3, width, 2), layer(width, 2 * width, 2), layer(2 * width, 2 * width))
        self.classifier = nn.Conv2d(2 * width, num_classes, 1)

    def forward(self, images: Tensor) -> dict:
        feats = self.body((images - 0.5) * 4)
        return {"logits": self.classifier(feats), "feats": feats, "aux": {"deep": feats}}


@dataclass
class Scene:
    """images: float32 [N, 3, H, W]. truth: int64 [N, H, W]."""

    images: Tensor
    truth: Tensor


def scene(count: int, seed: int, noise: float = 0.12) -> Scene:
    """Discs and boxes of three classes on a background: like colours, different stripes, noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    truth = np.zeros((count, SIZE, SIZE), np.int64)
    for i in range(count):
        for label in rng.permutation([1, 2, 3]):
            cy, cx = rng.integers(8, SIZE - 8, 2)
            ry, rx = rng.integers(7, 13, 2)
            round_ = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            square = (abs(y - cy) < 0.8 * ry) & (abs(x - cx) < 0.8 * rx)
            truth[i][round_ if rng.random() < 0.5 else square] = label
    maps = torch.from_numpy(truth)
    images = COLOURS[maps].permute(0, 3, 1, 2).clone()
    stripes = torch.stack([torch.zeros(SIZE, SIZE), *(torch.from_numpy(np.sin(k * 0.8)) for k in (x, y, x + y))])
    images += 0.08 * stripes[maps, torch.from_numpy(y), torch.from_numpy(x)][:, None].float()
    images += torch.from_numpy(rng.normal(0, noise, images.shape)).float()
    images += torch.from_numpy(rng.normal(0, 0.05, (count, 3, 1, 1))).float()
    return Scene(images.clamp(0, 1), maps)


def batch_of(
    found: Scene, rows: Tensor | None = None, hard: Tensor | None = None, labeled: int | None = None
) -> TargetBatch:
    """A batch of these images; hard in place of the truth; only the first `labeled` images labeled."""
    rows = torch.arange(len(found.images)) if rows is None else rows
    hard = (found.truth if hard is None else hard)[rows].clone()
    is_labeled = rows < (len(found.images) if labeled is None else labeled)
    hard[~is_labeled] = IGNORE
    tags = torch.stack([torch.tensor([(t == c).any() for c in range(CLASSES)]) for t in found.truth[rows]])
    return TargetBatch(
        images=found.images[rows],
        hard=hard,
        weight=(hard != IGNORE).float(),
        labeled=is_labeled,
        index=rows,
        tags=tags,
        tags_known=torch.ones(len(rows), dtype=torch.bool),
    )


def clicks(truth: Tensor, seed: int) -> Tensor:
    """One labeled pixel for each class of each image; the rest IGNORE."""
    rng = np.random.default_rng(seed)
    hard = torch.full_like(truth, IGNORE)
    for i, mask in enumerate(truth):
        for label in mask.unique():
            where = (mask == label).nonzero()
            y, x = where[rng.integers(len(where))]
            hard[i, y, x] = label
    return hard


def swap_regions(truth: Tensor, share: float, seed: int) -> Tensor:
    """This share of the objects has the class of another: any of the others, background included."""
    rng = np.random.default_rng(seed)
    noisy = truth.clone()
    for i, label in np.ndindex(len(truth), CLASSES - 1):
        if rng.random() < share:
            noisy[i][truth[i] == label + 1] = int(rng.choice([c for c in range(CLASSES) if c != label + 1]))
    return noisy


@dataclass
class Trained:
    student: TinyStudent
    extra: nn.ModuleDict
    losses: list[float]
    state: TrainState


def train(
    recipe: RecipeName,
    config: LossesConfig,
    batches: Callable[[int], TargetBatch],
    steps: int,
    seed: int = 0,
    teachers: list[nn.Module] | None = None,
    ema_decay: float = 0.95,
    rate: float = 3e-3,
) -> Trained:
    """AdamW for `steps` batches; batches(step) gives each."""
    torch.manual_seed(seed)
    student = TinyStudent()
    extra = extra_modules(config, CLASSES, recipe)
    ema = make_ema(student)
    optimizer = torch.optim.AdamW([*student.parameters(), *extra.parameters()], rate)
    state = TrainState(
        0, steps, torch.Generator().manual_seed(seed), ema=ema, teachers=teachers or [], extra=dict(extra.items())
    )
    losses = []
    for step in range(steps):
        state.step = step
        terms = RECIPES[recipe](student, batches(step), state, config)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        update_ema(ema, student, ema_decay, step)
        losses.append(float(terms["loss"].detach()))
    return Trained(student.eval(), extra.eval(), losses, state)


def mean_iou(model: nn.Module, found: Scene) -> float:
    """Mean IoU over the classes, 0..1."""
    with torch.no_grad():
        logits = F.interpolate(model.eval()(found.images)["logits"], (SIZE, SIZE), mode="bilinear")
    given = logits.argmax(1)
    ious = []
    for label in range(CLASSES):
        mine, true = given == label, found.truth == label
        ious.append(float((mine & true).sum() / (mine | true).sum().clamp(min=1)))
    return float(np.mean(ious))


def stream(
    found: Scene, seed: int, hard: Tensor | None = None, labeled: int | None = None, batch: int = 6
) -> Callable[[int], TargetBatch]:
    """The batch of each step, the same for the same seed; see `batch_of`."""

    def at(step: int) -> TargetBatch:
        shuffled = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(1000 * seed + step))
        return batch_of(found, shuffled[:batch], hard, labeled)

    return at


def auc(score: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve, ties counted by half: how often a positive pixel scores higher than a negative one."""
    values, where = score.flatten().unique(return_inverse=True)
    above = torch.bincount(where[positive.flatten()], minlength=len(values)).double()
    below = torch.bincount(where[~positive.flatten()], minlength=len(values)).double()
    wins = (above * (below.cumsum(0) - below / 2)).sum()
    return float(wins / (above.sum() * below.sum()))


def logits_of(batch: int = 2, classes: int = CLASSES, grid: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, classes, grid, grid, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def targets_of(batch: int = 2, classes: int = CLASSES, size: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randint(-1, classes, (batch, size, size), generator=torch.Generator().manual_seed(seed))


def gradient(loss: torch.Tensor, *inputs: torch.Tensor) -> float:
    """Norm of the gradients; NaN if any is."""
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return float(sum(g.norm() for g in found if g is not None))


def separated(size: int = 24, grid: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [2, 5, grid, grid] that are one far point for each class, and the class of each cell."""
    partition = scene(2, 0).truth[:, :: 48 // grid, :: 48 // grid]
    centres = 6 * torch.randn(CLASSES, 5, generator=torch.Generator().manual_seed(0))
    features = centres[partition].permute(0, 3, 1, 2)
    return features + 0.1 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1)), partition


def one_pixel_each(partition: torch.Tensor, size: int) -> torch.Tensor:
    """int64 [B, size, size]: one labeled pixel for each class of each image."""
    seeds = torch.full((len(partition), size, size), IGNORE)
    step = size // partition.shape[-1]
    for i, mask in enumerate(partition):
        for label in mask.unique():
            y, x = (mask == label).nonzero()[0]
            seeds[i, y * step, x * step] = label
    return seeds
