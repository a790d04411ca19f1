"""What a search leaves: settings for a job's --config, and its numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines import storage


def write_yaml(path: Path | str, settings: Mapping[str, Any], comments: Sequence[str]) -> None:
    """A file that a job's --config takes; settings: plain values. The comments stand above them, a line each."""
    head = "".join(f"# {line}\n" for line in comments)
    storage.write_bytes(str(path), (head + yaml.safe_dump(dict(settings), sort_keys=False)).encode())


def write_json(path: Path | str, value: Any) -> None:
    storage.write_bytes(str(path), (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
