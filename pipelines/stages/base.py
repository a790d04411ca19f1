"""What a stage is: a step that declares the columns it needs and adds, and a check of a chain of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage holds in the cluster. cpus and gpus may be fractions."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class StageSpec:
    """The contract of a stage, known before any cluster starts.

    needs: columns that must be there; adds, drops: columns that come and go; pool: stages with one pool's name share
    that pool's workers.
    """

    name: str
    needs: tuple[str, ...]
    adds: tuple[str, ...]
    drops: tuple[str, ...] = ()
    pool: str = "driver"


class ChainError(ValueError):
    """The stages do not fit together."""


def check_chain(stages: Iterable[StageSpec], start: Iterable[str]) -> list[tuple[str, ...]]:
    """The columns after every stage.

    Raises:
        ChainError: a stage needs a column that no stage before it adds, or drops one that is not there.
    """
    columns = list(dict.fromkeys(start))
    after = []
    for stage in stages:
        missing = [name for name in (*stage.needs, *stage.drops) if name not in columns and name not in stage.adds]
        if missing:
            raise ChainError(f"stage {stage.name} needs {', '.join(missing)}, but only {', '.join(columns)} are there")
        columns = [name for name in dict.fromkeys([*columns, *stage.adds]) if name not in stage.drops]
        after.append(tuple(columns))
    return after
