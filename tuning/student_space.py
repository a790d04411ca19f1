"""The search space of a training: of TrainConfig's fields those that a search may change, and the recipe reads.

By itself a search takes the numbers with a range that is worth trying: of the optimiser, and of the recipe's losses.
Others of these sections (student.name, optim.ema_decay, augment.max_scale, ...) are searched where they are named.
"""

from collections.abc import Mapping
from typing import Any

from pipelines.config_schema import Setting
from pipelines.training.config import TrainConfig
from tuning.space import Offer, Space, restricted_space
from tuning.student_config import SchedulerName

StudentSpace = Space[TrainConfig]
SECTIONS = ("optim", "losses", "student", "augment")
#: Of `data` only what changes no target and no validation: trials have to be comparable.
DATA = ("data.class_balance", "data.quality_weight")
NEVER = {
    "optim.steps": "trials are compared at the same number of steps",
    "optim.dtype": "it is how a machine computes, not what is learned",
}


def build_student_space(
    base: TrainConfig, scheduler: SchedulerName, restriction: Mapping[str, Any] | None = None, origin: str = "--space"
) -> StudentSpace:
    """The space around a training. restriction: the parsed YAML. Raises UsageError; see `restricted_space`."""

    def idle(setting: Setting, base: TrainConfig) -> str:
        section = setting.path[0]
        if setting.name in NEVER:
            return NEVER[setting.name]
        if section not in SECTIONS and setting.name not in DATA:
            return "it would change what trials are compared by, or nothing that is learned"
        if section == "losses" and setting.path[1] not in base.losses.read_by(base.recipe):
            return f"the recipe {base.recipe} does not read it, with its switches as they are"
        if base.recipe in setting.hints.get("unread_by", ()):
            return f"the recipe {base.recipe} does not read it"
        if scheduler == "pbt" and setting.kinds != (float,):
            return "pbt changes settings while the training goes on, so only broken numbers: use --scheduler asha"
        return ""

    def by_itself(setting: Setting) -> bool:
        return "search" in setting.hints

    return restricted_space(base, Offer(idle, by_itself, "train_student.py --help"), restriction or {}, origin)
