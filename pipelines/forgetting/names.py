"""The names of an image that is to be forgotten, and where a text mentions one of them.

A name counts where it stands alone: `a.jpg` is not mentioned by `data.jpg` or `sub/a.jpg`. Names of other images that
hold one of these (`my a.jpg`) are known, and are left as they are.
"""

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote

# Fields that hold what an image is called; `name` is not one of them, classes have names too.
NAMING = ("asset", "uri", "digest", "image", "path", "file_name", "filename", "image_id")
_DISTINCT = re.compile(r"[./#\d]")
REPLACEMENT = "[forgotten]"
# A `data:` address is the image itself; it stands in its own rows only, and those go by their asset.
LONGEST = 4000
# What a longer path, word or number is made of; bytes above 127 belong to letters in UTF-8.
_BEFORE = rb"(?<![\w./%\-\x80-\xff])"
_AFTER = rb"(?![\w/%\-\x80-\xff]|\.[\w\x80-\xff])"


@dataclass
class Names:
    """assets, uris, digests: what an image is called. others: names of images that stay, which hold one of these.
    rivals: assets that stay, whose files can be called like this image's."""

    assets: set[str]
    uris: set[str]
    digests: set[str]
    others: set[str] = field(default_factory=set)
    rivals: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        return self.assets | self.uris | self.digests

    @cached_property
    def anywhere(self) -> set[str]:
        """The names that mean the image wherever they stand: an asset called `cat` means it in a NAMING field only."""
        return {asset for asset in self.assets if _DISTINCT.search(asset)} | self.uris | self.digests

    def is_one(self, value: object, key: str = "") -> bool:
        """Whether a whole value, in a field called `key`, is one of the names."""
        return isinstance(value, str) and (value in self.anywhere or (key in NAMING and value in self.assets))

    @cached_property
    def stems(self) -> set[str]:
        """The assets without suffix, as masks are called that belong to them."""
        return {stem(asset) for asset in self.assets}

    @cached_property
    def forms(self) -> dict[str, bool]:
        """What files without suffix are called after the image, to whether that is its own path."""
        return _forms(asset for asset in self.assets if _telling(stem(asset)))

    @cached_property
    def rival_forms(self) -> dict[str, bool]:
        return _forms(self.rivals)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        # Longer names first, whether they stay or go: the first alternative that fits is the one that is meant.
        spelled = {form: b"keep" for name in self.others for form in spellings(name)}
        spelled |= {form: b"find" for name in self.anywhere if len(name) < LONGEST for form in spellings(name)}
        parts: dict[bytes, list[bytes]] = {b"keep": [], b"find": []}
        ordered = sorted(spelled, key=len, reverse=True)
        for form in ordered:
            parts[spelled[form]].append(re.escape(form))
        keep = b"(?P<keep>" + b"|".join(parts[b"keep"] or [b"(?!)"]) + b")"
        find = b"(?P<find>" + b"|".join(parts[b"find"] or [b"(?!)"]) + b")"
        return re.compile(_BEFORE + b"(?:" + keep + b"|" + find + b")" + _AFTER)

    def find(self, data: bytes) -> list[tuple[int, int]]:
        """Where the bytes mention the image: [start, end) of every place."""
        return [match.span("find") for match in self._pattern.finditer(data) if match["find"] is not None]

    def mentioned(self, text: str) -> bool:
        return bool(self.find(text.encode("utf-8", "surrogateescape")))

    def replaced(self, data: bytes) -> bytes:
        """The bytes with a word in the place of every name."""
        out, last = [], 0
        for start, end in self.find(data):
            out += [data[last:start], REPLACEMENT.encode()]
            last = end
        return b"".join([*out, data[last:]])


def flat(name: str) -> set[str]:
    """A path, and what files are called after it in one folder."""
    return {name, name.replace("/", "_"), name.replace("/", "__"), name.replace("/", "-")}


def _telling(name: str) -> bool:
    """Whether a name without suffix says which image is meant: `report` or `cat` may be called so by chance."""
    return "/" in name or any(character.isdigit() for character in name)


def _forms(assets: Iterable[str]) -> dict[str, bool]:
    own = {name for asset in assets for name in (stem(asset), asset)}
    return {form: form in own for name in own for form in flat(name)}


def stem(asset: str) -> str:
    return asset.rpartition(".")[0] or asset


def spellings(name: str) -> set[bytes]:
    """How a name is written in plain text, JSON, HTML and URLs."""
    plain = json.dumps(name, ensure_ascii=False)[1:-1]
    ascii_only = json.dumps(name)[1:-1]
    marked = html.escape(name)
    forms = {name, plain, ascii_only, marked, html.escape(plain), quote(name), quote(name, safe="")}
    forms.add(marked.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))  # as jinja2 writes them
    forms.add(ascii_only.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
    if name.startswith("/"):
        forms |= {f"file://{form}" for form in (name, plain, ascii_only, marked, quote(name))}
    if "://" in name:
        forms |= {form.partition("://")[2] for form in (name, plain, ascii_only, marked)}
    return {form.encode("utf-8", "surrogateescape") for form in forms}
