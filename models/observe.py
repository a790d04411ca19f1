"""*Observe*: pictures to evidence. CLIP and SAM on one device, or each in a process of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.clip.observer import ClipInput, ClipObserver, ClipSeen
from models.evidence import Evidence, Hints, MaskBank
from models.observe_config import ALGORITHM_VERSION, ObserveConfig
from models.observe_tiles import Frame, frames, stitch_banks, stitch_features
from models.sam.observer import SamInput, SamObserver, hint_prompts

__all__ = ["ClipObserver", "Observer", "Prepared", "Raw", "SamObserver"]

Picture = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the device: its views (the whole, then tiles if it is large) as each model takes them.

    clip and sam are empty in an observer that does not hold that model.
    """

    height: int
    width: int
    guide: Picture
    frames: tuple[Frame, ...]
    clip: tuple[ClipInput, ...]
    sam: tuple[SamInput, ...]


@dataclass(frozen=True)
class Raw:
    """What the models saw: for each image its features and its mask bank, one of each for every view."""

    prepared: tuple[Prepared, ...]
    seen: tuple[tuple[ClipSeen, ...], ...]
    banks: tuple[tuple[MaskBank, ...], ...]


class Observer:
    """All observers on one device.

    The evidence of an image does not depend on its neighbours: on the CPU pictures pass through the models one by one
    (batches are no faster there), on a GPU in batches of one shape, equal within the numeric format.
    """

    ALGORITHM_VERSION = ALGORITHM_VERSION

    def __init__(
        self, config: ObserveConfig, clip_path: str | None, sam_path: str | None, device: str = "auto"
    ) -> None:
        """clip_path, sam_path: local checkpoints; None leaves that model out (pools of their own, `forward_clip`)."""
        self.config = config
        self.clip = ClipObserver(config, clip_path, device) if clip_path is not None else None
        self.sam = SamObserver(config, sam_path, device) if sam_path is not None else None

    def __call__(
        self,
        pictures: Sequence[Picture],
        full_sizes: Sequence[tuple[int, int]] | None = None,
        hints: Sequence[Hints] | None = None,
    ) -> list[Evidence]:
        """Evidence of pictures, uint8 [H, W, 3] RGB each; see `prepare`."""
        sizes = full_sizes or [picture.shape[:2] for picture in pictures]
        given = hints or [Hints.none()] * len(pictures)
        prepared = [self.prepare(*one) for one in zip(pictures, sizes, given, strict=True)]
        return self.finish(self.forward(prepared))

    def prepare(self, picture: Picture, full_size: tuple[int, int], hints: Hints) -> Prepared:
        """On the host, thread-safe: cut into views and resize.

        Args:
            picture: uint8 [H, W, 3], RGB, upright. An image that is to be tiled comes at full size, any other may be
                reduced (to `picture_px`).
            full_size: (height, width) of the upright full-size image, pixels.
            hints: in full-size pixels.

        Raises:
            ValueError: the picture has no pixels or not three channels.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise ValueError(f"a picture is uint8 [H, W, 3], this one is {picture.dtype} {list(picture.shape)}")
        height, width = full_size
        places = frames(height, width, self.config)
        views = [self._view(picture, place, full_size) for place in places]
        return Prepared(
            height,
            width,
            _reduced(picture, self.config.guide_px),
            tuple(places),
            tuple(self.clip.prepare(view) for view in views) if self.clip else (),
            tuple(
                self.sam.prepare(view, hint_prompts(hints, (place.x0, place.y0, place.x1, place.y1)))
                for view, place in zip(views, places, strict=True)
            )
            if self.sam
            else (),
        )

    def forward(self, prepared: Sequence[Prepared]) -> Raw:
        """On the device, micro-batched by shape over all views of all images."""
        return self.forward_sam(prepared, self.forward_clip(prepared))

    def forward_clip(self, prepared: Sequence[Prepared]) -> list[tuple[ClipSeen, ...]]:
        """CLIP alone: what it saw in each view of each image, on the host."""
        if self.clip is None:
            raise RuntimeError("this observer was made without CLIP")
        seen = self.clip.finish(self.clip.forward([view for one in prepared for view in one.clip]))
        return _regroup(seen, [len(one.frames) for one in prepared])

    def forward_sam(self, prepared: Sequence[Prepared], seen: Sequence[tuple[ClipSeen, ...]]) -> Raw:
        """SAM alone, given what CLIP saw."""
        if self.sam is None:
            raise RuntimeError("this observer was made without SAM")
        views = [view for one in prepared for view in one.sam]
        banks = self.sam.forward(views, [view.features for one in seen for view in one])
        return Raw(tuple(prepared), tuple(seen), tuple(_regroup(banks, [len(one.frames) for one in prepared])))

    def finish(self, raw: Raw) -> list[Evidence]:
        """On the host: the views of each image put together."""
        return [
            Evidence(
                height=one.height,
                width=one.width,
                features=stitch_features(seen, one.frames),
                embedding=seen[0].embedding,
                bank=stitch_banks(banks, one.frames, self.config),
                guide=one.guide,
            )
            for one, seen, banks in zip(raw.prepared, raw.seen, raw.banks, strict=True)
        ]

    def _view(self, picture: Picture, place: Frame, full_size: tuple[int, int]) -> Picture:
        """The part of the picture in `place`, at most picture_px on the longer side."""
        down, across = picture.shape[0] / full_size[0], picture.shape[1] / full_size[1]
        y0, x0 = int(place.y0 * down), int(place.x0 * across)
        y1, x1 = max(y0 + 1, round(place.y1 * down)), max(x0 + 1, round(place.x1 * across))
        return _reduced(picture[y0:y1, x0:x1], self.config.picture_px)


def _reduced(picture: Picture, longer_px: int) -> Picture:
    """The picture, shrunk to at most `longer_px` on its longer side."""
    height, width = picture.shape[:2]
    scale = longer_px / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _regroup(flat: Sequence[T], counts: Sequence[int]) -> list[tuple[T, ...]]:
    ends = np.cumsum(counts)
    return [tuple(flat[end - count : end]) for end, count in zip(ends, counts, strict=True)]
