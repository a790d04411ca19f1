"""What exports and reviews call the image: they give it a file name of their own, and list it in their folder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from pipelines import storage
from pipelines.forgetting.names import Names, stem

# Files that say which file of a folder is which asset: of an export, and of a review.
LISTS = ("assets.json", "review.json")
# These name assets as the corpus does; all else in such a folder names its files.
ABOUT_ASSETS = (*LISTS, "export.json", "imported-*.json")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".txt", ".npy", ".npz")


@dataclass(frozen=True)
class Listing:
    """A folder with such a list: its path below a root, "" for the root itself. own: names, without suffix, that the
    image has there. taken: names of the image that are those of another image's files there."""

    root: str
    folder: str
    own: tuple[str, ...]
    taken: tuple[str, ...]

    def covers(self, root: str, path: str) -> bool:
        return root == self.root and (not self.folder or path.startswith(self.folder + "/"))

    def is_of_image(self, path: str) -> bool:
        """Whether a file that the list covers is the image's own: the copy, mask or text that is called after it."""
        inside = PurePosixPath(path).relative_to(self.folder) if self.folder else PurePosixPath(path)
        own = inside.stem in self.own and inside.suffix.lower() in SUFFIXES
        return own and len(inside.parts) > 1 and "ImageSets" not in inside.parts


def find(root: str, paths: Iterable[str], names: Names) -> list[Listing]:
    """All lists below a root. paths: of its files."""
    found = []
    for path in paths:
        if PurePosixPath(path).name in LISTS:
            entries = _entries(storage.read_bytes(storage.join(root, path)))
            own = {_name(entry) for entry in entries if _is_image(entry, names)} - {""}
            other = {_name(entry) for entry in entries if not _is_image(entry, names)}
            taken = {asset for asset in names.assets if stem(asset) in other}
            found.append(Listing(root, path.rpartition("/")[0], tuple(sorted(own)), tuple(sorted(taken))))
    return found


def _entries(data: bytes) -> list[dict[str, Any]]:
    try:
        content = json.loads(data)
    except ValueError:
        return []
    entries: Any = content.get("images") if isinstance(content, dict) else content
    return [entry for entry in entries or () if isinstance(entry, dict)]


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("name") or stem(str(entry.get("file", ""))))


def _is_image(entry: dict[str, Any], names: Names) -> bool:
    pairs = (("asset", names.assets), ("uri", names.uris), ("digest", names.digests))
    return any(entry.get(key) in known for key, known in pairs)


def names_below(names: Names, listings: Iterable[Listing], path: str) -> Names:
    """The names that hold in a file that these lists cover: those of the image, and its own there with every suffix."""
    here = list(listings)
    own = {name for listing in here for name in listing.own}
    taken = {name for listing in here for name in listing.taken}
    if any(fnmatch(PurePosixPath(path).name, pattern) for pattern in ABOUT_ASSETS):
        taken = set()
    if not own and not taken:
        return names
    forms = own | {name + suffix for name in own for suffix in SUFFIXES}
    return replace(names, assets=names.assets - taken | forms)
