"""Evidence of the second kind: masks that belong to classes, because classes were asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.evidence import MaskBank, decode_bank, encode_bank


@dataclass(frozen=True)
class ClassMasks:
    """Masks of one image, each of a class.

    bank: one mask a row, over the whole image; `source` says who made them. class_ids: int32 [M], ids of the class set.
    """

    bank: MaskBank
    class_ids: npt.NDArray[np.int32]


def encode(masks: ClassMasks) -> dict[str, Any]:
    """Plain values for a table row: those of `encode_bank`, and mask_class, list of int. Loses as much as that does."""
    return {**encode_bank(masks.bank), "mask_class": [int(value) for value in masks.class_ids]}


def decode(row: Mapping[str, Any]) -> ClassMasks:
    """The masks that a row of `encode` holds."""
    return ClassMasks(decode_bank(row), np.asarray(row["mask_class"], np.int32))
