"""Class sets: the ordered classes with stable ids, names, prompts, background words, colours and hierarchy.

    ClassSet.load("cat, dog")            # ids 1, 2; background is 0
    ClassSet.load("voc")                 # built in: voc, camvid, sample
    ClassSet.load("s3://bucket/classes.yaml")

A file is a list of names, or a mapping (every key but `name` is optional):

    background: {words: [sky, grass]}    # false: every pixel belongs to a class; left out: the default words
    templates: ["a photo of a {}."]
    classes:
      - {id: 8, name: cat, prompts: [cat, kitten], synonyms: [kitty], color: "#400000", parent: animal}
      - {id: 9, name: animal}
    stable: false                        # ids are mere positions, which a later set need not keep; the default where
                                         # no class has an id. All other ids keep their meaning for good:
    migrations:                          # see pipelines/migrations.py
      - {rename: 8, was: kitty}
"""

import contextlib
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import yaml

from pipelines.class_builtins import BACKGROUND_WORDS, BUILTINS, TEMPLATES
from pipelines.class_fields import ClassSetError, Color, check_keys, color_of, id_of, name_of, names_of, plain
from pipelines.migrations import UNKNOWN, Lineage, Migration, parse_migrations

if TYPE_CHECKING:
    from models.decide.types import ClassArrays
    from models.text.lexicon import Lexicon


@dataclass(frozen=True)
class ClassEntry:
    """One class. `prompts`: what the text encoder is asked, at least one. `synonyms`: other names in weak labels."""

    id: int
    name: str
    prompts: tuple[str, ...]
    synonyms: tuple[str, ...]
    color: Color
    parent: str | None


@dataclass(frozen=True)
class BackgroundEntry:
    """What belongs to no class. `words`: things that photographs show besides their subjects."""

    id: int
    words: tuple[str, ...]
    color: Color


