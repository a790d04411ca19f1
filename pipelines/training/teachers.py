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
from pipelines.migrations import read_class
from pipelines.references import ModelReferenceError, resolve, resolve_student
from pipelines.tracking import choose_store
from pipelines.training.config import TrainConfig

CLIP = "clip:"


def load_teachers(config: TrainConfig, classes: ClassSet, device: torch.device) -> list[torch.nn.Module]:
    """The teachers in their order, on the device. Raises UsageError for one that cannot teach these classes; on the
    driver too, early, so that nothing starts in vain."""
    registry = choose_store(config.tracking.uri, config.output)[0]
    return [_teacher(reference, classes, registry).to(device) for reference in config.teachers]


def _teacher(reference: str, classes: ClassSet, registry: str) -> FrozenTeacher:
    try:
        if reference.startswith(CLIP):
            return _clip(reference.removeprefix(CLIP), classes)
        members = [_student(part, classes, registry) for part in reference.split("+")]
    except (ModelReferenceError, OSError, ValueError) as error:
        raise UsageError(f"teachers: {reference}: {error}") from error
    return members[0] if len(members) == 1 else EnsembleTeacher(members)


def _student(reference: str, classes: ClassSet, registry: str) -> StudentTeacher:
    student, card = load_student(resolve_student(reference, tracking_uri=registry).path)
    wanted = _names(classes)
    if _channels(card, classes) != wanted:
        raise ValueError(f"its classes are {', '.join(card.names)}; those to learn are {', '.join(wanted)}")
    return StudentTeacher(student)


def _clip(reference: str, classes: ClassSet) -> ClipTeacher:
    templates = classes.templates
    prompts = [[t.replace("{}", text) for text in entry.prompts for t in templates] for entry in classes.classes]
    if classes.background:
        prompts.insert(0, [templates[0].replace("{}", word) for word in classes.background.words])
    return ClipTeacher(resolve(reference).path, prompts, classes.background is not None)


def _names(classes: ClassSet) -> list[str]:
    return (["background"] if classes.background else []) + classes.names


def _channels(card: StudentCard, classes: ClassSet) -> list[str]:
    """What the classes call the student's channels: the names that they have now, where they were renamed."""
    now = {entry.id: entry.name for entry in classes.classes}
    first = int(card.background)
    read = [read_class(classes, id, [name]) for id, name in list(zip(card.ids, card.names, strict=True))[first:]]
    told = [name if id is None else now.get(id, name) for id, name in zip(read, card.names[first:], strict=True)]
    return [*card.names[:first], *told]
