"""Free words and captions to classes: what LLM4SGG (2023) asks a language model for, by rules.

lexicon = Lexicon({8: ["cat", "kitten"], 11: ["dining table", "table"]})
lexicon.align(["Kittens", "beach"])                  # ids [8, -1], scores [1, 0]
lexicon.find("two cats under the dining table")      # [8, 11]
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

WORD = re.compile(r"[^\W_]+")
NOTHING = -1
# Not the plural of the same thing: "a short man" wears no shorts.
PLURAL_ONLY = frozenset(
    ["glasses", "sunglasses", "shorts", "pants", "tights", "flats", "pumps", "wedges", "heels", "clogs", "clothes"]
)
IRREGULAR = {
    "people": "person", "persons": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "mice": "mouse", "oxen": "ox", "wolves": "wolf", "calves": "calf",
    "knives": "knife", "leaves": "leaf", "shelves": "shelf", "scarves": "scarf", "loaves": "loaf", "buses": "bus",
}  # fmt: skip
# A class's name within the name of something else. Only where a class is called so do these mean one.
ELSEWHERE = (
    "hot dog", "dog house", "dog food", "cat food", "bird house", "bird cage", "bus stop", "bus station",
    "train station", "train track", "car park", "boat house", "horse shoe", "chair lift", "sheep skin", "cat walk",
    "bottle opener", "bottle cap", "table tennis", "table cloth", "water bottle cap", "teddy bear", "sea horse",
    "sign post", "tree house", "sky diving", "top hat", "hat stand", "tie dye",
)  # fmt: skip
NEGATIONS = frozenset(["no", "not", "without", "never", "neither", "nor"])
ARTICLES = frozenset(["a", "an", "any", "the", "one", "single"])


class Encoder(Protocol):
    """What `TextEncoder` of models/clip/text.py is."""

    def encode(self, prompts: list[str], /) -> npt.NDArray[np.float32]:
        """Unit float32 [P, D]."""


class Lexicon:
    """The names of a class set. names: class id (0 and above) to all that the class is called, most usual first.

    A name that two classes have means neither. Whole words only, in singular or plural and in any case, "_" and "-" as
    spaces; the longest name wins; words behind "no" or "without" say nothing.
    """

    def __init__(self, names: Mapping[int, Sequence[str]]) -> None:
        self.names = {id: tuple(own) for id, own in names.items()}
        exact, derived = _Meanings(), _Meanings()
        for id, own in self.names.items():
            for name in own:
                words = _words(name)
                exact.add([words] if words else [], id)
                derived.add([] if words and words[-1] in PLURAL_ONLY else _forms(words), id)
        derived.add((form for phrase in ELSEWHERE for form in _forms(_words(phrase))), NOTHING)
        # What a class is called counts before what its plural or singular may be.
        self._meaning = derived.plain() | exact.plain()
        self._longest = max(map(len, self._meaning))

    def find(self, caption: str) -> list[int]:
        """The class ids that a caption names, in order of their first mention."""
        return list(dict.fromkeys(self._mentions(_words(caption))))

    def align(
        self, words: Sequence[str], encoder: Encoder | None = None, threshold: float = 0.9
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """(class ids [N] or -1, scores [N] 0..1) of free tags, each taken as a whole.

        A tag that is a name has score 1. Of the others, with an encoder, the class whose names are most like the tag in
        its text space, where that cosine reaches the threshold; it is the score.
        """
        found = [self._meaning_of(_words(word)) for word in words]
        ids = np.array([NOTHING if id is None else id for id in found], np.int32).reshape(-1)
        scores = (ids != NOTHING).astype(np.float32)
        unknown = [row for row, word in enumerate(words) if found[row] is None and _words(word)]
        if encoder is not None and unknown and self._spoken:
            cosines = encoder.encode([words[row] for row in unknown]) @ encoder.encode([n for n, _ in self._spoken]).T
            for row, own in zip(unknown, cosines, strict=True):
                best = int(own.argmax())
                if own[best] >= threshold:
                    ids[row], scores[row] = self._spoken[best][1], min(max(float(own[best]), 0.0), 1.0)
        return ids, scores

    @cached_property
    def _spoken(self) -> list[tuple[str, int]]:
        return [(name.replace("_", " "), id) for id, own in self.names.items() for name in own]

    def _meaning_of(self, words: tuple[str, ...]) -> int | None:
        """A class id, NOTHING for what is known to be something else, None for what is not known."""
        return next((self._meaning[form] for form in _forms(words) if form in self._meaning), None)

    def _mentions(self, words: tuple[str, ...]) -> Iterable[int]:
        at = 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                meant = self._meaning_of(words[at : at + length])
                if meant is not None:
                    if meant != NOTHING and not _denied(words[:at]):
                        yield meant
                    at += length
                    break
            else:
                at += 1


class _Meanings(dict[tuple[str, ...], set[int]]):
    """Phrases, and the classes that they may mean."""

    def add(self, forms: Iterable[tuple[str, ...]], id: int) -> None:
        for form in forms:
            if id != NOTHING or form not in self:
                self.setdefault(form, set()).add(id)

    def plain(self) -> dict[tuple[str, ...], int]:
        """The one class that each means; NOTHING where there are two."""
        return {form: next(iter(ids)) if len(ids) == 1 else NOTHING for form, ids in self.items()}


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.casefold()))


def _forms(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The words as they are, and with the last of them in the singular, as far as rules go."""
    return [(*words[:-1], form) for form in _singulars(words[-1])] if words else []


def _singulars(word: str) -> list[str]:
    found = [word]
    if word in IRREGULAR:
        found.append(IRREGULAR[word])
    elif len(word) > 4 and word.endswith("ies"):
        found.append(word[:-3] + "y")
    elif len(word) > 4 and word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found += [word[:-2], word[:-1]]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.append(word[:-1])
    return found


def _denied(before: tuple[str, ...]) -> bool:
    rest = list(before)
    while rest and rest[-1] in ARTICLES:
        rest.pop()
    return bool(rest) and rest[-1] in NEGATIONS
