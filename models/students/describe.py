"""How large and how costly a student is.

python -m models.students.describe --student ffnet-s --classes 21 --size 352x352
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.students.build import STUDENTS, build_student
from models.students.config import StudentConfig


def describe(config: StudentConfig, num_classes: int, height: int, width: int) -> dict[str, int]:
    """Parameters, and multiply-adds of one picture [3, height, width] in evaluation mode.

    Counted on PyTorch's meta device, so nothing is computed or loaded. Convolutions, linear layers and attention count;
    normalisation, activations and resizing, which are no matrix products, do not.
    """
    with torch.device("meta"):
        student = build_student(replace(config, pretrained=False), num_classes).eval()
        picture = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        student(picture)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    # The counter takes a multiply-add for two operations.
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="models.students.describe", description="Parameters and cost of students.")
    parser.add_argument("--student", choices=STUDENTS, action="append", help="default: all")
    parser.add_argument("--classes", type=int, default=21, help="channels, background included (default 21)")
    parser.add_argument("--size", type=_size, default=(352, 352), help="HEIGHTxWIDTH in pixels (default 352x352)")
    options = parser.parse_args(argv)
    height, width = options.size
    for name in options.student or STUDENTS:
        config = StudentConfig(name)  # type: ignore[arg-type]  # one of the choices
        numbers = describe(config, options.classes, height, width)
        print(json.dumps({"student": name, "classes": options.classes, "size": f"{height}x{width}", **numbers}))
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 352x352")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    raise SystemExit(main())
