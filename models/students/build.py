"""From a student's config to the network."""

from typing import get_args, get_type_hints

from models.students.config import StudentConfig
from models.students.student import Student

STUDENTS: tuple[str, ...] = get_args(get_type_hints(StudentConfig)["name"])
LITE0_HEAD_SCALE, LITE0_FEATURES = 0.5, 96  # the head of ffnet-s


def build_student(config: StudentConfig, num_classes: int) -> Student:
    """A student with fresh weights (lite0: with ImageNet's, if `config.pretrained`), in training mode on the CPU.

    Args:
        num_classes: channels of the logits, the background included if there is one.

    Raises:
        ValueError: no such student, or less than one class.
        ImportError: `pretrained` weights whose package is missing; the message names the extra.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, is {num_classes}")
    if config.name in ("ffnet-xs", "ffnet-s", "ffnet-m"):
        from models.students.ffnet import SPECS, FFNetBackbone, UpHead

        spec = SPECS[config.name]
        head = UpHead(spec.widths, spec.head_scale, spec.features)
        return Student(FFNetBackbone(spec), head, spec.features, num_classes)
    if config.name == "lite0":
        from models.students import lite0
        from models.students.ffnet import UpHead

        backbone = lite0.Lite0Backbone(config.pretrained)
        head = UpHead(tuple(lite0.CHANNELS.values()), LITE0_HEAD_SCALE, LITE0_FEATURES)
        return Student(backbone, head, LITE0_FEATURES, num_classes, lite0.IMAGE_MEAN, lite0.IMAGE_STD)
    if config.name == "segformer-b0":
        from models.students.segformer import DROPOUT, segformer_b0

        encoder, decoder, features = segformer_b0()
        return Student(encoder, decoder, features, num_classes, dropout=DROPOUT)
    raise ValueError(f"there is no student {config.name!r}; there are {', '.join(STUDENTS)}")
