"""The search space of *decide*: of the fields of DecideConfig those that the objective and the images depend on.

What matters: numbers with a range and fields with choices, if the objective depends on the step that reads them, and if
the images have what they need (`needs`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from models.decide.config import DecideConfig
from pipelines.config_schema import Setting
from tuning.objectives import Objective
from tuning.space import Offer, Space, restricted_space

LabelSpace = Space[DecideConfig]


def build_space(
    base: DecideConfig,
    objectives: Sequence[Objective],
    given: Collection[str],
    restriction: Mapping[str, Any] | None = None,
    origin: str = "--space",
) -> LabelSpace:
    """The space of these objectives over images that have `given` (models.decide.config.Given).

    restriction: the parsed YAML. Raises UsageError; see `restricted_space`.
    """
    parts = frozenset().union(*(one.parts for one in objectives))
    blind = frozenset.intersection(*(one.blind_to for one in objectives))

    def idle(setting: Setting, base: DecideConfig) -> str:
        needs = setting.hints.get("needs")
        if setting.hints["part"] not in parts or setting.name in blind:
            return "the objective does not depend on it"
        return f"none of the images has what it is about ({needs})" if needs and needs not in given else ""

    offer = Offer(idle, lambda setting: True, "label_corpus.py --help decide")
    return restricted_space(base, offer, restriction or {}, origin)
