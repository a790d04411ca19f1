"""Gates: what new numbers must show before they replace old ones.

A gate is data, a YAML file such as

    metric: miou
    minimum_gain: 0.005
    no_class_worse_than: 0.02

and these functions compare numbers and return reasons, one sentence each: none means that the gate is open. Numbers are
shares in 0..1 where higher is better, unless a limit says otherwise; None and NaN stand for what was not measured.
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import yaml
from pydantic import Field, ValidationError

from pipelines.config import Section, UsageError
from pipelines.config_cli import nearest

#: Of a job whose gate stayed shut.
EXIT_REFUSED = 4
#: Two numbers this near are the same: 0.7 - 0.6 is a gain of 0.1.
LEAST = 1e-9


class QualityGate(Section):
    """what new numbers must show against old ones"""

    metric: str = Field(default="miou", description="the number that is compared; higher is better")
    minimum_gain: float = Field(
        default=0.0,
        ge=-1.0,
        le=1.0,
        description="the new number must be above the old one by at least this; below 0: how far it may fall",
    )
    no_class_worse_than: float | None = Field(
        default=None, ge=0.0, le=1.0, description="how far the IoU of any class may fall; default: any distance"
    )


Gate = TypeVar("Gate", bound=Section)


def read_gate(address: str, kind: type[Gate]) -> Gate:
    """A gate of this kind from a YAML file or URL. Raises UsageError, which names the file, the key and what to do."""
    from pipelines.corpus.read import read_bytes

    try:
        values = yaml.safe_load(read_bytes(address).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"gate: there is no file {address}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"gate {address}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"gate {address}: expected a mapping with any of {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"gate {address}: {'; '.join(_problem(item, kind) for item in error.errors())}") from error


def _problem(item: Mapping[str, object], kind: type[Section]) -> str:
    location = item["loc"]
    path = tuple(map(str, location)) if isinstance(location, tuple) else ()
    if item["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {str(item['msg']).removeprefix('Value error, ')}"
    known = list(kind.model_fields)
    close = nearest(path[-1:], [(name,) for name in known])
    return f"unknown key {'.'.join(path)!r}; " + (f"did you mean {close}?" if close else f"it has {', '.join(known)}")


def quality_reasons(
    gate: QualityGate,
    new: float | None,
    old: float | None,
    new_classes: Mapping[str, float | None],
    old_classes: Mapping[str, float | None],
) -> list[str]:
    """All that a QualityGate finds wrong. new, old: of the gate's metric. *_classes: IoU by class name."""
    reasons = gain_reasons(gate.metric, new, old, gate.minimum_gain)
    if gate.no_class_worse_than is not None:
        reasons += class_reasons(new_classes, old_classes, gate.no_class_worse_than)
    return reasons


def gain_reasons(name: str, new: float | None, old: float | None, minimum: float) -> list[str]:
    """Empty where new - old is at least `minimum`."""
    if not _measured(new) or not _measured(old):
        return [f"{name} was not measured ({'new' if not _measured(new) else 'old'} value missing)"]
    assert new is not None and old is not None
    gain = new - old
    if gain >= minimum - LEAST:
        return []
    wanted = f"at least {minimum:+.4f} is needed" if minimum >= 0 else f"it may fall by {-minimum:.4f} at most"
    return [f"{name} {old:.4f} -> {new:.4f} is a gain of {gain:+.4f}; {wanted}"]


def class_reasons(
    new: Mapping[str, float | None], old: Mapping[str, float | None], most: float, what: str = "IoU"
) -> list[str]:
    """A sentence for each class that fell by more than `most`, or that is not measured any more; the worst first.

    Classes that only the new side has cannot have fallen; but where the old side has none, nothing is known of any.
    """
    if not any(_measured(before) for before in old.values()):
        return [f"{what} by class was not measured (old values missing)"]
    fallen: list[tuple[float, str]] = []
    for name, before in old.items():
        after = new.get(name)
        if not _measured(before):
            continue
        assert before is not None
        if after is None or not _measured(after):
            fallen.append((math.inf, f"class {name}: {what} {before:.4f} -> not measured"))
        elif before - after > most + LEAST:
            told = f"class {name}: {what} {before:.4f} -> {after:.4f} falls by {before - after:.4f}; {most:.4f} at most"
            fallen.append((before - after, told))
    return [told for _, told in sorted(fallen, key=lambda one: (-one[0], one[1]))]


def below(name: str, value: float | None, limit: float | None) -> list[str]:
    """A sentence where `value` is below `limit` or was not measured; a limit of None holds for everything."""
    if limit is None or (_measured(value) and value is not None and value >= limit - LEAST):
        return []
    return [f"{name} {_shown(value)} is below {_shown(limit)}"]


def above(name: str, value: float | None, limit: float | None) -> list[str]:
    """A sentence where `value` is above `limit` or was not measured; a limit of None holds for everything."""
    if limit is None or (_measured(value) and value is not None and value <= limit + LEAST):
        return []
    return [f"{name} {_shown(value)} is above {_shown(limit)}"]


def _measured(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _shown(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "(not measured)"
    return f"{int(value):,}" if value == int(value) else f"{value:.4f}"
