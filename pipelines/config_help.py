"""What --help prints."""

import shutil
import textwrap
from typing import Any

from pydantic import BaseModel

from pipelines.config_schema import DURATION, MISSING, Path, Setting, sections, settings

COLUMN = 34


def help_text(model: type, prog: str, description: str, section: str = "") -> str:
    """All settings by section, with spelling, meaning, range and default; or those of one section."""
    width = min(max(shutil.get_terminal_size((120, 40)).columns, 72), 140)
    by_section = {path: _own(model, path) for path in sections(model)}
    chosen = tuple(section.lstrip("-").replace("-", "_").split(".")) if section else ()
    if section and chosen in by_section:
        return "\n\n".join(_group(model, p, by_section[p], width) for p in by_section if p[: len(chosen)] == chosen)
    required = " ".join(f"--{s.name} {s.kind}" for s in settings(model).values() if s.default is MISSING)
    parts = [
        f"usage: {prog} {required} [--config FILE.yaml] [--section.key VALUE ...]".replace("  ", " "),
        description.strip(),
        _sources(model, width),
    ]
    parts += [_group(model, path, group, width) for path, group in by_section.items() if group]
    return "\n\n".join(parts)


def _sources(model: type, width: int) -> str:
    nested = next((path for path in settings(model) if len(path) > 1), None)
    text = (
        "Settings come from a YAML file (--config FILE_OR_URL, sections as mappings), then from environment variables, "
        "then from flags; the later wins. "
    )
    if nested:
        text += (
            f"The same three times:  {nested[0]}: {{{nested[-1]}: ...}}   MASKSTREAM_{'__'.join(nested).upper()}=...   "
            f"--{'.'.join(nested)} ...  "
        )
    top = [path[0] for path in sections(model) if len(path) == 1]
    text += "Lists have commas between. " + (f"--help SECTION shows one section: {', '.join(top)}." if top else "")
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _own(model: type, section: Path) -> list[Setting]:
    return [s for path, s in settings(model).items() if path[:-1] == section]


def _group(model: type, path: Path, group: list[Setting], width: int) -> str:
    kind = sections(model)[path]
    about = (
        ""
        if kind.__doc__ == BaseModel.__doc__
        else (kind.__doc__ or "").strip().split("\n")[0].split(". ")[0].rstrip(".")
    )
    title = f"{'.'.join(path)}: {about}" if path else "settings:"
    return "\n".join([title, *(_line(setting, width) for setting in group)])


def _line(setting: Setting, width: int) -> str:
    head = f"  --{setting.name}" + ("" if setting.is_flag and setting.default is False else f" {setting.kind}")
    notes = [note for note in (setting.range_text, _default(setting)) if note]
    body = f"{setting.help.rstrip('.')}" + (f" [{'; '.join(notes)}]" if notes else "")
    indent = " " * COLUMN
    if len(head) >= COLUMN - 1:
        return head + "\n" + textwrap.fill(body, width, initial_indent=indent, subsequent_indent=indent)
    return textwrap.fill(f"{head:<{COLUMN}}{body}", width, subsequent_indent=indent, drop_whitespace=True)


def _default(setting: Setting) -> str:
    value: Any = setting.default
    if value is MISSING:
        return "required"
    if value is None or value is False or value in ("", (), []):
        return ""
    if not isinstance(value, str | int | float | tuple | list):
        return ""
    if isinstance(value, tuple | list):
        value = ",".join(map(str, value))
    elif setting.kind == DURATION and not isinstance(value, str):
        value = setting.shown(value)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        value = f"{value:,}"
    return f"default {value}".lower() if isinstance(value, bool) else f"default {value}"
