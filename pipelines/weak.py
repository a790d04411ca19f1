"""Weak labels: what a person or a system already said of an image, from a record to arrays.

A record's weak labels are a mapping with any of these keys. Coordinates are pixels of the upright (EXIF applied)
full-size image, x to the right, y down, the centre of the first pixel at 0.5; a class is a name, synonym or id:

    tags       [{"class": "cat", "present": true}, "dog", ...]              a bare name is present
    tags_complete  true: classes without a tag are absent
    captions   ["two dogs on a sofa"]     or one text; what they name is there, what they do not name may be (see below)
    words      ["puppy", "sunset"]        free tags of any vocabulary, likewise
    points     [{"x": 10, "y": 20, "class": "cat"}, {..., "positive": false}]   a negative point marks background
    scribbles  [{"xy": [[10, 20], [30, 40]], "width_px": 3, "class": "cat"}]
    boxes      [{"box": [x0, y0, x1, y1], "class": "cat"}]
    maps       [{"kind": "partial" | "noisy", "uri": ADDRESS, "ids": {"1": "cat"} | null}]
               null: the values are class ids of the class set; 255, 65535 and values without a class say nothing
    unknown_classes  "ignore": the record speaks of more classes than a class set may ask for (VOC, COCO layouts)
    problems   [text]: what the reader of the layout could not use; `validate` passes it on

`validate` turns captions and words into tags, through the names and synonyms of the class set
(models/text/lexicon.py). They prove that a class is there, never that one is not, and a tag is believed before them.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import weak_items as items
from pipelines.classes import ClassSet
from pipelines.weak_maps import class_ids

if TYPE_CHECKING:
    from models.decide.types import WeakArrays

FORMS = ("tags", "points", "scribbles", "boxes", "partial", "noisy")
TEXTS = ("captions", "words")
ABOUT = ("unknown_classes", "problems")
KEYS = ("tags", "tags_complete", "points", "scribbles", "boxes", "maps", *TEXTS, *ABOUT)
Weak = dict[str, Any]
Size = tuple[int, int]
# A hint further out than any image is wide is no place.
MAX_PIXEL = 1e6


@dataclass(frozen=True)
class WeakProblem:
    """A weak label that was left out. index: its place in the record's list, -1 for the whole form."""

    asset: str
    form: str
    index: int
    reason: str

    def __str__(self) -> str:
        place = f"{self.form}[{self.index}]" if self.index >= 0 else self.form
        return f"{self.asset}: {place}: {self.reason}" if self.asset else f"{place}: {self.reason}"


def validate(
    weak: Mapping[str, Any], class_set: ClassSet, size: Size | None = None, asset: str = ""
) -> tuple[Weak, list[WeakProblem]]:
    """(canonical weak labels, what was left out and why). Never raises for what a record holds.

    size: (height, width) of the upright full-size image; None checks only what needs no size, and reads no map.
    The result names classes as the class set does, holds plain JSON types only, and validates to itself.
    """
    told = weak.get("problems")
    problems = [WeakProblem(asset, "layout", -1, str(text)) for text in (told if isinstance(told, list) else ())]
    ignore = weak.get("unknown_classes") == "ignore"
    check = items.Check(class_set, size)
    clean: Weak = {}
    for key in weak:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(KEYS)}"
            problems.append(WeakProblem(asset, str(key), -1, f"unknown form{hint}"))
    for form in ("tags", "points", "scribbles", "boxes", "maps"):
        kept = []
        for index, item in _numbered(weak.get(form), form, asset, problems):
            try:
                kept.append(items.PARSERS[form](item, check))
            except items.FormerClassError:
                continue
            except items.UnknownClassError as error:
                if not ignore:
                    problems.append(WeakProblem(asset, form, index, str(error)))
            except items.BadItemError as error:
                problems.append(WeakProblem(asset, form, index, str(error)))
            problems += [WeakProblem(asset, form, index, reason) for reason in check.take_remarks(ignore)]
        if kept:
            clean[form] = kept
    said = {tag["class"] for tag in clean.get("tags", [])}
    if "tags" in clean:
        clean["tags"] = _agreeing_tags(clean["tags"], asset, problems)
    named = _named(weak, class_set, asset, problems) - said
    if _complete(weak, asset, problems):
        clean |= _completed(clean.get("tags", []), class_set, check.unsaid)
    elif named:
        told = [{"class": name, "present": True} for name in named]
        clean["tags"] = sorted([*clean.get("tags", []), *told], key=lambda tag: str(tag["class"]))
    return {key: value for key, value in clean.items() if value}, problems


