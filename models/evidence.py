"""Evidence: what the models saw in one image, without knowing the classes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

ENCODING_VERSION = 1
FEATURE_RANK = 64  # Directions kept of the patch features of an image.
LEVEL = 17  # Step of the stored mask probabilities: 16 levels, 0, 17, .. 255.
FEATURES = ("grid", "features", "features_scale")  # The columns that `decode_features` reads.
GUIDE_QUALITY = 90  # JPEG; its blocks stay below what refinement takes for an edge.


@dataclass(frozen=True)
class Hints:
    """Class-free prompts that a person gave: where something is, not what it is.

    points: float32 [P, 2], x y in pixels of the upright full-size image. boxes: float32 [Q, 4], x0 y0 x1 y1 likewise.
    """

    points: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]

    @classmethod
    def none(cls) -> "Hints":
        return cls(np.zeros((0, 2), np.float32), np.zeros((0, 4), np.float32))


@dataclass(frozen=True)
class MaskBank:
    """Class-agnostic masks of one image, best first, near-duplicates removed.

    probs: uint8 [M, mh, mw], SAM's mask probability (sigmoid of its logit) times 255, over the whole image.
    iou: float32 [M], SAM's own predicted IoU, 0..1. stability: float32 [M], 0..1: IoU of the mask thresholded
    high and low. source: uint8 [M], an index into MASK_SOURCES.
    """

    probs: npt.NDArray[np.uint8]
    iou: npt.NDArray[np.float32]
    stability: npt.NDArray[np.float32]
    source: npt.NDArray[np.uint8]


MASK_SOURCES = ("cluster", "grid", "point", "box", "heat", "student", "localiser")


@dataclass(frozen=True)
class Evidence:
    """All that *decide* knows of an image.

    height, width: pixels of the upright (EXIF applied) full-size image; every grid below covers exactly that frame.
    features: float32 [h, w, D], dense CLIP patch features in the text space, not normalised.
    embedding: float32 [D], CLIP's global image embedding, unit norm.
    bank: the mask bank. guide: uint8 [gh, gw, 3], RGB, longer side `guide_px` (384) or the image's own if smaller.
    """

    height: int
    width: int
    features: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    bank: MaskBank
    guide: npt.NDArray[np.uint8]


def encode(evidence: Evidence) -> dict[str, Any]:
    """Reduce and quantise to plain values for a table row; `decode` is the way back.

    Features: the image's own FEATURE_RANK leading directions (float16) and the patches' coordinates in them (int8, one
    scale a direction); all directions where there are no more than that. Masks: 16 levels, two in a byte. Guide: JPEG.

    With the pocket models a photograph takes about 58 KB of features (instead of 440), 90 KB of masks (23 KB once the
    table's zstd has been over them) and 35 KB of guide. Measured on photographs: 5 to 9 % of the features' length is
    lost, but word scores of patches move by 2 to 4 % of their range at most; a mask's probability moves by 8/255 at
    most, and never across one half.

    Columns: height, width int; grid [h, w, D, rank]; features, features_scale, embedding, masks, guide bytes;
    mask_shape [M, mh, mw]; mask_iou, mask_stability list of float; mask_source list of int.
    """
    features, scale = _encode_features(evidence.features)
    return {
        "height": evidence.height,
        "width": evidence.width,
        "grid": [*evidence.features.shape, len(scale)],
        "features": features,
        "features_scale": scale.tobytes(),
        "embedding": evidence.embedding.astype("<f4").tobytes(),
        "guide": _encode_guide(evidence.guide),
        **encode_bank(evidence.bank),
    }


def encode_bank(bank: MaskBank) -> dict[str, Any]:
    """The columns of a mask bank: masks bytes; mask_shape [M, mh, mw]; mask_iou, mask_stability, mask_source lists."""
    return {
        "masks": _encode_masks(bank.probs),
        "mask_shape": list(bank.probs.shape),
        "mask_iou": [float(value) for value in bank.iou],
        "mask_stability": [float(value) for value in bank.stability],
        "mask_source": [int(value) for value in bank.source],
    }


def decode_bank(row: Mapping[str, Any]) -> MaskBank:
    """The mask bank of a row of `encode_bank`, its probabilities on 16 levels."""
    return MaskBank(
        _decode_masks(row["masks"], tuple(row["mask_shape"])),
        np.asarray(row["mask_iou"], np.float32),
        np.asarray(row["mask_stability"], np.float32),
        np.asarray(row["mask_source"], np.uint8),
    )


def decode(row: Mapping[str, Any]) -> Evidence:
    """The evidence that a row of `encode` holds, up to its quantisation."""
    return Evidence(
        height=row["height"],
        width=row["width"],
        features=decode_features(row),
        embedding=np.frombuffer(row["embedding"], "<f4"),
        bank=decode_bank(row),
        guide=np.asarray(Image.open(io.BytesIO(row["guide"])).convert("RGB")),
    )


def decode_features(row: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The features alone, float32 [h, w, D], of a row with FEATURES."""
    height, width, dimension, rank = row["grid"]
    scale = np.frombuffer(row["features_scale"], "<f4")
    basis = np.frombuffer(row["features"], "<f2", count=rank * dimension).reshape(rank, dimension)
    coordinates = np.frombuffer(row["features"], np.int8, offset=2 * rank * dimension).reshape(-1, rank)
    features = (coordinates * scale) @ basis.astype(np.float32)
    return features.reshape(height, width, dimension)


def _encode_features(features: npt.NDArray[np.float32]) -> tuple[bytes, npt.NDArray[np.float32]]:
    """(basis float16 [R, D] then coordinates int8 [h*w, R]; scales float32 [R])."""
    flat = features.reshape(-1, features.shape[-1])
    rank = min(FEATURE_RANK, *flat.shape)
    _, directions = np.linalg.eigh((flat.T @ flat).astype(np.float64))  # Ascending eigenvalues.
    basis = directions[:, ::-1][:, :rank].T.astype("<f2")
    coordinates = flat @ basis.astype(np.float32).T
    scale = np.maximum(np.abs(coordinates).max(axis=0), 1e-12).astype("<f4") / np.float32(127)
    return basis.tobytes() + np.rint(coordinates / scale).astype(np.int8).tobytes(), scale


def _encode_masks(probs: npt.NDArray[np.uint8]) -> bytes:
    levels = ((probs.astype(np.uint16) + LEVEL // 2) // LEVEL).astype(np.uint8).ravel()
    pairs = np.pad(levels, (0, len(levels) % 2)).reshape(-1, 2)
    return (pairs[:, 0] << 4 | pairs[:, 1]).tobytes()


def _decode_masks(packed: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    pairs = np.frombuffer(packed, np.uint8)
    levels = np.stack([pairs >> 4, pairs & 15], axis=1).ravel()[: int(np.prod(shape))]
    return (levels * LEVEL).reshape(shape)


def _encode_guide(guide: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(guide).save(buffer, "JPEG", quality=GUIDE_QUALITY)
    return buffer.getvalue()
