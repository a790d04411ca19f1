"""Evidence of a few gold photographs, observed once with the shipped models for all checks of label quality."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models.decide.types import TextBank, WeakArrays
from models.evidence import Evidence, Hints, decode, encode
from pipelines.classes import ClassSet
from pipelines.corpus.simulate import simulate
from pipelines.weak import select_forms, to_arrays, validate

POCKET = Path(models.__file__).parent / "pocket"
IMAGES = 40
FORMS = ("tags", "points", "scribbles", "boxes", "partial", "noisy")


@dataclass(frozen=True)
class Gold:
    """A gold photograph: its mask uint8 [H, W] (255: not judged), its evidence, and weak labels drawn from the mask."""

    mask: np.ndarray
    evidence: Evidence
    weak: dict[str, object]

    def labels(self, class_set: ClassSet, *forms: str) -> WeakArrays:
        """Arrays of some forms of weak labels; of none at all without forms."""
        size = (self.mask.shape[0], self.mask.shape[1])
        chosen, problems = validate(select_forms(self.weak, forms), class_set, size)
        assert not problems
        return to_arrays(chosen, class_set, *size)


@pytest.fixture(scope="session")
def class_set() -> ClassSet:
    return ClassSet.load("voc")


@pytest.fixture(scope="session")
def gold(class_set: ClassSet, data: Path) -> list[Gold]:
    """Every second or third photograph of gold100, observed without hints, as stored and read back."""
    voc = data / "voc"
    from models.observe import Observer
    from models.observe_config import ObserveConfig

    torch.set_num_threads(1)
    names = (voc / "ImageSets/Segmentation/gold100.txt").read_text().split()
    names = [names[i] for i in np.linspace(0, len(names) - 1, IMAGES).astype(int)]
    observer = Observer(ObserveConfig(), str(POCKET / "clip"), str(POCKET / "sam"), "cpu")
    out = []
    for name in names:
        picture = np.asarray(Image.open(voc / f"JPEGImages/{name}.jpg").convert("RGB"))
        mask = np.asarray(Image.open(voc / f"SegmentationClassAug/{name}.png"))
        prepared = observer.prepare(picture, (mask.shape[0], mask.shape[1]), Hints.none())
        evidence = decode(encode(observer.finish(observer.forward([prepared]))[0]))
        ids = {entry.id: entry.name for entry in class_set.classes} | {0: "background"}
        known = np.where(mask == 255, -1, mask.astype(np.int32))
        out.append(Gold(mask, evidence, simulate(known, ids, name, FORMS)))
    return out


@pytest.fixture(scope="session")
def text(class_set: ClassSet) -> TextBank:
    from models.clip.text import TextEncoder

    prompts, class_of = class_set.prompts()
    encoder = TextEncoder(POCKET / "clip", "cpu")
    return TextBank(encoder.encode(prompts), np.asarray(class_of, np.int32))
