"""Single files without the image: JSON, lines of text, pages; and files that are called after it."""

import contextlib
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from pipelines.forgetting import page
from pipelines.forgetting.names import Names, stem

# One record a line: the line goes. In any other text, the name.
LINES = frozenset({".jsonl", ".txt", ".csv", ".tsv", ".lst"})
# Made of an image, and called after it.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy", ".npz", ".txt", ".json", ".xml"})
Clean = Callable[[bytes, Names], bytes]


def is_of_image(path: str, names: Names) -> bool:
    """Whether a file, by its path below the output, belongs to the image alone: it has the asset's name, with its
    folders or with underscores in their place, and perhaps another suffix. Another image's name that fits better, as
    `sub/a.jpg` does for `masks/sub/a.jpg`, says that it is the other's."""
    if PurePosixPath(path).suffix.lower() not in PICTURES:
        return False
    best = _fit(path, names.assets, names.forms)
    return best is not None and best >= (_fit(path, names.rivals, names.rival_forms) or best)


def _fit(path: str, assets: set[str], forms: dict[str, bool]) -> tuple[int, bool] | None:
    """How much of a path, from its end, is what an image is called: folders, and whether they are its own."""
    parts = path.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        if tail in assets or stem(tail) in forms:
            return len(parts) - start, tail in assets or forms[stem(tail)]
    return None


def cleaner(path: str) -> Clean | None:
    """What takes the image out of a file; None for files that are not text."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".html", ".htm"):
        return page.clean
    if suffix == ".json":
        return clean_json
    if suffix == ".txt" and "ImageSets" in PurePosixPath(path).parts:
        return clean_image_set
    if suffix in LINES:
        return clean_lines
    if suffix == ".xml":
        return clean_xml
    if suffix in (".yaml", ".yml", ".md", ".log", ".journal", ""):
        return lambda data, names: names.replaced(data)
    return None


def mentions(path: str, data: bytes, names: Names) -> bool:
    """Whether a file has anything of the image in it."""
    if page.mentions(data, names) if path.lower().endswith((".html", ".htm")) else names.find(data):
        return True
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".json" and _json_tells(data, names):
        return True
    clean = cleaner(path)
    return clean in (clean_image_set, clean_xml) and clean is not None and clean(data, names) != data


def clean_lines(data: bytes, names: Names) -> bytes:
    return b"".join(line for line in data.splitlines(keepends=True) if not names.find(line))


def clean_image_set(data: bytes, names: Names) -> bytes:
    """VOC's lists: a name without suffix a line, perhaps with a number."""
    plain = {asset.encode("utf-8", "surrogateescape") for asset in names.assets | names.stems}
    return b"".join(line for line in data.splitlines(keepends=True) if not {*line.split()[:1]} & plain)


def clean_xml(data: bytes, names: Names) -> bytes:
    """The document without elements whose attributes name the image."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return names.replaced(data)
    gone = [
        (parent, child)
        for parent in root.iter()
        for child in parent
        if any(names.is_one(value, key) for key, value in child.attrib.items())
    ]
    for parent, child in gone:
        parent.remove(child)
    return names.replaced(ElementTree.tostring(root, "utf-8", xml_declaration=True) if gone else data)


def _json_tells(data: bytes, names: Names) -> bool:
    """Whether a document names the image by a word that means it in some fields only."""
    if not any(json.dumps(name).encode() in data for name in names.assets | names.stems):
        return False
    with contextlib.suppress(ValueError):
        content = json.loads(data)
        return bool(_value(_coco(content, names), names) != content)
    return False


def clean_json(data: bytes, names: Names) -> bytes:
    """The document without the records and names of the image; unreadable JSON with a word in the place of names."""
    try:
        content = json.loads(data)
    except ValueError:
        return names.replaced(data)
    changed = _value(_coco(content, names), names)
    if changed == content:
        return names.replaced(data)
    indent = 2 if data[:3] in (b"{\n ", b"[\n ") else None
    text = json.dumps(changed, indent=indent, ensure_ascii=data.isascii())
    return names.replaced(text.encode())


def _coco(content: Any, names: Names) -> Any:
    """A COCO file without the image, and without what is said of it by number."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return content
    numbers = {item.get("id") for item in content["images"] if isinstance(item, dict) and _is_record(item, names)}
    if not numbers - {None}:  # no COCO: what has no number is found by its names alone
        return content
    kept = {"images": [item for item in content["images"] if item.get("id") not in numbers]}
    if isinstance(content.get("annotations"), list):
        kept["annotations"] = [item for item in content["annotations"] if item.get("image_id") not in numbers]
    return {**content, **kept}


def _value(value: Any, names: Names, key: str = "") -> Any:
    """A value without entries of lists, and keys of mappings, that are about the image."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not names.is_one(k)}
        return {k: _value(v, names, k) for k, v in kept.items()}
    if isinstance(value, list):
        plain = {*names.stems, *names.assets} if key == "missing_names" else set()
        kept_items = [item for item in value if not _is_record(item, names, key) and not _among(item, plain)]
        return [_value(item, names, key) for item in kept_items]
    return value


def _among(item: Any, plain: set[str]) -> bool:
    return isinstance(item, str) and item in plain


def _says(value: Any, names: Names) -> bool:
    return names.mentioned(value) if isinstance(value, str) else isinstance(value, dict) and _is_record(value, names)


def _is_record(item: Any, names: Names, key: str = "") -> bool:
    """Whether an entry of a list is about the image: it names it outside of lists of its own."""
    if isinstance(item, str):
        return names.is_one(item, key) or names.mentioned(item)
    if isinstance(item, dict):
        pairs = [(k, v) for k, v in item.items() if not isinstance(v, list)]
        return any(names.is_one(k) or names.is_one(v, k) or _says(v, names) for k, v in pairs)
    if isinstance(item, list):
        return any(isinstance(part, str) and names.is_one(part) for part in item)
    return False
