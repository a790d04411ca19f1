"""What *decide* is told in words, with a method of text and without it: another text bank, the same settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from models.decide.types import TextBank
from pipelines.ablation.methods import Method
from pipelines.class_builtins import TEMPLATES
from pipelines.classes import ClassSet
from pipelines.config import TextConfig
from pipelines.evaluation.runs import PastRun
from pipelines.flow.run import digest
from pipelines.references import resolve
from pipelines.text import Knowledge, knowledge, text_bank

PLAIN = "a photo of a {}."
"""What several templates are compared with."""


@dataclass(frozen=True)
class Told:
    """All that a text bank is made of, beside the model."""

    classes: ClassSet
    known: Knowledge

    @property
    def digest(self) -> str:
        return digest([self.known.to_dict(), list(self.classes.templates)])


class Texts:
    """Text banks for the classes of a run, by id; "" is the run's own."""

    def __init__(self, past: PastRun) -> None:
        self._past = past
        self._own = Told(past.classes, past.knowledge)
        self._told: dict[str, Told] = {}

    def sides(self, method: Method) -> tuple[str, str]:
        """Ids of the text with a method and without; the same one where it has nothing to say of these classes."""
        switch = SWITCHES[method.name]
        return self._id(switch(self._own, method, True)), self._id(switch(self._own, method, False))

    def is_on(self, method: Method) -> bool:
        """Whether the run did it."""
        return self.sides(method)[0] == ""

    def bank(self, text_id: str) -> TextBank:
        """Of an id that `sides` gave; without a head."""
        told = self._told[text_id]
        # That it is still the model of the evidence was looked at when the run's own bank was made.
        return text_bank(str(resolve(self._past.config.observe.clip.model).path), told.classes, told.known)

    def _id(self, told: Told) -> str:
        if told.digest == self._own.digest:
            return ""
        self._told[told.digest] = told
        return told.digest


def _descriptions(told: Told, method: Method, on: bool) -> Told:
    known = told.known
    if on == bool(known.descriptions):
        return told
    if not on:
        return replace(told, known=Knowledge(concepts=known.concepts))
    made = knowledge(TextConfig.model_validate(method.on), told.classes, "", ask=False)
    return replace(told, known=replace(made, concepts=known.concepts)) if made.descriptions else told


def _concepts(told: Told, method: Method, on: bool) -> Told:
    if on == bool(told.known.concepts):
        return told
    made = knowledge(TextConfig.model_validate(method.on), told.classes, "").concepts if on else ()
    return replace(told, known=replace(told.known, concepts=made))


def _templates(told: Told, method: Method, on: bool) -> Told:
    if on == (len(told.classes.templates) > 1):
        return told
    return replace(told, classes=replace(told.classes, templates=TEMPLATES if on else (PLAIN,)))


SWITCHES: Mapping[str, Callable[[Told, Method, bool], Told]] = {
    "descriptions": _descriptions,
    "concepts": _concepts,
    "templates": _templates,
}
"""By method: what is told with it, or without."""
