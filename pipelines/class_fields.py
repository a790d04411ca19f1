"""What single values of a class set file must be; errors name the entry and what to change."""

import difflib
import re
from collections.abc import Mapping

from models.palette import default_color

MAX_ID = 65534  # 65535 marks a pixel without a class in a 16-bit class map
Color = tuple[int, int, int]


class ClassSetError(ValueError):
    """The class set cannot be used; the message says which entry and what to change."""


def plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def check_keys(data: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1, 0.4)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
            raise ClassSetError(f"unknown key {key!r} in {where}{hint}")


def name_of(value: object, where: str) -> str:
    """A name, prompt, synonym or word. YAML reads `no` and `7` as something else than text."""
    if not isinstance(value, str):
        raise ClassSetError(f"{where}: expected text, not {value!r} (in YAML, write it in quotes)")
    if not value.strip():
        raise ClassSetError(f"{where}: the text is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ClassSetError(f"{where}: {value!r} is not valid Unicode") from error
    return value.strip()


def names_of(value: object, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise ClassSetError(f"{where}: expected a list of texts, not {value!r}")
    return tuple(dict.fromkeys(name_of(item, where) for item in values))


def id_of(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ID:
        raise ClassSetError(f"{where}: the id {value!r} is not a whole number in 0..{MAX_ID}")
    return value


def color_of(value: object, id: int, where: str) -> Color:
    if value is None:
        return default_color(id)
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list | tuple) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    raise ClassSetError(f'{where}: a color is "#rrggbb" or three numbers in 0..255, not {value!r}')
