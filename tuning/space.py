"""A search space: read from the metadata beside a config's fields, restricted by a YAML.

    fields: [mask_weight, mask_top, keep_policy]     # only these are searched; default: all that matter
    ranges: {mask_weight: [0.4, 0.9], keep_policy: [fixed]}     # narrower (or wider than is tried by default)
    fixed: {grid_px: 64}                             # not searched, and set to this

Fields have dotted names, as on the command line. What a field can tell (`Setting.hints`): `search`, a range that is
worth trying; `log`, whether on a log scale; `when`, a field and the values of it without which this one means nothing.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic, Literal, TypeVar

import yaml

from pipelines.config import UsageError
from pipelines.config_cli import nearest
from pipelines.config_schema import Setting, build, settings

Value = float | int | str
Kind = Literal["float", "int", "choice"]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Dimension:
    """One field that is searched. choices: of a `choice`; else low..high, both included."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: tuple[str, tuple[Value, ...]] | None = None

    def suggest(self, trial: Any) -> Value:
        """The value that an Optuna trial takes."""
        if self.kind == "choice":
            return typing.cast(Value, trial.suggest_categorical(self.name, list(self.choices)))
        if self.kind == "int":
            return int(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log))
        return float(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def holds(self, value: Any) -> bool:
        return value in self.choices if self.kind == "choice" else self.low <= value <= self.high


@dataclass(frozen=True)
class Space(Generic[Config]):
    """base: the settings of everything that is not searched."""

    dimensions: tuple[Dimension, ...]
    base: Config

    def __call__(self, trial: Any) -> None:
        """Optuna's define-by-run space: asks an Optuna trial for the fields that mean something together."""
        self.choose(lambda dimension: dimension.suggest(trial))

    def choose(self, value_of: Callable[[Dimension], Value]) -> dict[str, Value]:
        """A value for every field that means something beside those chosen before it."""
        chosen: dict[str, Value] = {}
        for one in self.dimensions:
            if one.when is None or chosen.get(one.when[0], value_at(self.base, one.when[0])) in one.when[1]:
                chosen[one.name] = value_of(one)
        return chosen

    def start(self) -> dict[str, Value] | None:
        """The base's own point, or None where it is outside the space."""
        point = self.choose(lambda one: value_at(self.base, one.name))
        return point if all(one.holds(point[one.name]) for one in self.dimensions if one.name in point) else None

    def config(self, values: Mapping[str, Value]) -> Config:
        """The whole config of a trial."""
        return changed(self.base, values)


def value_at(config: Any, name: str) -> Any:
    """The value of a field by its dotted name."""
    return reduce(getattr, name.split("."), config)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with these values, by dotted name, in the place of its own.

    Raises ValueError for values that do not go together.
    """
    kind: Any = type(config)
    now = {path: value_at(config, setting.name) for path, setting in settings(kind).items()}
    found: Config = build(kind, {**now, **{tuple(name.split(".")): value for name, value in values.items()}})
    return found


@dataclass(frozen=True)
class Offer:
    """What a search makes of a config's fields.

    idle: why a field changes nothing beside the base's other settings, or "". by_itself: whether it is searched where
    nobody names it. see: where a person finds the fields.
    """

    idle: Callable[[Setting, Any], str]
    by_itself: Callable[[Setting], bool]
    see: str


def restricted_space(base: Config, offer: Offer, restriction: Mapping[str, Any], origin: str) -> Space[Config]:
    """The space around a base. restriction: the parsed YAML.

    Raises UsageError for a field that is not there or cannot be searched, and for a range outside the field's own.
    """
    kind: Any = type(base)
    known = settings(kind)
    told = _checked(restriction, known, offer.see, origin)
    base = changed(base, {name: _parse(known, name, value, origin) for name, value in told["fixed"].items()})
    named = set(told["fields"]) | set(told["ranges"])
    found = []
    for setting in known.values():
        name = setting.name
        if name in told["fixed"] or (told["fields"] and name not in named):
            continue
        dimension = _dimension(setting, told["ranges"].get(name), origin)
        reason = offer.idle(setting, base) or ("" if dimension else _unsearchable(setting))
        if name in named and reason:
            raise UsageError(f"{origin}: {name} is not for this search: {reason}")
        if dimension is not None and not reason and (name in named or offer.by_itself(setting)):
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


def _unsearchable(setting: Setting) -> str:
    if setting.kinds in ((int,), (float,)):
        return f"it has no range that is worth trying; give one (ranges: {{{setting.name}: [low, high]}})"
    return "it is a list" if setting.kind.endswith(",...") else "it is neither a number nor a choice"


def _dimension(setting: Setting, narrowed: Any, origin: str) -> Dimension | None:
    """None for what cannot be searched."""
    name, hints = setting.name, setting.hints
    when = hints.get("when")
    if when is not None and len(setting.path) > 1:  # named from the part of the tree that the field belongs to
        when = (f"{setting.path[0]}.{when[0]}", when[1])
    choices = (False, True) if setting.annotation is bool else _literal(setting.annotation)
    if choices:
        if narrowed is not None:
            items = narrowed if isinstance(narrowed, list) and narrowed else [narrowed]
            choices = tuple(_parsed(setting, value, origin) for value in items)
        return Dimension(name, "choice", choices=choices, when=when)
    if setting.kinds not in ((int,), (float,)) or ("search" not in hints and narrowed is None):
        return None
    if narrowed is None:
        low, high = hints["search"]
    else:
        if not isinstance(narrowed, list) or len(narrowed) != 2:
            raise UsageError(f"{origin}: the range of {name} is [low, high], not {narrowed!r}")
        low, high = (_parsed(setting, value, origin) for value in narrowed)
        if low > high:
            raise UsageError(f"{origin}: the range of {name} is [low, high]: {low} is above {high}")
    log = bool(hints.get("log", False))
    if log and low <= 0:
        raise UsageError(f"{origin}: {name} is searched on a log scale: its range begins above 0, not at {low}")
    return Dimension(name, "int" if setting.kinds == (int,) else "float", low, high, log=log, when=when)


def _literal(annotation: Any) -> tuple[Value, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()


def _reachable(dimensions: Sequence[Dimension], base: Any) -> list[Dimension]:
    """Without those that hang on a value that is never chosen; the field that others hang on comes before them."""
    values = {one.name: one.choices for one in dimensions if one.kind == "choice"}

    def possible(one: Dimension) -> bool:
        if one.when is None:
            return True
        return bool(set(values.get(one.when[0], (value_at(base, one.when[0]),))) & set(one.when[1]))

    return sorted((one for one in dimensions if possible(one)), key=lambda one: one.when is not None)


def _parse(known: Mapping[tuple[str, ...], Setting], name: str, value: Any, origin: str) -> Any:
    return _parsed(known[tuple(name.split("."))], value, origin)


def _parsed(setting: Setting, value: Any, origin: str) -> Any:
    try:
        return setting.parse(value)
    except ValueError as error:
        raise UsageError(f"{origin}: {setting.name}: {error}") from error


def _checked(
    told: Mapping[str, Any], known: Mapping[tuple[str, ...], Setting], see: str, origin: str
) -> dict[str, Any]:
    """The restriction with all three keys, every field of which is there."""
    checked: dict[str, Any] = {"fields": [], "ranges": {}, "fixed": {}}
    for key, value in told.items():
        if key not in checked:
            raise UsageError(f"{origin}: unknown key {key!r}; known: {', '.join(checked)}")
        if value is not None and not isinstance(value, type(checked[key])):
            raise UsageError(f"{origin}: {key} is a {'list of fields' if key == 'fields' else 'mapping by field'}")
        checked[key] = value or checked[key]
        for name in checked[key]:
            path = tuple(str(name).split("."))
            if path not in known:
                close = nearest(path, known)
                hint = f"; did you mean {close}?" if close else f" (see {see})"
                raise UsageError(f"{origin}: {key}: there is no field {name!r}{hint}")
    if both := set(checked["fixed"]) & (set(checked["fields"]) | set(checked["ranges"])):
        raise UsageError(f"{origin}: {sorted(both)[0]} is both fixed and searched")
    return checked
