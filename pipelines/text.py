"""The prompts of a class set in CLIP's text space."""

import numpy as np

from models.decide.types import TextBank
from pipelines.classes import ClassSet


def text_bank(clip_path: str, classes: ClassSet) -> TextBank:
    """One unit embedding for each text of the class set: the mean over its templates (Radford et al. 2021, 3.1.4).

    clip_path: a local CLIP checkpoint; its text tower runs on the CPU.
    """
    from models.clip.text import TextEncoder

    prompts, _ = classes.prompts()
    embedded = TextEncoder(clip_path, "cpu").encode(prompts)
    mean = embedded.reshape(-1, len(classes.templates), embedded.shape[-1]).mean(1)
    return TextBank(mean / np.linalg.norm(mean, axis=1, keepdims=True), classes.texts()[1])
