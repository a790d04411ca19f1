"""A student on disk: `card.json` says what it is and what its channels mean, `model.safetensors` holds the weights."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.device import pick_device
from models.students.build import build_student
from models.students.config import StudentConfig
from models.students.student import Student

CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class StudentCard:
    """What a student is.

    classes: one mapping a channel, in channel order: "id" (0..65534), "name", and "color" ("#rrggbb") if known.
    background: whether channel 0 is the background. size_px: longer side of the pictures that it learned from.
    extra: whatever else should be known of it (labels, recipe, figures), JSON-able.
    """

    config: StudentConfig
    classes: tuple[Mapping[str, Any], ...]
    background: bool
    size_px: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [entry.get("id") for entry in self.classes]
        if not ids or any(type(i) is not int or not 0 <= i <= 65534 for i in ids) or len(set(ids)) != len(ids):
            raise ValueError(f"classes: every channel needs a distinct whole-number id in 0..65534, the ids are {ids}")
        if self.size_px < 1:
            raise ValueError(f"size_px must be at least 1, is {self.size_px}")

    @property
    def ids(self) -> tuple[int, ...]:
        """Class ids in channel order."""
        return tuple(entry["id"] for entry in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in channel order."""
        return tuple(str(entry.get("name", entry["id"])) for entry in self.classes)


def save_student(folder: str | Path, student: Student, card: StudentCard) -> None:
    """Write both files; each is replaced whole, the card last.

    Raises:
        ValueError: the card has not one class for each channel. TypeError: its `extra` is not JSON-able.
    """
    if len(card.classes) != student.num_classes:
        raise ValueError(f"the card names {len(card.classes)} classes, the student has {student.num_classes} channels")
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(card)}, indent=2, ensure_ascii=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    part = folder / f"{WEIGHTS_FILE}.{os.getpid()}.tmp"
    save_file(state, part)
    part.replace(folder / WEIGHTS_FILE)
    part = folder / f"{CARD_FILE}.{os.getpid()}.tmp"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / CARD_FILE)


def load_card(folder: str | Path) -> StudentCard:
    """The card alone; raises as `load_student` does."""
    file = Path(folder) / CARD_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no student: {CARD_FILE} is missing (a trained one is in OUTPUT/student)"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version is {content['format_version']}, this version reads {FORMAT_VERSION}")
        config = StudentConfig(**content["config"])
        return StudentCard(
            config, tuple(content["classes"]), bool(content["background"]), content["size_px"], content["extra"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no student's card: {type(error).__name__}: {error}") from error


def load_student(folder: str | Path, device: str = "cpu") -> tuple[Student, StudentCard]:
    """A saved student in evaluation mode on a device ("auto": the GPU where there is one), and its card.

    Needs no network and no extra: what a backbone started from is in the weights.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a damaged card, or weights that are not those of the card.
    """
    card = load_card(folder)
    file = Path(folder) / WEIGHTS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no student: {WEIGHTS_FILE} is missing")
    student = build_student(replace(card.config, pretrained=False), len(card.classes))
    try:
        student.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} does not hold the weights of the {card.config.name} on its card: {error}") from error
    return student.to(pick_device(device)).eval(), card


def student_digest(folder: str | Path) -> str:
    """sha256, hex, of card and weights: equal for equal students, wherever they lie."""
    total = hashlib.sha256()
    for name in (CARD_FILE, WEIGHTS_FILE):
        with (Path(folder) / name).open("rb") as stream:
            total.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
