"""What must stay together when some images are set aside: near-duplicates and frames of one video.

none    every image alone
folder  all images of a folder
prefix  numbered names: runs of consecutive numbers behind the same beginning ("walk_0012.jpg", "walk_0013.jpg"),
        cut into pieces where a run is long, so that one long video can be on both sides with few neighbours apart
digest  images with the same bytes (where the digest is known: of labeled images)
auto    prefix, joined with digest
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PIECES = 4
"""A long run is cut so that about this many pieces make up the share that is set aside."""
LONGEST_PIECE = 64
_NUMBERED = re.compile(r"(.*?)(\d+)[^\d/]*$", re.DOTALL)


def groups(assets: Sequence[str], digests: Sequence[str], group_by: str, share: float) -> npt.NDArray[np.int64]:
    """int64 [N], the group of each image, counted from 0 in the order of the images.

    digests: "" where unknown. share: of the images that will be set aside, 0..1.
    """
    count = len(assets)
    if group_by == "folder":
        keys: list[object] = [asset.rpartition("/")[0] for asset in assets]
    elif group_by in ("prefix", "auto"):
        keys = _runs(assets, piece=int(np.clip(share * count / PIECES, 1, LONGEST_PIECE)))
    else:
        keys = list(range(count))
    found = _number(keys)
    return _join(found, digests) if group_by in ("digest", "auto") else found


def split(
    group_of: npt.NDArray[np.int64], share: float, most: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(rows that stay, rows set aside), both sorted: whole groups, drawn by the seed until `share` of all is reached,
    then at most `most` of the rows set aside. A group that would take half as much again is passed over."""
    count = len(group_of)
    order = np.random.default_rng([seed, 1]).permutation(int(group_of.max(initial=-1)) + 1)
    sizes = np.bincount(group_of, minlength=len(order))
    wanted, taken, chosen = share * count, 0, []
    for group in order:
        if taken >= wanted:
            break
        if taken + sizes[group] <= max(1.5 * wanted, 1):
            chosen.append(group)
            taken += int(sizes[group])
    aside = np.flatnonzero(np.isin(group_of, chosen))
    stay = np.setdiff1d(np.arange(count), aside)
    if len(aside) > most:
        aside = np.sort(np.random.default_rng([seed, 2]).permutation(aside)[:most])
    return stay, aside


def _runs(assets: Sequence[str], piece: int) -> list[object]:
    numbered = [_NUMBERED.match(asset.rpartition(".")[0] or asset) for asset in assets]
    order = sorted(
        (index for index, match in enumerate(numbered) if match),
        key=lambda index: (numbered[index][1], int(numbered[index][2]), assets[index]),  # type: ignore[index]
    )
    keys: list[object] = list(range(len(assets)))
    before, length, run = None, 0, 0
    for index in order:
        match = numbered[index]
        assert match is not None
        if match[1] != before or length >= piece:
            before, length, run = match[1], 0, run + 1
        keys[index] = ("run", run)
        length += 1
    return keys


def _number(keys: Sequence[object]) -> npt.NDArray[np.int64]:
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def _join(group_of: npt.NDArray[np.int64], digests: Sequence[str]) -> npt.NDArray[np.int64]:
    """Groups that share a digest become one."""
    parent = np.arange(int(group_of.max(initial=-1)) + 1)

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = int(parent[group])
        return group

    first: dict[str, int] = {}
    for group, digest in zip(group_of.tolist(), digests, strict=True):
        if digest:
            one, other = root(group), root(first.setdefault(digest, group))
            parent[max(one, other)] = min(one, other)
    return _number([root(group) for group in group_of.tolist()])