def _numbered(value: object, form: str, asset: str, problems: list[WeakProblem]) -> Iterable[tuple[int, Any]]:
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return enumerate(value)
    problems.append(WeakProblem(asset, form, -1, f"expected a list, not {items.short(value)}"))
    return ()


def _complete(weak: Mapping[str, Any], asset: str, problems: list[WeakProblem]) -> bool:
    value = weak.get("tags_complete", False)
    if not isinstance(value, bool):
        problems.append(WeakProblem(asset, "tags_complete", -1, f"expected true or false, not {items.short(value)}"))
    return value is True


def _completed(tags: list[Weak], class_set: ClassSet, unsaid: set[int]) -> Weak:
    """Complete tags; where one of the `unsaid` classes is there, the absence of every other one is said singly."""
    if not unsaid:
        return {"tags_complete": True}
    said = {tag["class"] for tag in tags}
    silent = [entry.name for entry in class_set.classes if entry.id not in unsaid and entry.name not in said]
    absent = [{"class": name, "present": False} for name in silent]
    return {"tags": sorted([*tags, *absent], key=lambda tag: str(tag["class"]))}


def _named(weak: Mapping[str, Any], class_set: ClassSet, asset: str, problems: list[WeakProblem]) -> set[str]:
    """Names of the classes that captions and free words speak of."""
    ids: set[int] = set()
    for form in TEXTS:
        value = weak.get(form)
        texts = []
        for index, text in _numbered([value] if isinstance(value, str) else value, form, asset, problems):
            if isinstance(text, str):
                texts.append(text)
            else:
                problems.append(WeakProblem(asset, form, index, f"expected text, not {items.short(text)}"))
        if form == "captions":
            ids |= {id for text in texts for id in class_set.lexicon.find(text)}
        elif texts:
            ids |= set(class_set.lexicon.align(texts)[0].tolist())
    return {entry.name for entry in class_set.classes if entry.id in ids}


def _agreeing_tags(tags: list[Weak], asset: str, problems: list[WeakProblem]) -> list[Weak]:
    """One tag a class, by name; classes that are tagged both ways are left out."""
    said: dict[str, set[bool]] = {}
    for tag in tags:
        said.setdefault(tag["class"], set()).add(tag["present"])
    for name, values in said.items():
        if len(values) == 2:
            problems.append(WeakProblem(asset, "tags", -1, f"{name!r} is tagged both present and absent"))
    return [{"class": name, "present": values.pop()} for name, values in sorted(said.items()) if len(values) == 1]


def select_forms(weak: Mapping[str, Any], forms: Iterable[str] | None) -> Weak:
    """The weak labels of these FORMS only ("maps" is partial and noisy, "captions" free words too); None keeps all."""
    if forms is None:
        return dict(weak)
    wanted = set(forms)
    kinds = {"partial", "noisy"} if "maps" in wanted else wanted & {"partial", "noisy"}
    selected: Weak = {key: weak[key] for key in FORMS[:4] if key in weak and key in wanted}
    if "tags" in wanted and "tags_complete" in weak:
        selected["tags_complete"] = weak["tags_complete"]
    if "captions" in wanted:
        selected |= {key: weak[key] for key in TEXTS if key in weak}
    maps = weak.get("maps")
    if kinds and maps is not None:
        # what is no map at all stays, so that `validate` can say so
        selected["maps"] = maps
        if isinstance(maps, list | tuple):
            selected["maps"] = [m for m in maps if not isinstance(m, Mapping) or m.get("kind") in kinds]
    others = {key: value for key, value in weak.items() if key not in KEYS or key in ABOUT}
    return selected | others if any(selected.values()) or others.keys() - {"unknown_classes"} else {}