@dataclass(frozen=True)
class ClassSet:
    """Classes by ascending id, and the background, if the set has one."""

    classes: tuple[ClassEntry, ...]
    background: BackgroundEntry | None
    templates: tuple[str, ...] = TEMPLATES
    migrations: tuple[Migration, ...] = ()
    stable: bool = field(default=True, compare=False)

    @classmethod
    def load(cls, source: str | Path | Sequence[Any] | Mapping[str, Any]) -> "ClassSet":
        """From names with commas between, a built-in's name, a YAML/JSON/TXT file or URL, or its parsed content.

        Raises ClassSetError.
        """
        if isinstance(source, Mapping | list | tuple):
            return cls.from_dict(source)
        text = str(source).strip()
        if text in BUILTINS:
            return cls.from_dict(BUILTINS[text])
        if isinstance(source, Path) or _is_file(text):
            return cls.from_dict(_read_file(text))
        if text.startswith(("[", "{")):
            return cls.from_dict(_parse_yaml(text, "--classes"))
        return cls.from_dict([name for name in (part.strip() for part in text.split(",")) if name])

    @classmethod
    def from_dict(cls, data: Any) -> "ClassSet":
        """From the parsed content of a class set file. Raises ClassSetError."""
        data = {"classes": data} if isinstance(data, list | tuple) else data
        if not isinstance(data, Mapping):
            raise ClassSetError(f"a class set is a list of names or a mapping with `classes`, not {data!r}")
        check_keys(data, ("background", "templates", "classes", "stable", "migrations"), "the class set")
        raw = data.get("classes")
        if not isinstance(raw, list | tuple) or not raw:
            raise ClassSetError("the class set is empty: name at least one class")
        first = 0 if data.get("background") is False else 1
        entries = sorted((_class_entry(item, i, first + i) for i, item in enumerate(raw)), key=lambda entry: entry.id)
        background = _background(data.get("background"), entries)
        _check_entries(entries, background)
        templates = tuple(data.get("templates") or TEMPLATES)
        if bad := [t for t in templates if not isinstance(t, str) or "{}" not in t]:
            raise ClassSetError(f"a template is text with {{}} where the class goes, not {bad[0]!r}")
        has_ids = any(isinstance(item, Mapping) and "id" in item for item in raw)
        migrations = parse_migrations(data.get("migrations"))
        made = cls(tuple(entries), background, templates, migrations, _stable(data, has_ids))
        _ = made.lineage  # so that what does not fit is told now
        return made

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` gives the same set back."""
        classes = [
            {
                "id": e.id,
                "name": e.name,
                "prompts": list(e.prompts),
                "synonyms": list(e.synonyms),
                "color": "#{:02x}{:02x}{:02x}".format(*e.color),
            }
            | ({"parent": e.parent} if e.parent else {})
            for e in self.classes
        ]
        background: Any = False
        if self.background is not None:
            color = "#{:02x}{:02x}{:02x}".format(*self.background.color)
            background = {"id": self.background.id, "words": list(self.background.words), "color": color}
        found = {"background": background, "templates": list(self.templates), "classes": classes}
        if self.migrations:
            found["migrations"] = [migration.to_dict() for migration in self.migrations]
        return found if self.stable else {**found, "stable": False}

    @property
    def digest(self) -> str:
        """sha256, hex, of all that can change a label: ids, names, prompts, synonyms, background words, templates, and
        migrations, if there are any.

        Colours, hierarchy and the order in the file do not: they change no pixel.
        """
        classes = [[e.id, e.name, e.prompts, sorted(e.synonyms)] for e in self.classes]
        background = [self.background.id, self.background.words] if self.background else None
        history = [[migration.to_dict() for migration in self.migrations]] if self.migrations else []
        canonical = json.dumps([classes, background, self.templates, *history], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def names(self) -> list[str]:
        """Names of the foreground classes, by id."""
        return [entry.name for entry in self.classes]

    def index(self, key: object) -> int | None:
        """Position among the foreground classes of a name, synonym (in any case) or id; -1 background; None unknown.

        Names and ids that classes had before they were renamed or merged count too.
        """
        if isinstance(key, int) and not isinstance(key, bool):
            return self._by_id.get(key, self._by_id.get(self.lineage.ids.get(key, UNKNOWN)))
        if not isinstance(key, str):
            return None
        exact = self._by_name.get(key)
        found = exact if exact is not None else self._by_plain_name.get(plain(key))
        return found if found is not None else self._by_id.get(self.lineage.names.get(plain(key), UNKNOWN))

    def nearest(self, key: object) -> str | None:
        """The known name most like an unknown one, if any is close."""
        known = [name for entry in self.classes for name in (entry.name, *entry.synonyms)]
        close = difflib.get_close_matches(str(key), known, 1, 0.5)
        return close[0] if close else None

    def arrays(self) -> "ClassArrays":
        """What *decide* needs of the set."""
        from models.decide.types import ClassArrays

        ids = np.array([entry.id for entry in self.classes], np.int32)
        return ClassArrays(ids, self.names, self.background.id if self.background else None)

    def texts(self) -> tuple[list[str], npt.NDArray[np.int32]]:
        """(texts [T], class_of int32 [T]): every prompt without a template; -1 marks a background word."""
        pairs = [(text, index) for index, entry in enumerate(self.classes) for text in entry.prompts]
        pairs += [(word, -1) for word in (self.background.words if self.background else ())]
        return [text for text, _ in pairs], np.array([index for _, index in pairs], np.int32)

    def prompts(self, templates: Sequence[str] | None = None) -> tuple[list[str], npt.NDArray[np.int32]]:
        """(prompts [P], class_of int32 [P]): every text in every template, the templates of one text side by side.

        So embeddings [P, D] averaged over templates are `emb.reshape(-1, len(templates), D).mean(1)`, and their
        classes those of `texts()`. class_of counts the foreground classes from 0; -1 marks a background word.
        """
        templates = self.templates if templates is None else templates
        texts, class_of = self.texts()
        prompts = [template.replace("{}", text) for text in texts for template in templates]
        return prompts, np.repeat(class_of, len(templates))

    def palette(self) -> npt.NDArray[np.uint8]:
        """uint8 [largest id + 1, 3], RGB by class id; ids that no class has are black."""
        entries: list[ClassEntry | BackgroundEntry] = [*self.classes]
        if self.background is not None:
            entries.append(self.background)
        colors = np.zeros((max(entry.id for entry in entries) + 1, 3), np.uint8)
        for entry in entries:
            colors[entry.id] = entry.color
        return colors

    @cached_property
    def lineage(self) -> Lineage:
        """What earlier ids and names mean now. Raises ClassSetError for records that do not fit together."""
        names = {entry.id: (entry.name, *entry.synonyms) for entry in self.classes}
        return Lineage.of(self.migrations, names, self.background.id if self.background else None)

    @cached_property
    def lexicon(self) -> "Lexicon":
        """Free words and captions to class ids, through names and synonyms, former ones included."""
        from models.text.lexicon import Lexicon

        names = {entry.id: [entry.name, *entry.synonyms] for entry in self.classes}
        for former, id in self.lineage.names.items():
            if id in names:
                names[id].append(former)
        return Lexicon(names)

    @cached_property
    def _by_id(self) -> dict[int, int]:
        background = {self.background.id: -1} if self.background else {}
        return background | {entry.id: index for index, entry in enumerate(self.classes)}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {name: index for index, e in enumerate(self.classes) for name in (*e.synonyms, e.name)}

    @cached_property
    def _by_plain_name(self) -> dict[str, int]:
        """Names whatever their case and spacing, without those that then mean two classes."""
        found: dict[str, set[int]] = {"background": {-1}} if self.background else {}
        for name, index in self._by_name.items():
            found.setdefault(plain(name), set()).add(index)
        return {name: indices.pop() for name, indices in found.items() if len(indices) == 1}


def _is_file(text: str) -> bool:
    """Whether --classes names a file or URL rather than classes."""
    if "://" in text or re.search(r"\.(ya?ml|json|txt)$", text, re.IGNORECASE):
        return "\n" not in text
    return "," not in text and len(text) < 1000 and Path(text).is_file()


def _read_file(address: str) -> Any:
    from pipelines.corpus.read import read_bytes

    try:
        text = read_bytes(address).decode("utf-8-sig")
    except OSError as error:
        raise ClassSetError(f"the class set {address} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ClassSetError(f"the class set {address} is not UTF-8 text: {error}") from error
    if address.lower().endswith(".txt"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    return _parse_yaml(text, address)


def _parse_yaml(text: str, origin: str) -> Any:
    if text.lstrip().startswith(("[", "{")):
        # JSON is YAML but for one thing: PyYAML does not join the escaped halves of a rare character.
        with contextlib.suppress(ValueError):
            return json.loads(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ClassSetError(f"{origin} is neither YAML nor JSON: {error}") from error


def _stable(data: Mapping[str, Any], has_ids: bool) -> bool:
    value = data.get("stable", has_ids)
    if not isinstance(value, bool):
        raise ClassSetError(f"`stable` is true or false, not {value!r}")
    if data.get("migrations") and not (value and has_ids):
        raise ClassSetError("`migrations` go by ids that last: give every class an `id`, and leave `stable` out")
    return value


def _class_entry(item: Any, position: int, default_id: int) -> ClassEntry:
    where = f"class {position + 1}"
    if not isinstance(item, Mapping):
        item = {"name": item}
    check_keys(item, ("id", "name", "prompts", "synonyms", "color", "parent"), where)
    name = name_of(item.get("name"), where)
    where = f"class {name!r}"
    id = id_of(item.get("id", default_id), where)
    synonyms = names_of(item.get("synonyms") or (), f"{where}, synonyms")
    prompts = names_of(item.get("prompts") or (), f"{where}, prompts")
    parent = item.get("parent")
    return ClassEntry(
        id=id,
        name=name,
        prompts=prompts or tuple(dict.fromkeys((name.replace("_", " ").strip() or name, *sorted(synonyms)))),
        synonyms=tuple(synonym for synonym in synonyms if synonym != name),
        color=color_of(item.get("color"), id, where),
        parent=None if parent is None else name_of(parent, f"{where}, parent"),
    )


def _background(value: Any, entries: Sequence[ClassEntry]) -> BackgroundEntry | None:
    if value is False:
        return None
    value = {} if value in (None, True) else value
    value = {"words": value} if isinstance(value, list | tuple) else value
    if not isinstance(value, Mapping):
        raise ClassSetError(f"`background` is false, a list of words or a mapping with `words`, not {value!r}")
    check_keys(value, ("id", "words", "color"), "background")
    id = id_of(value.get("id", 0), "background")
    words = value.get("words")
    if words is None:
        chosen = background_words(entries)
    else:
        chosen = names_of(words, "background words")
        targets = {plain(name) for entry in entries for name in (entry.name, *entry.synonyms, *entry.prompts)}
        if clash := [word for word in chosen if plain(word) in targets]:
            raise ClassSetError(f"the background word {clash[0]!r} names a class or one of its synonyms; leave it out")
    return BackgroundEntry(id, chosen, color_of(value.get("color"), id, "background"))


def background_words(entries: Iterable[ClassEntry]) -> tuple[str, ...]:
    """The default background words without those that speak of a class, and without their near-synonyms."""
    targets = {token for e in entries for text in (e.name, *e.synonyms, *e.prompts) for token in _tokens(text)}
    return tuple(word for group in BACKGROUND_WORDS if not targets & set(group) for word in group)


def _tokens(text: str) -> set[str]:
    """Words of a text, and their singulars."""
    words = re.findall(r"\w+", plain(text))
    return {*words, *(word.removesuffix("s") for word in words), *(word.removesuffix("es") for word in words)}


def _check_entries(entries: Sequence[ClassEntry], background: BackgroundEntry | None) -> None:
    ids: dict[int, str] = {background.id: "background"} if background else {}
    names: dict[str, str] = {}
    for entry in entries:
        if background and plain(entry.name) == "background":
            raise ClassSetError(
                "leave the class 'background' out: the set has one already, with id "
                f"{background.id} (or write `background: false`)"
            )
        if entry.id in ids:
            raise ClassSetError(f"the id {entry.id} is given to both {ids[entry.id]!r} and {entry.name!r}")
        ids[entry.id] = entry.name
        for name in (entry.name, *entry.synonyms):
            if name in names:
                raise ClassSetError(f"the name {name!r} is given to both {names[name]!r} and {entry.name!r}")
            names[name] = entry.name
    _check_parents({entry.name: entry.parent for entry in entries})


def _check_parents(parents: Mapping[str, str | None]) -> None:
    for name, parent in parents.items():
        if parent is not None and parent not in parents:
            close = difflib.get_close_matches(parent, list(parents), 1, 0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ": every parent is a class of the set"
            raise ClassSetError(f"class {name!r} has the unknown parent {parent!r}{hint}")
        seen, ancestor = {name}, parent
        while ancestor is not None:
            if ancestor in seen:
                raise ClassSetError(f"class {name!r} is its own ancestor through {ancestor!r}")
            seen.add(ancestor)
            ancestor = parents[ancestor]
