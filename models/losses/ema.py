"""The EMA teacher, and the views of unlabeled images: changed colours, blur, and CutMix. All on the images' device."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

JITTER_PROBABILITY, BRIGHTNESS, CONTRAST, SATURATION, HUE_TURN = 0.8, 0.5, 0.5, 0.5, 0.25
GRAY_PROBABILITY, BLUR_PROBABILITY, BLUR_SIGMA_PX, BLUR_RADIUS_PX = 0.2, 0.5, (0.1, 2.0), 4
"""The strong view of UniMatch (CVPR 2023); a hue turn of 0.25 is a quarter of the colour circle."""
LUMINANCE = (0.299, 0.587, 0.114)


def make_ema(student: nn.Module) -> nn.Module:
    """A frozen copy of the student, in evaluation mode, kept up by `update_ema`; its state_dict is a student's."""
    ema = copy.deepcopy(_plain(student)).eval()
    return ema.requires_grad_(False)


@torch.no_grad()
def update_ema(ema: nn.Module, student: nn.Module, decay: float, step: int) -> None:
    """Move the teacher towards the student, in place; call it after the optimiser's step number `step` (from 0).

    teacher = d * teacher + (1 - d) * student (Tarvainen & Valpola, NeurIPS 2017) with d = min(decay, (1 + step) /
    (10 + step)): in the ramp the teacher is a mean over about the last ninth of the steps, so that a short training,
    whose exported model the teacher is, does not average in its own beginning. Buffers (batch statistics) are copied.
    student may be wrapped in DistributedDataParallel.
    """
    student = _plain(student)
    update = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    update(list(ema.parameters()), list(student.parameters()), 0)
    for kept, new in zip(ema.buffers(), student.buffers(), strict=True):
        kept.copy_(new)


def _plain(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """float32 in 0..1, drawn where the generator lives: a CPU generator gives the same views on any device."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device, non_blocking=True)


@torch.no_grad()
def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Colour jitter, gray and blur, drawn anew for every image; geometry stays. float32 [B, 3, H, W] in 0..1 to same.

    Hue is turned around the gray axis (a rotation of the chrominance plane), which needs no way through HSV.
    """
    if not len(images):
        return images
    images = images.float()
    draws = uniform((7, len(images)), generator, images.device)
    jittered = draws[0] < JITTER_PROBABILITY
    brightness, contrast, saturation = (
        torch.where(jittered, 1 + strength * (2 * draw - 1), torch.ones_like(draw))
        for strength, draw in zip((BRIGHTNESS, CONTRAST, SATURATION), draws[1:4], strict=True)
    )
    saturation = torch.where(draws[5] < GRAY_PROBABILITY, torch.zeros_like(saturation), saturation)
    angle = torch.where(jittered, 2 * math.pi * HUE_TURN * (2 * draws[4] - 1), torch.zeros_like(draws[4]))
    colour = torch.einsum("bij,bjhw->bihw", _chroma_matrix(angle, saturation), images)
    colour = (colour * _wide(brightness)).clamp(0, 1)
    middle = colour.mean((1, 2, 3), keepdim=True)
    colour = ((colour - middle) * _wide(contrast) + middle).clamp(0, 1)
    low, high = BLUR_SIGMA_PX
    blurred = _blur(colour, low + (high - low) * uniform((len(images),), generator, images.device))
    return torch.where(_wide(draws[6]) < BLUR_PROBABILITY, blurred, colour)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _chroma_matrix(angle: Tensor, saturation: Tensor) -> Tensor:
    """float32 [B, 3, 3]: turns RGB around the gray axis and scales its distance from gray; keeps gray as it is."""
    device = angle.device
    axis = torch.full((3,), 1 / math.sqrt(3), device=device)
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], device=device)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    identity = torch.eye(3, device=device)
    turn = cos * identity + sin * cross + (1 - cos) * torch.outer(axis, axis)
    gray = torch.tensor(LUMINANCE, device=device).expand(3, 3)
    share = saturation[:, None, None]
    return (share * identity + (1 - share) * gray) @ turn


def _blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Gaussian blur, sigma float32 [B], replicate padding."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-BLUR_RADIUS_PX, BLUR_RADIUS_PX + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_px[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = images.reshape(1, count * channels, height, width)
    pad = BLUR_RADIUS_PX
    flat = F.pad(flat, (pad, pad, 0, 0), mode="replicate")
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=count * channels)
    flat = F.pad(flat, (0, 0, pad, pad), mode="replicate")
    return F.conv2d(flat, kernel[:, :, :, None], groups=count * channels).reshape(images.shape)


@dataclass(frozen=True)
class CutMix:
    """Which box of which other image is pasted into each image (Yun et al., ICCV 2019; French et al., BMVC 2020).

    boxes: float32 [B, 4], x0 y0 x1 y1 as shares of width and height; x1 <= x0: none. partner: int64 [B].
    """

    boxes: Tensor
    partner: Tensor

    def mask(self, height: int, width: int) -> Tensor:
        """bool [B, height, width]: pixel centres inside the box, on any grid over the image."""
        y = (torch.arange(height, device=self.boxes.device) + 0.5) / height
        x = (torch.arange(width, device=self.boxes.device) + 0.5) / width
        x0, y0, x1, y1 = self.boxes.T[:, :, None]
        inside_y, inside_x = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
        return inside_y[:, :, None] & inside_x[:, None, :]

    def mix(self, maps: Tensor) -> Tensor:
        """Maps [B, ..., h, w] of any dtype (pictures, labels, weights, features), with the boxes pasted."""
        inside = self.mask(*maps.shape[-2:])
        inside = inside.reshape(len(inside), *[1] * (maps.ndim - 3), *inside.shape[1:])
        return torch.where(inside, maps[self.partner], maps)

    def scatter(self, rows: Tensor, count: int) -> "CutMix":
        """The same boxes for the images `rows`, int64 [B], of a batch of `count`; the others stay as they are."""
        boxes = self.boxes.new_zeros(count, 4)
        boxes[rows] = self.boxes
        partner = torch.arange(count, device=rows.device)
        partner[rows] = rows[self.partner]
        return CutMix(boxes, partner)


@torch.no_grad()
def cutmix(
    count: int,
    generator: torch.Generator,
    device: torch.device,
    area: tuple[float, float] = (0.1, 0.5),
    probability: float = 1.0,
) -> CutMix:
    """Boxes for `count` images: area a share of the image drawn from `area`, aspect 1:3 to 3:1, wholly inside.

    Raises ValueError where area is not 0 <= least <= greatest <= 1.
    """
    low, high = area
    if not 0 <= low <= high <= 1:
        raise ValueError(f"cutmix_area {area} is not 0 <= least <= greatest <= 1")
    draws = uniform((5, count), generator, device)
    share = low + (high - low) * draws[0]
    ratio = torch.exp(math.log(3.0) * (2 * draws[1] - 1))
    width = (share * ratio).sqrt().clamp(max=1.0)
    height = (share / width.clamp(min=1e-6)).clamp(max=1.0)
    x0, y0 = draws[2] * (1 - width), draws[3] * (1 - height)
    width = torch.where(draws[4] < probability, width, torch.zeros_like(width))
    # A turn of the ring: no image is its own partner, as long as there are two.
    turn = 1 + int(uniform((1,), generator, torch.device("cpu")) * max(1, count - 1))
    partner = (torch.arange(count, device=device) + turn) % max(1, count)
    return CutMix(torch.stack([x0, y0, x0 + width, y0 + height], 1), partner)