def weak_digest(weak: Mapping[str, Any]) -> str:
    """sha256, hex, of the canonical JSON; "" for no weak labels. A map counts with its address, size and mtag."""
    if not weak:
        return ""
    return hashlib.sha256(json.dumps(weak, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def hints(weak: Mapping[str, Any]) -> str:
    """Where the weak labels point, whatever classes they name and whether the class set knows them: JSON
    [points, boxes] in full-size pixels, "" for none. So a class that is added later asks for no new evidence."""
    points = [p for p in _items(weak, "points") if p.get("positive") is not False]
    spots = [[p.get("x"), p.get("y")] for p in points if p.get("class") != "background"]
    for scribble in _items(weak, "scribbles"):
        line = scribble.get("xy")
        if isinstance(line, list) and line and scribble.get("class") != "background":
            spots.append(line[len(line) // 2])
    boxes = [box.get("box") for box in _items(weak, "boxes")]
    found = [[spot for spot in spots if _numbers(spot, 2)], [box for box in boxes if _numbers(box, 4)]]
    return json.dumps(found) if any(found) else ""


def _items(weak: Mapping[str, Any], form: str) -> list[Mapping[str, Any]]:
    given = weak.get(form)
    return [item for item in given if isinstance(item, Mapping)] if isinstance(given, list | tuple) else []


def _numbers(values: object, count: int) -> bool:
    """Whether these are `count` numbers that can be pixels."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < MAX_PIXEL for v in values)


def to_arrays(weak: Mapping[str, Any], class_set: ClassSet, height: int, width: int) -> "WeakArrays":
    """Arrays for *decide* from validated weak labels. Reads the maps; raises OSError or BadItemError for a map that
    cannot be used (`validate` with a size lists those)."""
    from models.decide.types import WeakArrays

    def rows(entries: list[Weak]) -> Any:
        return np.array([_row(class_set, e) for e in entries], np.int32)

    points, boxes = weak.get("points", []), weak.get("boxes", [])
    present, absent = _tag_arrays(weak, class_set)
    maps = {kind: _merged(weak, kind, class_set, (height, width)) for kind in ("partial", "noisy")}
    return WeakArrays(
        present=present,
        absent=absent,
        points=np.array([(p["x"], p["y"]) for p in points], np.float32).reshape(-1, 2),
        point_classes=rows(points),
        scribbles=[
            (np.array(s["xy"], np.float32).reshape(-1, 2), float(s["width_px"]), _row(class_set, s))
            for s in weak.get("scribbles", [])
        ],
        boxes=np.array([b["box"] for b in boxes], np.float32).reshape(-1, 4),
        box_classes=rows(boxes),
        partial=maps["partial"],
        noisy=maps["noisy"],
    )


def _row(class_set: ClassSet, entry: Weak) -> int:
    if entry.get("positive") is False:
        return -1
    row = class_set.index(entry["class"])
    if row is None:
        raise items.BadItemError(f"{entry['class']!r} is not in the class set: validate the weak labels first")
    return row


def _tag_arrays(weak: Mapping[str, Any], class_set: ClassSet) -> tuple[Any, Any]:
    present, absent = (np.zeros(len(class_set.classes), bool) for _ in range(2))
    for tag in weak.get("tags", ()):
        (present if tag["present"] else absent)[_row(class_set, tag)] = True
    complete = bool(weak.get("tags_complete"))
    if complete:
        absent = ~present
    return (present if complete or present.any() or absent.all() else None), absent


def _merged(weak: Mapping[str, Any], kind: str, class_set: ClassSet, size: Size) -> Any:
    """int32 [H, W] of class ids; of several maps of one kind the first that says something counts."""
    merged = None
    for entry in weak.get("maps", ()):
        if entry["kind"] == kind:
            ids, _ = class_ids(entry, class_set, size)
            merged = ids if merged is None else np.where(merged >= 0, merged, ids)
    return merged
