"""Evidence of the second kind: masks that belong to classes, because classes were asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.evidence import MASK_SOURCES, MaskBank, decode_bank, encode_bank

MadeBy = Literal["heat", "student", "localiser"]
NETWORKS: tuple[MadeBy, ...] = ("student", "localiser")
"""Those that look at pictures by themselves, and ask no heat."""


@dataclass(frozen=True)
class ClassMasks:
    """Masks of one image, each of a class.

    bank: one mask a row, over the whole image; `source` says who made them. class_ids: int32 [M], ids of the class set.
    """

    bank: MaskBank
    class_ids: npt.NDArray[np.int32]

    @property
    def made_by(self) -> MadeBy:
        """Whose masks these are: SAM's, asked by heat, or a network's. All of one image and kind are of one maker."""
        for name in NETWORKS:
            if (self.bank.source == MASK_SOURCES.index(name)).any():
                return name
        return "heat"

    def renamed(self, class_ids: Mapping[int, int] | None) -> "ClassMasks":
        """The masks of the classes that `class_ids` (old id to new) has, under their new ids; None: all as they are."""
        if class_ids is None:
            return self
        kept = np.array([i for i, old in enumerate(self.class_ids.tolist()) if old in class_ids], np.intp)
        bank = MaskBank(*(getattr(self.bank, field.name)[kept] for field in fields(MaskBank)))
        return ClassMasks(bank, np.array([class_ids[int(self.class_ids[i])] for i in kept], np.int32))


def encode(masks: ClassMasks) -> dict[str, Any]:
    """Plain values for a table row: those of `encode_bank`, and mask_class, list of int. Loses as much as that does."""
    return {**encode_bank(masks.bank), "mask_class": [int(value) for value in masks.class_ids]}


def decode(row: Mapping[str, Any]) -> ClassMasks:
    """The masks that a row of `encode` holds."""
    return ClassMasks(decode_bank(row), np.asarray(row["mask_class"], np.int32))
