"""The frozen models that `teachers` names.

out/large            a trained student: OUTPUT of train_student.py, its `student` folder, or a URL
out/a+out/b          several of them as one ensemble
clip:pocket:clip     a CLIP model reference; it knows the classes by their prompts
"""

import torch

from models.losses.teachers import ClipTeacher, EnsembleTeacher, FrozenTeacher, StudentTeacher
from models.students.card import StudentCard, load_student
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.references import ModelReferenceError, resolve, resolve_student

CLIP = "clip:"


def load_teachers(references: tuple[str, ...], classes: ClassSet, device: torch.device) -> list[torch.nn.Module]:
    """The teachers in their order, on the device. Raises UsageError for one that cannot teach these classes."""
    return [_teacher(reference, classes).to(device) for reference in references]


def check_teachers(references: tuple[str, ...], classes: ClassSet) -> None:
    """Raises UsageError early, on the driver, for what `load_teachers` would fail on."""
    for reference in references:
        _teacher(reference, classes)


def _teacher(reference: str, classes: ClassSet) -> FrozenTeacher:
    try:
        if reference.startswith(CLIP):
            return _clip(reference.removeprefix(CLIP), classes)
        members = [_student(part, classes) for part in reference.split("+")]
    except (ModelReferenceError, OSError, ValueError) as error:
        raise UsageError(f"teachers: {reference}: {error}") from error
    return members[0] if len(members) == 1 else EnsembleTeacher(members)


def _student(reference: str, classes: ClassSet) -> StudentTeacher:
    student, card = load_student(resolve_student(reference).path)
    wanted = _names(classes)
    if _channels(card) != wanted:
        raise ValueError(f"its classes are {', '.join(_channels(card))}; those to learn are {', '.join(wanted)}")
    return StudentTeacher(student)


def _clip(reference: str, classes: ClassSet) -> ClipTeacher:
    templates = classes.templates
    prompts = [[t.replace("{}", text) for text in entry.prompts for t in templates] for entry in classes.classes]
    if classes.background:
        prompts.insert(0, [templates[0].replace("{}", word) for word in classes.background.words])
    return ClipTeacher(resolve(reference).path, prompts, classes.background is not None)


def _names(classes: ClassSet) -> list[str]:
    return (["background"] if classes.background else []) + classes.names


def _channels(card: StudentCard) -> list[str]:
    return list(card.names)
