"""The settings of a config tree, whether its sections are pydantic models or plain dataclasses.

A dataclass field says in its metadata what it means and where it may go: {"help": text, "range": (low, high)}, both
ends included, either may be None; a range holds for every number of a tuple. What a search wants to know stands there
too (`Setting.hints`); a pydantic field has it in `json_schema_extra`.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, Literal, Union

import annotated_types
from pydantic import BaseModel, TypeAdapter, ValidationError

Path = tuple[str, ...]
DURATION = "DURATION"
"""How the kind of a setting in seconds is spelled."""
MISSING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Setting:
    """One value of the tree. default: MISSING where one must be given. hints: what else stands beside the field."""

    path: Path
    annotation: Any
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    hints: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.annotation)

    def parse_text(self, text: str) -> Any:
        """The value that a flag or environment variable spells. Raises ValueError with the reason."""
        optional = type(None) in self.kinds
        if text.strip().lower() in ("none", "null") and optional and not self._is_list:
            return None
        return self.parse(text)

    def parse(self, value: Any) -> Any:
        """The value as the setting's type, in its range. Raises ValueError with the reason."""
        if isinstance(value, str) and self._is_list:
            value = _split(value)
        if isinstance(value, bool) and not {bool, Any} & set(self.kinds):
            raise ValueError(f"{value} is not {self.kind}")  # pydantic would take it for the number 1 or 0
        try:
            parsed = self._adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(_reason(error, value)) from error
        for number in parsed if isinstance(parsed, tuple | list) else (parsed,):
            self._check_range(number)
        return parsed

    def _check_range(self, number: Any) -> None:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return
        if not math.isfinite(number):
            raise ValueError(f"{number} is not a finite number")
        too_low = self.low is not None and not number >= self.low
        if too_low or (self.high is not None and not number <= self.high):
            raise ValueError(f"{self.shown(number)} is not {self.range_text}")

    @property
    def range_text(self) -> str:
        """ "in 0..1", "at least 1", or "" without a range."""
        if self.low is not None and self.high is not None:
            return f"in {self.shown(self.low)}..{self.shown(self.high)}"
        if self.low is not None:
            return f"at least {self.shown(self.low)}"
        return f"at most {self.shown(self.high)}" if self.high is not None else ""

    def shown(self, number: float) -> str:
        """A number as a person writes it; seconds as a duration, where the setting is one."""
        return duration_text(number) if self.kind == DURATION else _shown(number)

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, without what is annotated to them."""
        return _alternatives(self.annotation)

    @property
    def _is_list(self) -> bool:
        return str not in self.kinds and any(typing.get_origin(kind) in (tuple, list) for kind in self.kinds)

    @property
    def is_flag(self) -> bool:
        return self.annotation is bool

    @property
    def kind(self) -> str:
        """How to spell a value, for people."""
        return _spell(self.annotation)


def duration_text(seconds: float) -> str:
    """ "30d", "1h30m" or "0": seconds as durations are written in a config."""
    parts, rest = [], seconds
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        whole, rest = divmod(rest, size)
        parts += [f"{int(whole)}{unit}"] if whole else []
    return "".join([*parts, *([f"{rest:g}s"] if rest else [])]) or "0"


def _shown(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def _split(text: str) -> Any:
    text = text.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"is not a JSON list: {error}") from error
    return [] if text.lower() in ("", "none") else [part.strip() for part in text.split(",")]


def _reason(error: ValidationError, value: Any) -> str:
    messages = dict.fromkeys(
        item["msg"].removeprefix("Value error, ").removeprefix("Input ") for item in error.errors()
    )
    shown = repr(value)
    return f"{shown if len(shown) <= 80 else shown[:77] + '...'}: " + "; or ".join(messages)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """int | None -> (int, NoneType); Annotated[int, ...] -> (int,)."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for part in typing.get_args(annotation) for kind in _alternatives(part))
    return (annotation,)


def _spell(kind: Any) -> str:
    """Text in Annotated's metadata is how a type of ours is spelled."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return next((part for part in arguments[1:] if isinstance(part, str)), _spell(arguments[0]))
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_spell(part) for part in arguments if part is not type(None)))
    if origin is Literal:
        return "|".join(str(value) for value in arguments)
    if origin in (tuple, list):
        inner = _spell(arguments[0])
        return f"{inner},..." if "|" not in inner else f"{{{inner}}},..."
    names = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT"}
    return names.get(kind, "YAML")


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation))


@lru_cache(maxsize=64)
def settings(model: type, prefix: Path = ()) -> dict[Path, Setting]:
    """Every setting of a tree by its path, in the order of the declaration."""
    found: dict[Path, Setting] = {}
    for setting in _fields(model, prefix):
        if is_section(setting.annotation):
            found |= settings(setting.annotation, setting.path)
        else:
            found[setting.path] = setting
    return found


@lru_cache(maxsize=64)
def sections(model: type, prefix: Path = ()) -> dict[Path, type]:
    """Every section of a tree by its path, the tree itself first."""
    found: dict[Path, type] = {prefix: model}
    for setting in _fields(model, prefix):
        if is_section(setting.annotation):
            found |= sections(setting.annotation, setting.path)
    return found


def _fields(model: type, prefix: Path) -> Iterator[Setting]:
    if issubclass(model, BaseModel):
        for name, info in model.model_fields.items():
            default = MISSING if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
            bounds = [m for m in info.metadata if isinstance(m, annotated_types.Ge | annotated_types.Le)]
            low = next((float(m.ge) for m in bounds if isinstance(m, annotated_types.Ge)), None)  # type: ignore[arg-type]
            high = next((float(m.le) for m in bounds if isinstance(m, annotated_types.Le)), None)  # type: ignore[arg-type]
            rest = tuple(m for m in info.metadata if m not in bounds)
            annotation = typing.Annotated[info.annotation, *rest] if rest else info.annotation
            beside = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            yield Setting((*prefix, name), annotation, default, info.description or "", low, high, beside)
        return
    hints = typing.get_type_hints(model)
    for field in dataclasses.fields(model):  # type: ignore[arg-type]
        default = field.default if field.default_factory is MISSING else field.default_factory()
        low, high = field.metadata.get("range", (None, None))
        help = str(field.metadata.get("help", ""))
        yield Setting((*prefix, field.name), hints[field.name], default, help, low, high, field.metadata)


def build(model: type, values: dict[Path, Any], prefix: Path = ()) -> Any:
    """An instance of the tree from parsed values by path; what is not given keeps its default.

    Raises pydantic's ValidationError or ValueError for what only a whole section can check.
    """
    arguments = {}
    for setting in _fields(model, prefix):
        if is_section(setting.annotation):
            arguments[setting.path[-1]] = build(setting.annotation, values, setting.path)
        elif setting.path in values:
            arguments[setting.path[-1]] = values[setting.path]
    return model(**arguments)
