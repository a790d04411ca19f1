"""The search space: read from the metadata beside DecideConfig's fields, restricted by a YAML.

    fields: [mask_weight, mask_top, keep_policy]     # only these are searched; default: all that matter
    ranges: {mask_weight: [0.4, 0.9], keep_policy: [fixed]}     # narrower (or wider than is tried by default)
    fixed: {grid_px: 64}                             # not searched, and set to this

What matters: numbers with a range and fields with choices, if the objective depends on the step that reads them, and if
the images have what they need (`needs`). A field that means something only beside a value of another (`when`) is tried
only there.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from models.decide.config import DecideConfig
from pipelines.config import UsageError
from pipelines.config_cli import nearest
from pipelines.config_schema import Setting, settings
from tuning.objectives import Objective

Value = float | int | str
Kind = Literal["float", "int", "choice"]


@dataclass(frozen=True)
class Dimension:
    """One field that is searched. choices: of a `choice`; else low..high, both included."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()
    when: tuple[str, tuple[str, ...]] | None = None

    def suggest(self, trial: Any) -> Value:
        """The value that an Optuna trial takes."""
        if self.kind == "choice":
            return typing.cast(str, trial.suggest_categorical(self.name, list(self.choices)))
        if self.kind == "int":
            return int(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log))
        return float(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def holds(self, value: Any) -> bool:
        return value in self.choices if self.kind == "choice" else self.low <= value <= self.high


@dataclass(frozen=True)
class Space:
    """base: the settings of everything that is not searched."""

    dimensions: tuple[Dimension, ...]
    base: DecideConfig

    def __call__(self, trial: Any) -> None:
        """Optuna's define-by-run space: asks an Optuna trial for the fields that mean something together."""
        self.choose(lambda dimension: dimension.suggest(trial))

    def choose(self, value_of: typing.Callable[[Dimension], Value]) -> dict[str, Value]:
        """A value for every field that means something beside those chosen before it."""
        chosen: dict[str, Value] = {}
        for one in self.dimensions:
            if one.when is None or chosen.get(one.when[0], getattr(self.base, one.when[0])) in one.when[1]:
                chosen[one.name] = value_of(one)
        return chosen

    def start(self) -> dict[str, Value] | None:
        """The base's own point, or None where it is outside the space."""
        point = self.choose(lambda one: getattr(self.base, one.name))
        return point if all(one.holds(point[one.name]) for one in self.dimensions if one.name in point) else None

    def config(self, values: Mapping[str, Value]) -> DecideConfig:
        """The whole decide-config of a trial."""
        return dataclasses.replace(self.base, **values)  # type: ignore[arg-type]


def build_space(
    base: DecideConfig,
    objectives: Sequence[Objective],
    given: Collection[str],
    restriction: Mapping[str, Any] | None = None,
    origin: str = "--space",
) -> Space:
    """The space of these objectives over images that have `given` (models.decide.config.Given).

    restriction: the parsed YAML. Raises UsageError for a field that is not there or cannot be searched, and for a range
    outside the field's own.
    """
    told = _checked(restriction or {}, origin)
    base = dataclasses.replace(base, **{name: _parse(name, value, origin) for name, value in told["fixed"].items()})
    parts = frozenset().union(*(one.parts for one in objectives))
    blind = frozenset.intersection(*(one.blind_to for one in objectives))
    named = set(told["fields"]) | set(told["ranges"])
    found = []
    for field in dataclasses.fields(DecideConfig):
        dimension = _dimension(field, told["ranges"].get(field.name), origin)
        if field.name in told["fixed"] or (told["fields"] and field.name not in named):
            continue
        reason = _idle(field, parts, blind, given)
        if field.name in named and (dimension is None or reason):
            raise UsageError(f"{origin}: {field.name} is not for this search: {reason or 'it is a list'}")
        if dimension is not None and not reason:
            found.append(dimension)
    found = _reachable(found, base)
    if not found:
        raise UsageError(f"{origin}: nothing is left to search")
    return Space(tuple(found), base)


def read_restriction(address: str) -> Mapping[str, Any]:
    """The YAML at a path or URL. Raises UsageError."""
    from pipelines.corpus.read import read_bytes

    try:
        content = yaml.safe_load(read_bytes(address))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"--space {address}: {error}") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"--space {address}: expected a mapping with fields, ranges or fixed")
    return content


