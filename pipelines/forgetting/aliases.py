"""What exports and reviews call the image: they give it a file name of their own, and list it in their folder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from pipelines import storage
from pipelines.forgetting.names import Names, stem

# Files that say which file of a folder is which asset: of an export, and of a review.
LISTS = ("assets.json", "review.json")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".txt", ".npy", ".npz")


@dataclass(frozen=True)
class Alias:
    """A name, without suffix, that the image has in a folder: its path below a root, "" for the root itself."""

    root: str
    folder: str
    name: str

    def covers(self, root: str, path: str) -> bool:
        return root == self.root and (not self.folder or path.startswith(self.folder + "/"))

    def is_of_image(self, path: str) -> bool:
        """Whether a file that the alias covers is the image's own: the copy, mask or text that is called after it."""
        inside = PurePosixPath(path).relative_to(self.folder) if self.folder else PurePosixPath(path)
        own = inside.stem == self.name and inside.suffix.lower() in SUFFIXES
        return own and len(inside.parts) > 1 and "ImageSets" not in inside.parts


def find(root: str, paths: Iterable[str], names: Names) -> list[Alias]:
    """The aliases in all lists below a root. paths: of its files."""
    found = []
    for path in paths:
        if PurePosixPath(path).name in LISTS:
            folder = path.rpartition("/")[0]
            found += [Alias(root, folder, name) for name in _names(storage.read_bytes(storage.join(root, path)), names)]
    return found


def _names(data: bytes, names: Names) -> list[str]:
    try:
        content = json.loads(data)
    except ValueError:
        return []
    entries: Any = content.get("images") if isinstance(content, dict) else content
    about = [entry for entry in entries or () if isinstance(entry, dict) and _is_image(entry, names)]
    return [str(entry.get("name") or stem(str(entry.get("file", "")))) for entry in about]


def _is_image(entry: dict[str, Any], names: Names) -> bool:
    pairs = (("asset", names.assets), ("uri", names.uris), ("digest", names.digests))
    return any(entry.get(key) in known for key, known in pairs)


def with_aliases(names: Names, aliases: Iterable[Alias]) -> Names:
    """The names that hold in a folder: those of the image, and its aliases with every suffix."""
    told = {alias.name for alias in aliases if alias.name}
    if not told:
        return names
    forms = told | {name + suffix for name in told for suffix in SUFFIXES}
    return replace(names, assets=names.assets | forms)
