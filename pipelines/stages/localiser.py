"""The stage that asks a localiser: pictures to a class activation map of each class that it knows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipelines.references import resolve_localiser
from pipelines.stages import student
from pipelines.stages.student import Maps, NetworkStage, NetworkStageConfig

SPEC = replace(student.SPEC, name="localiser")


class LocaliserStage(NetworkStage):
    """Maps of all classes: which of them are there, tags say when labels are decided, so that other tags ask nothing
    again. Where there are none, a map is believed as much as the image's score says."""

    made_by = "localiser"

    def __init__(self, config: NetworkStageConfig, device: str) -> None:
        from models.localize.card import load_localiser

        found = resolve_localiser(config.reference, tracking_uri=config.tracking_uri)
        config.check(found.digest, "localiser")
        self.localiser, card = load_localiser(found.path, device)
        self.ids = np.array(card.ids, np.int32)

    def look(self, picture: npt.NDArray[np.uint8]) -> tuple[Maps, Maps]:
        maps, score = self.localiser.locate(self.localiser.features(picture))
        return maps, (1 / (1 + np.exp(-score))).astype(np.float32)