def _idle(field: Any, parts: Collection[str], blind: Collection[str], given: Collection[str]) -> str:
    """Why this field changes nothing here, or ""."""
    needs = field.metadata.get("needs")
    if field.metadata["part"] not in parts or field.name in blind:
        return "the objective does not depend on it"
    return f"none of the images has what it is about ({needs})" if needs and needs not in given else ""


def _dimension(field: Any, narrowed: Any, origin: str) -> Dimension | None:
    """None for what cannot be searched."""
    annotation = typing.get_type_hints(DecideConfig)[field.name]
    when = field.metadata.get("when")
    if typing.get_origin(annotation) is Literal:
        choices: tuple[str, ...] = typing.get_args(annotation)
        if narrowed is not None:
            items = narrowed if isinstance(narrowed, list) and narrowed else [narrowed]
            choices = tuple(_parse(field.name, value, origin) for value in items)
        return Dimension(field.name, "choice", choices=choices, when=when)
    if annotation not in (int, float) or "search" not in field.metadata:
        return None
    low, high = field.metadata["search"]
    if narrowed is not None:
        if not isinstance(narrowed, list) or len(narrowed) != 2:
            raise UsageError(f"{origin}: the range of {field.name} is [low, high], not {narrowed!r}")
        low, high = (_parse(field.name, value, origin) for value in narrowed)
        if low > high:
            raise UsageError(f"{origin}: the range of {field.name} is [low, high]: {low} is above {high}")
    kind: Kind = "int" if annotation is int else "float"
    return Dimension(field.name, kind, low, high, log=field.metadata["log"], when=when)


def _reachable(dimensions: Sequence[Dimension], base: DecideConfig) -> list[Dimension]:
    """Without those that hang on a value that is never chosen; the field that others hang on comes before them."""
    values = {one.name: one.choices for one in dimensions if one.kind == "choice"}

    def possible(one: Dimension) -> bool:
        return one.when is None or bool(set(values.get(one.when[0], (getattr(base, one.when[0]),))) & set(one.when[1]))

    return sorted((one for one in dimensions if possible(one)), key=lambda one: one.when is not None)


def _known() -> dict[tuple[str, ...], Setting]:
    return settings(DecideConfig)


def _parse(name: str, value: Any, origin: str) -> Any:
    try:
        return _known()[(name,)].parse(value)
    except ValueError as error:
        raise UsageError(f"{origin}: {name}: {error}") from error


def _checked(told: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The restriction with all three keys, every field of which is there."""
    checked: dict[str, Any] = {"fields": [], "ranges": {}, "fixed": {}}
    for key, value in told.items():
        if key not in checked:
            raise UsageError(f"{origin}: unknown key {key!r}; known: {', '.join(checked)}")
        if value is not None and not isinstance(value, type(checked[key])):
            raise UsageError(f"{origin}: {key} is a {'list of fields' if key == 'fields' else 'mapping by field'}")
        checked[key] = value or checked[key]
        for name in checked[key]:
            if (name,) not in _known():
                close = nearest((str(name),), _known())
                hint = f"; did you mean {close}?" if close else " (see label_corpus.py --help decide)"
                raise UsageError(f"{origin}: {key}: {name!r} is no field of decide{hint}")
    if both := set(checked["fixed"]) & (set(checked["fields"]) | set(checked["ranges"])):
        raise UsageError(f"{origin}: {sorted(both)[0]} is both fixed and searched")
    return checked
