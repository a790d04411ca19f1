"""The photographs that gold masks are about."""

import numpy as np
import numpy.typing as npt

from pipelines.config import UsageError
from pipelines.corpus.base import absolute, kind, walk
from pipelines.corpus.folder import may_be_image
from pipelines.corpus.read import read_bytes
from pipelines.evaluation.gold import Gold
from pipelines.stages.decode import BadImage, decode

#: Gold sets are chosen by people; a limit on pixels is for corpora that nobody has looked at.
MAX_PIXELS = 10**9


def find_photographs(gold: Gold, images: str | None) -> dict[str, str]:
    """Address of each mask's photograph, by the mask's name.

    images: a folder of photographs named like the masks; None: JPEGImages of `voc:` gold. Raises UsageError.
    """
    if images is None:
        if not gold.address.startswith("voc:"):
            raise UsageError("--gold.images: say in which folder the photographs are that the masks are about")
        images = f"{gold.address.removeprefix('voc:')}/JPEGImages"
    folder = absolute(images)
    if kind(folder) != "folder":
        raise UsageError(f"--gold.images: there is no folder {folder}")
    found: dict[str, str] = {}
    for entry in walk(folder):
        name = gold.name_of(entry.path) if may_be_image(entry.path) else None
        if name is None:
            continue
        if name in found:
            raise UsageError(f"--gold.images: two photographs belong to the mask {name!r}; one of them is {entry.uri}")
        found[name] = entry.uri
    if absent := sorted(gold.masks.keys() - found.keys()):
        raise UsageError(
            f"--gold.images: {len(absent)} of {len(gold.masks)} masks have no photograph in {folder}, such as "
            f"{absent[0]!r}"
        )
    return found


def read_photograph(address: str) -> npt.NDArray[np.uint8]:
    """Upright RGB, uint8 [H, W, 3], at full size. Raises ValueError naming the file that cannot be read."""
    try:
        return decode(read_bytes(address), picture_px=MAX_PIXELS, max_pixels=MAX_PIXELS).pixels
    except (BadImage, OSError) as error:
        raise ValueError(f"{address}: {error}") from error
