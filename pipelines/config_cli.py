"""From YAML, environment and command line to one checked config, or a message that says what to mend.

pydantic-settings is not used: it lets a misspelt environment variable pass, ends ill-typed values in a traceback, and
names no nearest key. Types and their conversion are pydantic's.
"""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from pipelines.config_help import help_text
from pipelines.config_schema import MISSING, Path, build, sections, settings

ENV_PREFIX = "MASKSTREAM_"
ENV_RESERVED = frozenset({"MASKSTREAM_REQUIRE", "MASKSTREAM_CACHE"})  # of the tests, and of the model cache
# Stored beside the config of a run, so that its config.yaml can be given to --config as it is.
FILE_KEYS_IGNORED = frozenset({"digests"})
REGISTERED_CONFIG = "decide.yaml"  # What a model of the registry is that --config can take.
TRUE_OR_FALSE = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})


class UsageError(Exception):
    """What the user asked for cannot be done as asked; the message says what to change."""


@dataclass
class _Reader:
    """Collects values by path, the later over the earlier, and everything that is wrong with them."""

    model: type
    values: dict[Path, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def put(self, path: Path, value: Any, origin: str, is_text: bool) -> None:
        setting = settings(self.model).get(path)
        if setting is None:
            self.errors.append(f"{origin}: {self._unknown(path)}")
            return
        try:
            self.values[path] = setting.parse_text(value) if is_text else setting.parse(value)
        except ValueError as error:
            named = f"{origin}: {error}" if is_text else f"{origin}: {setting.name}: {error}"
            self.errors.append(named)

    def _unknown(self, path: Path) -> str:
        name = ".".join(path)
        if path in sections(self.model):
            inside = [".".join(p) for p in settings(self.model) if p[: len(path)] == path]
            return f"{name} is a section, not a value; it has {', '.join(inside[:6])}"
        close = nearest(path, settings(self.model))
        return f"unknown setting {name!r}" + (f"; did you mean {close}?" if close else " (see --help)")


def nearest(path: Path, known: Iterable[Path]) -> str | None:
    """The setting most like an unknown one: the same word in another section, or a similar spelling."""
    names = {".".join(p): p for p in known}
    wanted = ".".join(path)
    if same := [name for name, p in names.items() if p[-1] == path[-1]]:
        return max(same, key=lambda name: difflib.SequenceMatcher(None, wanted, name).ratio())
    if close := difflib.get_close_matches(wanted, names, 1, 0.7):
        return close[0]
    last = {p[-1]: name for name, p in names.items()}
    close = difflib.get_close_matches(path[-1], last, 1, 0.6)
    return last[close[0]] if close else None


def parse(
    model: type,
    argv: Sequence[str] | None,
    env: Mapping[str, str],
    prog: str,
    description: str,
    env_known: Iterable[type] = (),
) -> Any:
    """An instance of `model`. On --help and on errors the process ends, with exit code 0 and 2.

    env_known: models of other jobs, whose environment variables are none of our business.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    reader = _Reader(model)
    try:
        flags = list(_flags(model, arguments))
    except UsageError as error:
        _stop(prog, [str(error)])
    if help_flags := [value for name, value in flags if name in ("help", "h")]:
        with contextlib.suppress(BrokenPipeError):  # --help | head
            print(help_text(model, prog, description, help_flags[0]), flush=True)
        raise SystemExit(0)
    for name, value in flags:
        if name == "config":
            _read_file(reader, value, _registry(flags, env))
    _read_env(reader, env, env_known)
    for name, value in flags:
        if name != "config":
            reader.put(_path(name), value, f"--{name}", is_text=True)
    if not reader.errors:
        _require(reader)
        reader.errors += _blanked(reader.values)
    if reader.errors:
        _stop(prog, reader.errors)
    try:
        return build(model, reader.values)
    except ValidationError as error:
        _stop(
            prog, [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        )
    except ValueError as error:
        _stop(prog, [str(error)])


def _blanked(values: Mapping[Path, Any]) -> Iterator[str]:
    """A run's config.yaml says no password; whoever gives it back has to."""
    for path, value in values.items():
        if isinstance(value, str) and ":***@" in value:
            yield f"{'.'.join(path)}: {value} was written without its password; give the whole address"


def _stop(prog: str, errors: Iterable[str]) -> NoReturn:
    for error in dict.fromkeys(errors):
        print(f"{prog}: error: {error}", file=sys.stderr)
    print(f"{prog} --help lists every setting", file=sys.stderr)
    raise SystemExit(2)


def _path(name: str) -> Path:
    return tuple(name.replace("-", "_").split("."))


def _flags(model: type, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name without dashes, text) of "--name text", "--name=text" and, for switches, "--name"."""
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") and token != "-h":
            raise UsageError(f"{token!r} stands alone: every value follows a --flag (quote values with spaces)")
        name, equals, text = token.lstrip("-").partition("=")
        if name in ("help", "h"):
            yield "help", rest[0] if rest and not rest[0].startswith("-") else ""
            return
        setting = settings(model).get(_path(name))
        if equals:
            yield name, text
        elif setting is not None and setting.is_flag:
            yield name, rest.pop(0) if rest and rest[0].lower() in TRUE_OR_FALSE else "true"
        elif rest and not rest[0].startswith("--"):
            yield name, rest.pop(0)
        elif setting is None and name != "config":
            yield name, ""  # reported as unknown, with the nearest name
        else:
            raise UsageError(f"--{name} needs a value (one that begins with -- is written --{name}=VALUE)")


def _read_env(reader: _Reader, env: Mapping[str, str], others: Iterable[type]) -> None:
    foreign = {path for model in others for path in settings(model)} - set(settings(reader.model))
    for name, text in sorted(env.items()):
        if not name.upper().startswith(ENV_PREFIX) or name in ENV_RESERVED or not text:
            continue
        path = tuple(name[len(ENV_PREFIX) :].lower().split("__"))
        if path not in foreign:
            reader.put(path, text, f"environment variable {name}", is_text=True)


def _registry(flags: Sequence[tuple[str, str]], env: Mapping[str, str]) -> tuple[str, str]:
    """(tracking URI, output) as flags and environment give them, to find the registry that a --config is in."""
    given = {_path(name): text for name, text in flags}

    def told(*path: str) -> str:
        return given.get(path) or env.get(ENV_PREFIX + "__".join(path).upper(), "")

    return told("tracking", "uri"), told("output")


def _registered(reference: str, registry: tuple[str, str]) -> str:
    """The file behind `models:/NAME@ALIAS`. Raises ModelReferenceError."""
    from pipelines.references import resolve_file
    from pipelines.tracking_names import choose_store

    uri, output = registry
    return str(resolve_file(reference, REGISTERED_CONFIG, tracking_uri=choose_store(uri, output or ".")[0]))


def _read_file(reader: _Reader, address: str, registry: tuple[str, str]) -> None:
    from pipelines.corpus.read import read_bytes

    try:
        if address.startswith("models:"):
            address = _registered(address, registry)
    except ValueError as error:
        reader.errors.append(f"--config: {error}")
        return
    try:
        loader = yaml.SafeLoader(read_bytes(address).decode("utf-8-sig"))
        node = loader.get_single_node()
        lines = dict(_lines(node, ()))
        value = None if node is None else loader.construct_document(node)
    except FileNotFoundError:
        reader.errors.append(f"--config: there is no file {address}")
        return
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: of text that is none, and of paths
        reader.errors.append(f"--config {address}: {error}")
        return
    if value is not None and not isinstance(value, dict):
        reader.errors.append(f"--config {address}: expected a mapping of settings, not {type(value).__name__}")
        return
    for key in FILE_KEYS_IGNORED:
        (value or {}).pop(key, None)
    _put_tree(reader, value or {}, (), address, lines)


def _put_tree(reader: _Reader, tree: Mapping[Any, Any], above: Path, address: str, lines: Mapping[Path, int]) -> None:
    for key, value in tree.items():
        path = (*above, *_path(str(key)))
        line = lines.get((*above, str(key)))
        origin = f"{address}, line {line}" if line else address
        if path in sections(reader.model) and (value is None or isinstance(value, dict)):
            _put_tree(reader, value or {}, path, address, lines)
        else:
            reader.put(path, value, origin, is_text=False)


def _lines(node: Any, above: Path) -> Iterator[tuple[Path, int]]:
    """(path, line from 1) of every key. Raises YAMLError where a mapping gives a key twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if key.value in seen:
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice")
        seen.add(key.value)
        path = (*above, str(key.value))
        yield path, key.start_mark.line + 1
        yield from _lines(value, path)


def _require(reader: _Reader) -> None:
    for path, setting in settings(reader.model).items():
        if setting.default is MISSING and path not in reader.values:
            reader.errors.append(f"--{setting.name} is missing: {setting.help}")
