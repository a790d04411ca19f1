"""Who says what classes look like: a file, or a language model behind an OpenAI-compatible address.

Builtin().describe(classes)                              # what ships: VOC, CamVid, CCP
DescriptionFile("looks.yaml").describe(classes)          # {cat: [pointed ears, long whiskers, ...], ...}
Endpoint("http://localhost:8000/v1", "qwen", cache="out/descriptions.json").describe(classes)
"""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import yaml

from pipelines import storage
from pipelines.class_fields import plain
from pipelines.classes import ClassEntry, ClassSet
from pipelines.flow.progress import say

Looks = dict[str, tuple[str, ...]]
"""Class name to short visual descriptions; classes that nothing is known of are left out."""
ASK = (
    "List {count} short visual descriptions, of at most ten words each, of what a {name} looks like in a photograph: "
    "parts, colours, textures, surroundings. Answer with a JSON list of strings and nothing else."
)
AGAIN = (429, 500, 502, 503, 504)
LONGEST_ANSWER = 1_000_000
FIRST_PAUSE_S = 0.5  # doubled with every try


class DescriptionError(ValueError):
    """Descriptions cannot be had; the message says what to change."""


class Provider(Protocol):
    """One source of descriptions."""

    def describe(self, classes: ClassSet) -> Looks:
        """What it knows of these classes. Raises DescriptionError."""


class Builtin:
    """The descriptions that ship. Of the files, the one that knows most of the classes is believed first."""

    def describe(self, classes: ClassSet) -> Looks:
        found = [
            _of_classes(yaml.safe_load(file.read_text("utf-8")), classes)
            for file in sorted(files("pipelines.descriptions").iterdir(), key=lambda file: file.name)
            if file.name.endswith(".yaml")
        ]
        merged: Looks = {}
        for looks in sorted(found, key=len):
            merged |= looks
        # In the order of the classes: what is made of them must not depend on which file knew which.
        return {name: merged[name] for name in classes.names if name in merged}


@dataclass(frozen=True)
class DescriptionFile:
    """A YAML or JSON file or URL: a mapping of class name or synonym to texts."""

    address: str

    def describe(self, classes: ClassSet) -> Looks:
        from pipelines.corpus.read import read_bytes

        try:
            data = yaml.safe_load(read_bytes(self.address).decode("utf-8-sig"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DescriptionError(f"{self.address} cannot be read: {error}") from error
        return _of_classes(_checked(data, self.address), classes)


@dataclass(frozen=True)
class Endpoint:
    """A language model that answers POST {url}/chat/completions. Every class is asked about once, and then remembered.

    key_variable: environment variable that holds the key; unset: no key is sent. cache: path or URL of the answers'
    file, which is written when there are new ones. count: descriptions of a class. ask: False only remembers.
    """

    url: str
    model: str
    cache: str
    key_variable: str = "OPENAI_API_KEY"
    timeout_seconds: float = 60.0
    retries: int = 3
    count: int = 8
    ask: bool = True

    def describe(self, classes: ClassSet) -> Looks:
        answers = self._remembered()
        own = answers.setdefault(f"{self.url} {self.model} {ASK.format(count=self.count, name='{}')}", {})
        missing = [text for entry in classes.classes if (text := entry.prompts[0]) not in own]
        if missing:
            asks = "asks" if self.ask else "would ask"
            say(f"text: {asks} {self.model} what {len(missing)} classes look like; answers are kept in {self.cache}")
        for text in missing if self.ask else ():
            own[text] = list(self._ask(text))
            # After every answer: what was asked need not be asked again if the next one fails.
            storage.write_bytes(self.cache, json.dumps(answers, indent=1, ensure_ascii=False).encode())
        return {entry.name: tuple(own[text]) for entry in classes.classes if (text := entry.prompts[0]) in own}

    def _remembered(self) -> dict[str, dict[str, list[str]]]:
        if not storage.exists(self.cache):
            return {}
        try:
            data: dict[str, dict[str, list[str]]] = json.loads(storage.read_bytes(self.cache))
            return {str(key): dict(own) for key, own in data.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise DescriptionError(f"{self.cache} does not hold the answers of an earlier run: {error}") from error

    def _ask(self, name: str) -> tuple[str, ...]:
        question = {"role": "user", "content": ASK.format(count=self.count, name=name)}
        body = json.dumps({"model": self.model, "messages": [question], "temperature": 0}).encode()
        reply = self._post(body)
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
            texts = _texts(content)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DescriptionError(f"{self.url} gave no answer about {name!r} that can be read: {error!r}") from error
        return texts[: self.count]

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        for number in range(self.retries + 1):
            try:
                with build_opener(_Stay).open(request, timeout=self.timeout_seconds) as reply:
                    return bytes(reply.read(LONGEST_ANSWER))
            except HTTPError as error:
                wrong = f"HTTP {error.code} {error.reason}"
                if error.code not in AGAIN:
                    break
            except OSError as error:
                wrong = str(error) or type(error).__name__
            except (HTTPException, ValueError) as error:
                wrong = type(error).__name__  # what http.client says of a header or a reply may hold the key
            if number < self.retries:
                time.sleep(FIRST_PAUSE_S * 2**number)
        raise DescriptionError(f"{self.url} does not answer: {wrong} (its key: ${self.key_variable})")

    def _key(self) -> str:
        """Files and shells leave spaces and a newline around it. Raises DescriptionError, which does not show it."""
        key = os.environ.get(self.key_variable, "").strip()
        if not key.isprintable() or any(ord(character) > 0xFF for character in key):
            raise DescriptionError(f"${self.key_variable} holds characters that no key for {self.url} can have")
        return key


class _Stay(HTTPRedirectHandler):
    """The key is for one address; nobody sends it on to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _texts(content: str) -> tuple[str, ...]:
    """The descriptions of an answer: a JSON list, with or without a fence around it, or a line each."""
    if match := re.search(r"\[.*\]", content, re.DOTALL):
        try:
            items = json.loads(match[0])
        except ValueError:
            items = []
        found = [item.strip() for item in items if isinstance(item, str) and item.strip()]
    else:
        lines = (re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line).strip() for line in content.splitlines())
        found = [line for line in lines if line and not line.startswith("```")]
    if not found:
        raise ValueError(f"it holds no list of texts: {content[:200]!r}")
    return tuple(dict.fromkeys(found))


def _checked(data: Any, address: str) -> Mapping[str, list[str]]:
    if not isinstance(data, Mapping):
        raise DescriptionError(f"{address}: expected a mapping of classes to texts, not {data!r:.60}")
    found = {}
    for name, texts in data.items():
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DescriptionError(f"{address}: {name!r} has no list of texts: {texts!r:.60}")
        found[str(name)] = texts
    return found


def _of_classes(data: Mapping[str, list[str]], classes: ClassSet) -> Looks:
    known = {plain(name): tuple(texts) for name, texts in data.items() if texts}
    found = {entry.name: _of_class(known, entry) for entry in classes.classes}
    return {name: texts for name, texts in found.items() if texts}


def _of_class(known: Mapping[str, tuple[str, ...]], entry: ClassEntry) -> tuple[str, ...]:
    names = (plain(name) for name in (entry.name, *entry.prompts, *entry.synonyms))
    return next((known[name] for name in names if name in known), ())
