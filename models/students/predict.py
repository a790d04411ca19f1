"""Run a student on pictures, a folder in three lines:

from models.students.predict import Predictor
predictor = Predictor.load("out/student")
predictor.predict_folder("photos", "masks")
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.device import autocast, pick_device, pick_dtype
from models.students.card import StudentCard, load_student
from models.students.config import PredictConfig
from models.students.masks import mask_name, mask_png, palette
from models.students.student import PAD_TO, STRIDE, Student, ceil_div

Picture = npt.NDArray[np.uint8]
Key = TypeVar("Key")

BATCH_IMAGES = {"cpu": 4, "cuda": 32}
# Pictures that wait for others of their shape, in batches: more shapes than that are run in smaller batches.
WAITING_BATCHES = 8
STRIP_VALUES = 4_000_000  # of full-size probabilities at once, so that memory does not grow with a picture's height


@dataclass(frozen=True)
class Prediction:
    """class_map: class ids (not channels), uint8 [H, W], or uint16 where an id is above 254. confidence: float32
    [H, W], the probability of that class, 0..1."""

    class_map: npt.NDArray[np.unsignedinteger]
    confidence: npt.NDArray[np.float32]


@dataclass
class FolderResult:
    """masks: files written. broken: (path below the folder, reason) of every image that could not be read."""

    masks: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)


class Predictor:
    """A student on one device; it is moved there, and put in evaluation mode.

    How many CPU threads it takes is the caller's choice, as for all of PyTorch (`torch.set_num_threads`).
    """

    def __init__(
        self, student: Student, card: StudentCard, device: str = "auto", config: PredictConfig | None = None
    ) -> None:
        self.config = config or PredictConfig()
        if 0 < self.config.window_px < PAD_TO:
            raise ValueError(f"window_px must be 0 or at least {PAD_TO}, is {self.config.window_px}")
        self.card = card
        self.device = pick_device(device)
        self.dtype = pick_dtype(self.config.dtype, self.device)
        self.student = student.to(self.device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size_px = self.config.size_px or card.size_px
        self.batch_images = self.config.batch_images or BATCH_IMAGES.get(self.device.type, BATCH_IMAGES["cuda"])
        self._ids = np.array(card.ids, np.uint8 if max(card.ids) < 255 else np.uint16)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", config: PredictConfig | None = None) -> "Predictor":
        """From a folder that `save_student` wrote. Raises as `load_student` does."""
        return cls(*load_student(folder), device, config)

    def __call__(self, picture: Picture) -> Prediction:
        """The prediction for one picture, uint8 [H, W, 3] RGB, at its own size. Raises ValueError for anything else."""
        return self.predict([picture])[0]

    def predict(self, pictures: Sequence[Picture], sizes: Sequence[tuple[int, int]] | None = None) -> list[Prediction]:
        """The predictions for pictures of any shapes; those alike are run in one batch.

        sizes: (height, width) that the maps should have, where the pictures were reduced already; default: their own.
        """
        sizes = sizes or [(picture.shape[0], picture.shape[1]) for picture in pictures]
        resized = [self._resize(picture) for picture in pictures]
        grids = self._grids(resized)
        return [self._finish(*args) for args in zip(grids, resized, sizes, strict=True)]

    def probabilities(self, pictures: Sequence[Picture]) -> list[npt.NDArray[np.float32]]:
        """float32 [C, ceil(h/4), ceil(w/4)] for each picture, sums 1 over the channels; (h, w) is its resized shape."""
        return [grid.cpu().numpy() for grid in self._grids([self._resize(picture) for picture in pictures])]

    def stream(self, items: Iterable[tuple[Key, Picture, tuple[int, int] | None]]) -> Iterator[tuple[Key, Prediction]]:
        """Predictions for a stream of (key, picture, size or None as in `predict`), in another order: a picture waits
        for others of its shape, so that batches are full. Memory does not grow with the stream."""
        # windows fill batches by themselves
        batch = 1 if self.config.window_px else self.batch_images
        waiting: dict[tuple[int, int], list[tuple[Key, Picture, tuple[int, int]]]] = defaultdict(list)
        for key, picture, size in items:
            small = self._resize(picture)
            shape = _padded(small)
            waiting[shape].append((key, small, size or (picture.shape[0], picture.shape[1])))
            if len(waiting[shape]) >= batch:
                yield from self._run(waiting.pop(shape))
            elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch:
                yield from self._run(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
        for group in waiting.values():
            yield from self._run(group)

    def predict_folder(self, folder: str | Path, out: str | Path) -> FolderResult:
        """A mask for every image below a local folder: a PNG whose values are class ids, coloured by a palette.

        Masks mirror the images' relative paths. What has an image's extension and cannot be read is skipped and listed.
        """
        folder, out = Path(folder), Path(out)
        result, colors = FolderResult(), palette(self.card)
        for name, prediction in self.stream(_read_folder(folder, result)):
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(mask_png(prediction.class_map, colors))
            result.masks += 1
        return result

    def _run(self, group: Sequence[tuple[Key, Picture, tuple[int, int]]]) -> Iterator[tuple[Key, Prediction]]:
        grids = self._grids([picture for _, picture, _ in group])
        for grid, (key, picture, size) in zip(grids, group, strict=True):
            yield key, self._finish(grid, picture, size)

    def _resize(self, picture: Picture) -> Picture:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"a picture is uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}")
        height, width = picture.shape[:2]
        scale = self.size_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size == (width, height):
            return picture
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))

    def _grids(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Probabilities, float32 [C, h/4, w/4] on the device, of resized pictures."""
        side = self.config.window_px
        if not side:
            return self._batches(pictures)
        return [self._windows(picture, side) for picture in pictures]

    @torch.inference_mode()
    def _windows(self, picture: Picture, side: int) -> Tensor:
        height, width = picture.shape[:2]
        overlap = self.config.window_overlap
        corners = [(y, x) for y in _starts(height, side, overlap) for x in _starts(width, side, overlap)]
        parts = self._batches([picture[y : y + side, x : x + side] for y, x in corners])
        total = torch.zeros(len(self._ids) + 1, ceil_div(height, STRIDE), ceil_div(width, STRIDE), device=self.device)
        for (y, x), part in zip(corners, parts, strict=True):
            rows, columns = part.shape[1:]
            target = total[:, y // STRIDE : y // STRIDE + rows, x // STRIDE : x // STRIDE + columns]
            target[:-1] += part
            target[-1] += 1
        return total[:-1] / total[-1]

    @torch.inference_mode()
    def _batches(self, pictures: Sequence[Picture]) -> list[Tensor]:
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, picture in enumerate(pictures):
            groups[_padded(picture)].append(i)
        grids: list[Tensor] = [torch.empty(0)] * len(pictures)
        for shape, members in groups.items():
            for first in range(0, len(members), self.batch_images):
                chunk = members[first : first + self.batch_images]
                probabilities = self._forward([pictures[i] for i in chunk], shape)
                for i, found in zip(chunk, probabilities, strict=True):
                    height, width = pictures[i].shape[:2]
                    grids[i] = found[:, : ceil_div(height, STRIDE), : ceil_div(width, STRIDE)]
        return grids

    def _forward(self, pictures: Sequence[Picture], shape: tuple[int, int]) -> Tensor:
        """float32 [B, C, h/4, w/4] of pictures that are padded to one shape, as the student itself would pad them."""
        images = self.student.mean.expand(len(pictures), 3, *shape).contiguous(memory_format=torch.channels_last)
        for image, picture in zip(images, pictures, strict=True):
            height, width = picture.shape[:2]
            pixels = torch.tensor(np.ascontiguousarray(picture), device=self.device).permute(2, 0, 1)
            torch.div(pixels, 255, out=image[:, :height, :width])
        found = self._softmax(images)
        if self.config.flip:
            # The whole padded width is mirrored, so that the two grids lie in register.
            found = (found + self._softmax(images.flip(3)).flip(3)) / 2
        return found

    def _softmax(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            logits = self.student(images)["logits"]
        return logits.float().softmax(dim=1)

    @torch.inference_mode()
    def _finish(self, grid: Tensor, picture: Picture, size: tuple[int, int]) -> Prediction:
        """The best class of every pixel at full size; `picture` is the resized one that the grid is about."""
        confidence, channels = enlarge_max(grid, (picture.shape[0], picture.shape[1]), size)
        return Prediction(self._ids[channels.cpu().numpy()], confidence.cpu().numpy())


def enlarge_max(grid: Tensor, covered: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bilinear enlargement of class probabilities, and the best class of every pixel.

    Args:
        grid: float32 [C, h, w], cells of 4x4 pixels; sums 1 over the channels.
        covered: (height, width) in pixels of the picture that the cells cover, the last cells perhaps in part.
        size: (H, W) wanted.

    Returns:
        (float32 [H, W] the largest probability, int64 [H, W] its channel).
    """
    # Some channel has at least 1/C everywhere, so one that never comes near that wins nowhere: most are absent.
    possible = (grid.amax((1, 2)) >= 0.999 / grid.shape[0]).nonzero()[:, 0]
    grid = grid[possible]
    left, right, across = _between(size[1], covered[1], grid.shape[2], grid.device)
    wide = torch.lerp(grid[:, :, left], grid[:, :, right], across)
    above, below, down = _between(size[0], covered[0], grid.shape[1], grid.device)
    best = grid.new_empty(size)
    channel = torch.empty(size, dtype=torch.int64, device=grid.device)
    rows = max(1, STRIP_VALUES // (grid.shape[0] * size[1]))
    for top in range(0, size[0], rows):
        strip = slice(top, top + rows)
        values = torch.lerp(wide[:, above[strip]], wide[:, below[strip]], down[strip, None])
        torch.max(values, dim=0, out=(best[strip], channel[strip]))
    return best, possible[channel]


def _between(wanted: int, covered: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every one of `wanted` pixels along a side: the two cells it lies between, and how far towards the second."""
    centres = (torch.arange(wanted, device=device, dtype=torch.float32) + 0.5) * (covered / wanted / STRIDE) - 0.5
    centres = centres.clamp(0, cells - 1)
    first = centres.long()
    return first, (first + 1).clamp(max=cells - 1), centres - first


def _padded(picture: Picture) -> tuple[int, int]:
    """(height, width) that the student pads a picture to."""
    return ceil_div(picture.shape[0], PAD_TO) * PAD_TO, ceil_div(picture.shape[1], PAD_TO) * PAD_TO


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where windows begin along a side, on whole cells; the last one may reach a few pixels beyond the end."""
    if length <= side:
        return [0]
    steps = ceil_div(length - side, max(STRIDE, int(side * (1 - overlap))))
    last = ceil_div(length - side, STRIDE)
    return [round(last * i / steps) * STRIDE for i in range(steps + 1)]


def _read_folder(folder: Path, result: FolderResult) -> Iterator[tuple[str, Picture, None]]:
    """(name of the mask, picture, None) of every image that can be read."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    extensions, taken = Image.registered_extensions(), set[str]()
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in extensions or not file.is_file():
            continue
        name = file.relative_to(folder).as_posix()
        try:
            with Image.open(file) as image:
                picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception as error:  # every decoder has errors of its own
            result.broken.append((name, f"{type(error).__name__}: {error}"))
            continue
        yield mask_name(name, taken), picture, None
